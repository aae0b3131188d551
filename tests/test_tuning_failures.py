"""Searches in this process, some of whose trials fail."""

import csv
import errno
import io
import json
import os
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from command import SMALL
from rich.console import Console

from keras_switcher import SwitchedModel
from keras_switcher.checks import ConfigError
from keras_switcher.files import RunError, WriteError
from keras_switcher.signals import StopSignals
from keras_switcher.tuning import oracles
from keras_switcher.tuning.command import plan_of
from keras_switcher.tuning.folder import open_folder
from keras_switcher.tuning.search import Search, TooManyFailures
from keras_switcher.tuning.spread import Place
from keras_switcher.tuning.trials import TrialModel


@pytest.fixture
def search_here(tmp_path, monkeypatch):
    """Runs a search some of whose trials fail; returns its `best.json` and what it showed."""
    fit = TrialModel.fit

    def search(*flags, failing=()):
        def sometimes(self, *args, **kwargs):
            if self.folder.name in failing:
                raise ValueError("The machine is on fire.")
            return fit(self, *args, **kwargs)

        monkeypatch.setattr(TrialModel, "fit", sometimes)
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        flags = ["--out", str(tmp_path / "out"), *SMALL, "--max-epochs", "1", *flags]
        shown = io.StringIO()
        console = Console(file=shown, width=200)
        options, plan = plan_of(["--oracle", "random", "--no-deterministic", *flags])
        with open_folder(plan, options.out, overwrite=False):
            found = Search(plan, options.out, Place(), console, StopSignals()).run()
        return found, shown.getvalue()

    return search


