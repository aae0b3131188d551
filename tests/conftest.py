import collections
import gc
import os

# What XLA compiles here runs for a few steps: a quick compilation is worth more than a quick step.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

# What TensorFlow writes is what users see, whatever this shell would have of it.
os.environ.pop("TF_CPP_MIN_LOG_LEVEL", None)

import keras
import pytest
from command import offline
from hypothesis import HealthCheck, settings

import keras_switcher.compare.methods  # noqa: F401, registers them
from keras_switcher import gates, granularity, switchers
from keras_switcher.compare.method import registry as methods
from keras_switcher.data import DATASETS
from keras_switcher.models import MODELS
from keras_switcher.training import main

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_modifyitems(items):
    """Put the files with the most slow tests first: else one process ends long after the others."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="module", autouse=True)
def _left_behind():
    """Leave out of later collections of garbage what a file has left: seconds for each of them."""
    yield
    keras.backend.clear_session()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_registered_stays(monkeypatch):
    """What a test registers is not there for those after it."""
    registries = (switchers.registry, gates.registry, granularity.registry, methods)
    for registry in (*registries, DATASETS, MODELS):
        monkeypatch.setattr(registry, "_items", dict(registry._items))


@pytest.fixture
def train_here(tmp_path, monkeypatch, capsys):
    """Runs the command in this process; returns its exit status and what it wrote, in one line.

    Without --deterministic, which can't be turned off again in a process.
    """
    for name, value in offline(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def train(*flags):
        capsys.readouterr()
        try:
            status = main([*map(str, flags), "--no-deterministic"])
        except SystemExit as left:
            status = left.code
        written = "".join(capsys.readouterr())
        assert "Traceback" not in written
        return status, " ".join(written.split())

    return train
