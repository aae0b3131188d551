import dataclasses
import math

import numpy as np
import pytest
from made_searches import make_trial

from keras_switcher.tuning.importance import LEAST_TRIALS, importances
from keras_switcher.tuning.space import Range

SPACE = {
    "kind": Range(("unit", "connection")),
    "unit_width": Range((16, 32, 64)),
    "connection_width": Range((4, 8, 16)),
    "rate": Range((), 1e-4, 1e-1, "log"),
    "warmup": Range((), 0.0, 1.0),
    "settle": Range((), 0.0, 1.0),
    "gate": Range(("step", "relu_tanh", "other")),
    "granularity": Range(("connection",)),
}


def search(count, objective, seed=0, budgets=(9,)):
    """Return trials of random hyperparameters, with an objective of these, the budget and noise."""
    random = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        kind = ("unit", "connection")[random.integers(2)]
        values = {
            "kind": kind,
            "unit_width": int(random.choice([16, 32, 64])) if kind == "unit" else None,
            "connection_width": int(random.choice([4, 8, 16])) if kind == "connection" else None,
            "rate": float(10 ** random.uniform(-4, -1)),
            "warmup": float(random.uniform()),
            "settle": float(random.uniform()),
            "gate": ("step", "relu_tanh", "other")[random.integers(3)],
            "granularity": "connection",
        }
        epochs = budgets[number % len(budgets)]
        value = objective(values, epochs) + 0.02 * random.normal()
        trials.append(make_trial(number, float(value), values, epochs))
    return trials


def named(found):
    return {importance.name: importance for importance in found.parameters}


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("rate", lambda values, _: math.log10(values["rate"])),
        ("kind", lambda values, _: values["kind"] == "unit"),
        ("gate", lambda values, _: values["gate"] == "relu_tanh"),
    ],
)
def test_the_one_that_matters_is_found(name, objective):
    found = importances(search(60, objective), SPACE)
    assert found.explains and found.r_squared > 0.5
    first, second = found.parameters[:2]
    assert first.name == name and first.is_told
    assert first.mean > 0.5 and second.mean < 0.1


def test_two_that_interact_are_found():
    found = importances(
        search(150, lambda values, _: (values["warmup"] > 0.5) == (values["settle"] > 0.5)), SPACE
    )
    assert found.explains
    first, second, third = found.parameters[:3]
    assert {first.name, second.name} == {"warmup", "settle"}
    assert second.is_told and second.mean > 5 * third.mean


@pytest.mark.parametrize("seed", range(3))
def test_of_noise_nothing_is_claimed(seed):
    found = importances(search(40, lambda *_: 0.0, seed), SPACE)
    assert found.has_enough_trials
    assert found.r_squared < found.chance
    assert not found.explains


def test_an_inactive_one_takes_nothing_from_the_one_that_decides_on_it():
    # Whether a width is inactive tells the kind as well as the kind itself.
    found = named(importances(search(60, lambda values, _: values["kind"] == "unit"), SPACE))
    assert found["kind"].mean > 0.8
    assert abs(found["unit_width"].mean) < 0.05 and abs(found["connection_width"].mean) < 0.05


def test_one_that_is_inactive_at_times_is_found_where_it_is_active():
    found = importances(search(120, lambda values, _: math.log2(values["unit_width"] or 32)), SPACE)
    assert found.parameters[0].name == "unit_width" and found.parameters[0].is_told
    assert abs(named(found)["connection_width"].mean) < 0.05


def test_how_far_an_outlier_lies_does_not_matter():
    trials = search(40, lambda values, _: math.log10(values["rate"]))
    lowest = sorted(trials, key=lambda trial: trial.objective)[:4]
    far = [
        dataclasses.replace(trial, objective=1000 * trial.objective) if trial in lowest else trial
        for trial in trials
    ]
    order = sorted(lowest, key=lambda trial: 1000 * trial.objective)
    assert order == lowest
    assert importances(far, SPACE) == importances(trials, SPACE)


def test_the_budget_is_not_put_down_to_a_hyperparameter():
    # Only trials of the long budget have a slow rate, as if Hyperband had chosen them.
    trials = [
        dataclasses.replace(trial, values={**trial.values, "rate": trial.values["rate"] * slow})
        for trial in search(60, lambda _, epochs: epochs, budgets=(1, 27))
        for slow in [0.03 if trial.epochs == 27 else 1.0]
    ]
    space = {**SPACE, "rate": Range((), 1e-6, 1e-1, "log")}
    assert not importances(trials, space).explains


def test_same_hyperparameters_are_never_on_both_sides():
    # Each setting with its own noise, at three budgets: known from another budget, not learnt.
    once = search(20, lambda *_: 0.0)
    trials = [
        dataclasses.replace(trial, epochs=epochs, objective=trial.objective + 0.1 * epochs)
        for epochs in (1, 3, 9)
        for trial in once
    ]
    found = importances(trials, SPACE)
    assert (found.trials, found.settings, found.most_at_one_budget) == (60, 20, 20)
    assert not found.explains


def test_same_seed_gives_the_same(monkeypatch):
    monkeypatch.setattr("keras_switcher.tuning.importance._TREES", 10)
    trials = search(20, lambda values, _: values["warmup"])
    first = importances(trials, SPACE)
    assert first == importances(trials, SPACE, seed=0)
    assert first != importances(trials, SPACE, seed=1)


def test_constant_ones_have_no_importance(monkeypatch):
    monkeypatch.setattr("keras_switcher.tuning.importance._TREES", 10)
    trials = [
        dataclasses.replace(trial, values={**trial.values, "gate": None})
        for trial in search(20, lambda values, _: values["warmup"])
    ]
    found = importances(trials, SPACE)
    assert set(found.constant) == {"granularity", "gate"}
    assert set(named(found)) == set(SPACE) - {"granularity", "gate"}


def test_too_few_trials_have_no_importances(monkeypatch):
    monkeypatch.setattr("keras_switcher.tuning.importance._TREES", 10)
    trials = search(3 * LEAST_TRIALS, lambda values, _: values["warmup"])
    few = trials[: LEAST_TRIALS - 1]
    failed = [make_trial(99 + n, None, trial.values) for n, trial in enumerate(few)]
    spread = [dataclasses.replace(t, epochs=3 ** (n % 4)) for n, t in enumerate(trials)]
    alike = [dataclasses.replace(trial, values=trials[0].values) for trial in trials]
    for unclear in ([], few, [*few, *failed], spread, alike):
        found = importances(unclear, SPACE)
        assert not found.has_enough_trials and not found.explains
        assert (found.r_squared, found.parameters) == (None, ())
    assert importances(trials[:LEAST_TRIALS], SPACE).r_squared is not None
