"""What a run of `train.py` leaves in its folder: looked at, compared, and cut short."""

import csv
import io
import json
import os

import keras
import numpy as np
import yaml
from command import SMALL

from keras_switcher.config import from_values, to_values
from keras_switcher.flags import resolve

LEFT = {
    *("config.yaml", "model.keras", "stripped.keras", "history.csv", "tensorboard"),
    *("summary.json", "report.html"),
}


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def rows_of(folder, name="history.csv"):
    return list(csv.DictReader(io.StringIO((folder / name).read_text())))


def same(first, second):
    """Compare two finished runs in all but the time they took."""

    def loaded(path):
        # Keras wraps an optimiser for float16 by the policy of the process that loads it.
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(
            yaml.safe_load((first / "config.yaml").read_text())["precision"]
        )
        try:
            return keras.saving.load_model(path)
        finally:
            keras.config.set_dtype_policy(policy)

    def saved_variables(model):
        # Not the seeds of dropout, which a .keras file does not hold.
        optimizers = [getattr(model, n, None) for n in ("optimizer", "switcher_optimizer")]
        return [*model.weights, *(v for o in optimizers if o is not None for v in o.variables)]

    assert {p.name for p in first.iterdir()} == {p.name for p in second.iterdir()}
    for name in ("history.csv", "dense_history.csv"):
        if (first / name).exists():
            one, other = rows_of(first, name), rows_of(second, name)
            assert [{**row, "seconds": 0} for row in one] == [
                {**row, "seconds": 0} for row in other
            ]
    ours, theirs = summary_of(first), summary_of(second)
    for summary in (ours, theirs):
        del summary["seconds"], summary["dense_seconds"]
    assert ours == theirs
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    for name in ("model.keras", "stripped.keras"):
        one, other = (loaded(folder / name) for folder in (first, second))
        mine, yours = saved_variables(one), saved_variables(other)
        assert len(mine) > 0
        for value, expected in zip(mine, yours, strict=True):
            np.testing.assert_array_equal(value, expected)


class Killed(BaseException):
    """Ends a run in this process as `kill -9` would."""


def dies_at(monkeypatch, folder, name, after=False):
    """Let the run in a folder die before or after it first replaces a file of that name."""
    replace = os.replace
    names = []

    def watched(source, target):
        here = str(target).startswith(str(folder))
        names.extend([os.path.basename(target)] if here else [])
        if here and names[-1] == name and not after:
            raise Killed
        replace(source, target)
        if here and names[-1] == name:
            raise Killed

    monkeypatch.setattr(os, "replace", watched)
    return names


def config_for(folder, **options):
    values = to_values(resolve([*SMALL, "--no-deterministic"]))
    return from_values({**values, "run_dir": str(folder), **options})