def test_a_failed_trial_is_told_and_the_search_goes_on(search_here, tmp_path):
    found, shown = search_here("--trials", "3", "--switcher", "unit", failing=["trial_1"])
    assert found["trial"] in ("0", "2")
    assert "2/3  trial 1  failed" in shown
    with open(tmp_path / "out" / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert rows[1]["epochs"] == "1" and rows[1]["objective"] == ""
    kept = json.loads((tmp_path / "out" / "trials" / "trial_1" / "result.json").read_text())
    assert kept["error"] == "ValueError: The machine is on fire."
    assert "1 failed" in (tmp_path / "out" / "report.html").read_text()


def test_three_failures_end_the_search_with_the_reason_and_it_can_go_on(search_here):
    every = [f"trial_{index}" for index in range(4)]
    with pytest.raises(
        TooManyFailures, match="3 trials have failed.*ValueError: The machine is on"
    ):
        search_here("--trials", "4", "--switcher", "unit", failing=every)
    found, shown = search_here("--trials", "4", "--switcher", "unit")
    assert found["trial"] == "3"
    assert "Going on after 3 of 4 trials." in shown


def test_a_search_that_goes_on_forgets_the_best_of_fewer_trials(search_here, tmp_path):
    search_here("--trials", "1", "--switcher", "unit")
    assert (tmp_path / "out" / "best.json").exists()
    with pytest.raises(TooManyFailures):
        every = [f"trial_{index}" for index in range(1, 4)]
        search_here("--trials", "5", "--switcher", "unit", failing=every)
    assert not (tmp_path / "out" / "best.json").exists()
    assert (tmp_path / "out" / "best.yaml").exists()


def test_a_space_that_is_exhausted_is_told(search_here, tmp_path):
    space = tmp_path / "space.yaml"
    fixed = {
        **{"switcher": "unit", "unit_depth": 0, "switcher_activation": "relu", "warmup": 0.1},
        **{"switcher_normalization": "none", "switcher_optimizer": "adam", "task_steps": 4},
        **{"adam_learning_rate": 0.001, "switcher_steps": 1, "settle": 0.4, "ramp": 0.8},
        **{"multiplier_rate": 0.05, "rate_exponent": 0.25},
    }
    space.write_text(json.dumps(fixed))
    found, shown = search_here("--trials", "4", "--space", str(space))
    assert "Nothing new is left to try after 2 of 4 trials" in shown
    assert "No trial has had all" not in shown
    assert set(found["values"]) == {"gate"}
    with pytest.raises(ConfigError, match="Expected --trials to be at least 2"):
        search_here("--trials", "1", "--space", str(space))

    # The lowest rung of Hyperband takes more combinations than there are.
    rungs = ("--oracle", "hyperband", "--max-epochs", "9", "--out", str(tmp_path / "rungs"))
    found, shown = search_here("--trials", "4", "--space", str(space), *rungs)
    assert found["epochs"] == 1
    assert "No trial has had all 9 epochs, so the best one is that of a training of 1 ep" in shown
    space.write_text(json.dumps({**fixed, "gate": "step"}))
    rungs = (*rungs[:-1], str(tmp_path / "nothing"))
    with pytest.raises(TooManyFailures, match="No trial was begun: the search space has too"):
        search_here("--trials", "4", "--space", str(space), *rungs)


def test_a_search_without_a_best_trial_says_why_and_has_a_report(search_here, tmp_path):
    with pytest.raises(TooManyFailures, match=r"2 diverged\. Take a lower --learning-rate"):
        search_here("--trials", "2", "--learning-rate", "1e30", "--optimizer", "sgd")
    assert "no trial has come to its end" in (tmp_path / "out" / "report.html").read_text()


def test_a_damaged_trial_is_named(search_here, tmp_path):
    search_here("--trials", "1", "--switcher", "unit")
    trial = tmp_path / "out" / "trials" / "trial_0" / "trial.json"
    for content in (trial.read_bytes()[:40], b"", b"[]"):
        trial.write_bytes(content)
        with pytest.raises(RunError, match=r"trial_0/trial.json to hold a trial.*--overwrite"):
            search_here("--trials", "2", "--switcher", "unit")


def test_what_a_chief_has_made_is_left_to_its_workers(tmp_path):
    plan = plan_of(["--out", str(tmp_path), *SMALL])[1]
    for alone in (False, True):
        with pytest.raises(ConfigError), open_folder(plan, tmp_path / "out", False, alone=alone):
            (tmp_path / "out" / "logs").mkdir(exist_ok=True)
            raise ConfigError("no such network")
        assert (tmp_path / "out" / "logs").is_dir()
        assert (tmp_path / "out" / "search.yaml").exists()
    # That of a chief was there already.
    with pytest.raises(ConfigError), open_folder(plan, tmp_path / "new", False):
        raise ConfigError("no such network")
    assert not (tmp_path / "new" / "search.yaml").exists()


def test_a_network_that_can_not_be_built_leaves_no_search(search_here, tmp_path):
    with pytest.raises(ConfigError, match="fc_units"):
        search_here("--trials", "2", "--fc-units", "64")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {".lock"}
    assert search_here("--trials", "1")[0]["trial"] == "0"


def raising(error):
    def fail(*args, **kwargs):
        raise error

    return fail


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
QUOTA = tf.errors.ResourceExhaustedError(None, None, "x; Disk quota exceeded")
IN_TENSORBOARD = tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")


@pytest.mark.parametrize(
    ("writer", "name", "error", "path"),
    [
        (SwitchedModel, "save", NO_SPACE, "trials/trial_0/model.keras"),
        (keras.callbacks.TensorBoard, "on_epoch_end", IN_TENSORBOARD, "tensorboard"),
        (keras.callbacks.TensorBoard, "on_epoch_end", QUOTA, "tensorboard"),
        (Path, "mkdir", NO_SPACE, "trials/trial_0"),
        (oracles, "write_text", NO_SPACE, "trials/trial_0/trial.json"),
    ],
)
def test_a_full_disk_uses_up_no_trial(
    search_here, tmp_path, monkeypatch, writer, name, error, path
):
    flags = ("--trials", "2", "--switcher", "unit")
    with monkeypatch.context() as patched:
        if writer is Path:
            make, make_trial = Path.mkdir, raising(error)
            patched.setattr(
                Path,
                "mkdir",
                lambda self, **options: (make_trial if self.name == "trial_0" else make)(
                    self, **options
                ),
            )
        elif writer is oracles:
            patched.setattr(writer, name, raising(WriteError(tmp_path / path, error)))
        else:
            patched.setattr(writer, name, raising(error))
        with pytest.raises(RunError, match=f"The disk is full: could not write .*{path}") as told:
            search_here(*flags)
    assert told.value.exit_status == 1
    found, shown = search_here(*flags)
    assert found["trial"] in ("0", "1")
    assert "2/2" in shown and "failed" not in shown


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("trials/oracle.json", "oracle.json to hold the state of its trials"),
        ("trials/trial_0/trial.json", "oracle.json to hold the state of its trials"),
        ("trials/trial_0/result.json", "result.json to hold the result of a trial"),
        ("trials/trial_0/model.keras", "model.keras to hold the model of the best trial"),
    ],
)
def test_what_is_missing_or_damaged_is_named(search_here, tmp_path, file, named):
    flags = ("--trials", "1", "--switcher", "unit")
    search_here(*flags)
    (tmp_path / "out" / "best.json").unlink()
    path = tmp_path / "out" / file
    content = path.read_bytes()[:200]
    path.unlink()
    if path.name != "result.json":
        with pytest.raises(RunError, match=f"{named}.*Received: .*file. Start again with --overwr"):
            search_here(*flags)
    path.write_bytes(content)
    if path.name != "trial.json":
        with pytest.raises(RunError, match=f"{named}.*Received: a damaged file"):
            search_here(*flags)


def test_a_lost_best_model_is_told_before_more_are_trained(search_here, tmp_path):
    search_here("--trials", "1", "--switcher", "unit")
    (tmp_path / "out" / "trials" / "trial_0" / "model.keras").unlink()
    with pytest.raises(RunError, match=r"model.keras to hold the model of the best trial"):
        search_here("--trials", "2", "--switcher", "unit")
    assert not (tmp_path / "out" / "trials" / "trial_1").exists()


def test_a_damaged_best_is_found_again(search_here, tmp_path):
    found, _ = search_here("--trials", "1", "--switcher", "unit")
    best = tmp_path / "out" / "best.json"
    for content in ("", "[]", best.read_text()[:30]):
        best.write_text(content)
        assert search_here("--trials", "1", "--switcher", "unit")[0] == found
    assert json.loads(best.read_text()) == found
