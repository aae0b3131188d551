"""Runs that die at any of their files end with the numbers of one that did not."""

import os
import subprocess
import sys

import pytest
from command import ROOT, offline
from run_folders import LEFT, Killed, config_for, dies_at, same

from keras_switcher import networks
from keras_switcher.training import train


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, pytest.param(1, marks=pytest.mark.endurance)])
def test_run_that_dies_around_its_files_ends_with_the_same_numbers(step, tmp_path, monkeypatch):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with monkeypatch.context() as patch:
        names = dies_at(patch, whole, "none")
        train(config_for(whole))
    files = list(dict.fromkeys(names))
    assert {"model.keras", "stripped.keras", "history.csv", "dense_history.csv"} <= set(files)
    assert {"switched-00002.checkpoint", "dense-00002.checkpoint"} <= set(files)
    assert (files[0], files[-1]) == ("config.yaml", ".finished")

    # Each attempt comes a file or two further than the one before it did.
    for number, name in enumerate(files[::step]):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            dies_at(patch, torn, name, after=number % 2 == 1)
            train(config_for(torn, resume=True))
    train(config_for(torn, resume=True))

    same(torn, whole)


VARIANTS = {
    "other": {
        "precision": "mixed_float16",
        "granularity": "unit",
        "gate": "relu_tanh",
        "switcher": "connection",
        "switcher_hidden": (8,),
        "lr_schedule": "constant",
        "weight_decay": 1e-3,
        "target_sparsity": 0.5,
        "steps_per_execution": 4,
    },
    "no_target": {"target_sparsity": None, "jit": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=pytest.mark.endurance) for name in VARIANTS]
)
def test_resumed_run_of_another_kind_ends_with_the_same_numbers(variant, tmp_path, monkeypatch):
    options = {"dense_baseline": False, **VARIANTS[variant]}
    together = options.get("steps_per_execution", 1)
    # A training as short as this one has one step in an execution.
    monkeypatch.setattr(networks, "steps_together", lambda config, data: together)
    summary = train(config_for(tmp_path / "whole", **options))
    # Dies with the first epoch's history, so after its checkpoint.
    with monkeypatch.context() as patch, pytest.raises(Killed):
        names = dies_at(patch, tmp_path / "torn", "history.csv")
        train(config_for(tmp_path / "torn", **options))
    assert names == ["config.yaml", "switched-00001.checkpoint", "history.csv"]
    train(config_for(tmp_path / "torn", resume=True, **options))

    same(tmp_path / "torn", tmp_path / "whole")
    assert {path.name for path in (tmp_path / "torn").iterdir()} == LEFT
    assert summary["dense_test_accuracy"] is None
    if summary["target_sparsity"] is not None:
        assert summary["fc_sparsity"] == pytest.approx(summary["target_sparsity"], abs=0.005)


TWO_REPLICAS = """
import functools
import pathlib
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import pytest
from keras_switcher import models
from keras_switcher.config import Config, to_values
from keras_switcher.training import train
from run_folders import Killed, config_for, dies_at, same

here = pathlib.Path(__file__).parent
two = functools.partial(tf.distribute.MirroredStrategy, ["CPU:0", "CPU:1"])
tf.distribute.MirroredStrategy = two
models.build("lenet300", (28, 28, 1), 10, width=0.2).save(here / "start.keras")
options = {"strategy": "mirrored", "dense_baseline": False}
options["init_from"] = str(here / "start.keras")
# The network of the file has its own.
options |= {name: to_values(Config())[name] for name in ("width", "dropout")}
summary = train(config_for(here / "whole", **options))
assert abs(summary["fc_sparsity"] - 0.95) < 0.005, summary
with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
    dies_at(patch, here / "torn", "history.csv")
    train(config_for(here / "torn", **options))
train(config_for(here / "torn", resume=True, **options))
same(here / "torn", here / "whole")
"""


@pytest.mark.slow
@pytest.mark.endurance
def test_run_on_two_replicas_from_a_file_is_resumed_to_the_same_numbers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_REPLICAS)
    paths = [str(ROOT), str(ROOT / "tests")]
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**offline(tmp_path), "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
