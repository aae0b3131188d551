"""Searches as processes of their own, killed in the middle."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from command import Process

from keras_switcher.machine import free_ports

TINY = (
    *("--model", "lenet300", "--dataset", "mnist5k", "--limit", "300", "--width", "0.1"),
    *("--batch-size", "32", "--max-epochs", "3", "--switcher", "unit"),
)


class Tuning(Process):
    program = ("-m", "keras_switcher.tuning")

    def __init__(self, *flags, cwd, **environment):
        environment = {"TF_NUM_INTRAOP_THREADS": "1", **environment}
        super().__init__("--out", "search", *TINY, *flags, cwd=cwd, **environment)


def trials(folder: Path) -> list[dict[str, str]]:
    with open(folder / "search" / "trials.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_times(folder: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trials(folder)]


def search(*flags, cwd):
    process = Tuning(*flags, cwd=cwd)
    status = process.wait()
    assert status == 0, process.output
    return process


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search of four trials that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, search("--trials", "4", cwd=folder)


@pytest.mark.slow
def test_a_search_leaves_what_it_promises(whole):
    folder, process = whole
    out = folder / "search"
    assert process.lines[0].startswith("1/4  trial 0  1 epoch  validation ")
    assert "best" in process.lines[0]
    assert any(line.startswith("Best: trial ") for line in process.lines)
    rows = trials(folder)
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3"]
    assert {row["epochs"] for row in rows} == {"1", "3"}
    best = json.loads((out / "best.json").read_text())
    largest = [row for row in rows if row["epochs"] == "3"]
    assert best["objective"] == max(float(row["objective"]) for row in largest)
    assert abs(best["sparsity"] - 0.95) < 0.01
    assert 0 < best["test_accuracy"] <= 1
    assert "<svg" in (out / "report.html").read_text()
    # The model of the best trial alone is kept.
    weights = list(out.glob("trials/trial_*/model.keras"))
    assert [path.parent.name for path in weights] == [f"trial_{best['trial']}"]
    plan = yaml.safe_load((out / "search.yaml").read_text())
    assert plan["space"]["warmup"] == {
        "min": 0.0,
        "max": 0.3,
        "sampling": "linear",
        "kind": "float",
    }


@pytest.mark.slow
def test_train_takes_the_best_configuration_as_it_is(whole, train_here, tmp_path):
    folder, _ = whole
    flags = ("--config", folder / "search" / "best.yaml", "--epochs", "1", "--run-dir", "run")
    status, output = train_here(*flags, "--no-dense-baseline")
    assert status == 0, output
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    values = json.loads((folder / "search" / "best.json").read_text())["values"]
    for name in ("gate", "task_steps", "warmup", "multiplier_rate", "switcher_optimizer"):
        assert config[name] == values[name]
    assert len(config["switcher_hidden"]) == values["unit_depth"]


@pytest.mark.slow
def test_tensorboard_shows_the_hyperparameters_of_each_trial(whole):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    folder, _ = whole
    row = trials(folder)[0]
    board = EventAccumulator(str(folder / "search" / "tensorboard" / row["trial"] / "execution0"))
    board.Reload()
    content = board.PluginTagToContent("hparams")
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    assert start.session_start_info.hparams["gate"].string_value == row["hp:gate"]
    warmup = start.session_start_info.hparams["warmup"].number_value
    assert warmup == pytest.approx(float(row["hp:warmup"]))


@pytest.mark.slow
@pytest.mark.endurance
def test_a_search_that_was_stopped_and_killed_ends_as_one_that_was_not(whole, tmp_path):
    process = Tuning("--trials", "4", cwd=tmp_path)
    process.wait_for_line("1/4")
    assert process.send(signal.SIGINT) == 130
    assert "Nothing is lost: go on with the same command." in process.output
    assert "Traceback" not in process.output
    assert (tmp_path / "search" / "report.html").exists()

    process = Tuning("--trials", "4", cwd=tmp_path)
    process.wait_for_line("Going on after 1 of 4 trials.", "2/4")
    # In the middle of the third trial.
    time.sleep(1.0)
    assert process.send(signal.SIGKILL) == -signal.SIGKILL

    again = search("--trials", "4", cwd=tmp_path)
    assert again.lines[0] == "Going on after 2 of 4 trials."
    assert without_times(tmp_path) == without_times(whole[0])
    first, second = (
        json.loads((folder / "search" / "best.json").read_text()) for folder in (tmp_path, whole[0])
    )
    assert first == second


def process_of(name: str, launcher: int) -> int:
    """Return the number of a launcher's process."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            f"KERASTUNER_TUNER_ID={name}".encode() in variables
            and f"KERAS_SWITCHER_TUNING_LAUNCHER={launcher}".encode() in variables
        ):
            return int(path.parent.name)
    raise AssertionError(f"There is no process {name}.")


@pytest.mark.slow
def test_a_mistake_that_workers_find_is_told_alone_and_leaves_no_search(tmp_path):
    flags = ("--trials", "2", "--workers", "2", "--batch-size", "5000")
    process = Tuning(*flags, cwd=tmp_path)
    assert process.wait() == 2
    assert "Expected --batch-size to be at most" in " ".join(process.output.split())
    assert "Stopped by" not in process.output and "Nothing is lost" not in process.output
    assert {path.name for path in (tmp_path / "search").iterdir()} <= {".lock"}


@pytest.mark.slow
@pytest.mark.endurance
def test_whichever_process_is_killed_no_trial_is_lost_and_none_runs_twice(tmp_path):
    flags = ("--trials", "5", "--workers", "2")
    process = Tuning(*flags, cwd=tmp_path)
    process.wait_for_line("1/5")
    # A worker: it is started again, and the search goes on.
    os.kill(process_of("tuner1", process.number), signal.SIGKILL)
    process.wait_for_line("[tuning] Worker tuner1 was killed by SIGKILL: starting it again.")
    # Another trial may have ended before that line, or after it.
    process.wait_for_line("2/5")
    # The chief: all end.
    worker = process_of("tuner0", process.number)
    os.kill(process_of("chief", process.number), signal.SIGKILL)
    assert process.wait() == 128 + signal.SIGKILL
    assert "Nothing is lost: go on with the same command." in process.output
    assert not Path(f"/proc/{worker}").exists()
    ended = trials(tmp_path)
    assert len(ended) >= 2

    # The launcher: all end, too.
    process = Tuning(*flags, cwd=tmp_path)
    process.wait_for_line(f"Going on after {len(ended)} of 5 trials.")
    members = [process_of(name, process.number) for name in ("chief", "tuner0", "tuner1")]
    process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{member}").exists() for member in members):
        assert time.monotonic() < deadline
        time.sleep(0.2)

    # As on several machines: by the variables of Keras Tuner, without the launcher.
    address = {
        "KERASTUNER_ORACLE_IP": "127.0.0.1",
        "KERASTUNER_ORACLE_PORT": str(free_ports(1)[0]),
    }
    cluster = [
        Tuning("--trials", "5", cwd=tmp_path, KERASTUNER_TUNER_ID=name, **address)
        for name in ("tuner0", "tuner1", "chief")
    ]
    assert [process.wait() for process in cluster] == [0, 0, 0], [p.output for p in cluster]
    rows = trials(tmp_path)
    assert sorted(row["trial"] for row in rows) == ["0", "1", "2", "3", "4"]
    assert {row["status"] for row in rows} == {"COMPLETED"}
    # What had ended has not run again.
    assert rows[: len(ended)] == ended
    assert {row["worker"] for row in rows} == {"tuner0", "tuner1"}
    assert (tmp_path / "search" / "best.json").exists()
