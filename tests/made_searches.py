"""Results of searches for the tests of their report, made without searching."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_switcher.config import from_values
from keras_switcher.tuning.plan import Plan, Terms
from keras_switcher.tuning.results import EndedTrial, Results
from keras_switcher.tuning.space import Range, Space

SPACE = {
    "switcher": Range(("unit", "connection")),
    "unit_depth": Range((), 0, 2),
    "unit_width_1": Range((16, 32, 64, 128)),
    "connection_width_1": Range((4, 8, 16)),
    "switcher_activation": Range(("relu", "tanh", "silu")),
    "switcher_normalization": Range(("none", "layer")),
    "gate": Range(("step", "relu_tanh")),
    "switcher_learning_rate": Range((), 1e-4, 1e-2, "log"),
    "task_steps": Range((1, 2, 4, 8)),
    "switcher_steps": Range((1, 2)),
    "warmup": Range((), 0.0, 0.3),
    "settle": Range((), 0.2, 0.6),
    "ramp": Range((), 0.4, 1.0),
    "multiplier_rate": Range((), 0.005, 0.5, "log"),
}


def draw(random: np.random.Generator) -> dict[str, Any]:
    """Draw a value for each hyperparameter; `None` where it is inactive."""
    values: dict[str, Any] = {}
    for name, searched in SPACE.items():
        if searched.listed:
            values[name] = searched.listed[random.integers(len(searched.listed))]
        elif searched.is_log:
            low, high = np.log([searched.minimum, searched.maximum])
            values[name] = float(np.exp(random.uniform(low, high)))
        else:
            values[name] = float(random.uniform(searched.minimum, searched.maximum))
    is_unit = values["switcher"] == "unit"
    if not is_unit:
        values["unit_depth"] = values["unit_width_1"] = None
    elif values["unit_depth"] == 0:
        values["unit_width_1"] = None
    if is_unit:
        values["connection_width_1"] = None
    return values


def make_trial(
    number: int,
    objective: float | None,
    values: Mapping[str, Any],
    epochs: int = 9,
    stopped: str = "",
) -> EndedTrial:
    """Return a trial; without an objective, a failed one."""
    failed = objective is None
    return EndedTrial(
        name=f"{number:04d}",
        status="FAILED" if failed else "COMPLETED",
        stopped=stopped,
        objective=objective,
        val_accuracy=None if failed else min(1.0, max(0.1, objective)),
        sparsity=None if failed else 0.951,
        epochs=epochs,
        epochs_run=1 if failed or stopped else epochs,
        seconds=20.0 * epochs,
        switcher_parameters=None if failed else 54321,
        worker=f"tuner{number % 2}",
        values=values,
    )


def hyperband_trials(count: int, seed: int = 0) -> list[EndedTrial]:
    """Return trials of the budgets 1, 3, 9 and 27; those of greater ones go on with the best."""
    random = np.random.default_rng(seed)
    share = {1: 0.45, 3: 0.25, 9: 0.18, 27: 0.12}
    before: list[tuple[float, dict[str, Any]]] = []
    trials: list[EndedTrial] = []
    for epochs, part in share.items():
        wanted = round(part * count)
        promoted = [values for _, values in sorted(before, key=lambda pair: -pair[0])][:wanted]
        before = []
        for index in range(wanted):
            if len(trials) == count:
                break
            values = promoted[index] if index < len(promoted) else draw(random)
            objective: float | None = float(
                0.965
                + 0.012 * np.log(epochs) / np.log(27)
                - 0.02 * abs(np.log10(values["switcher_learning_rate"]) + 2.8)
                - 0.02 * (values["switcher"] == "connection") * (values["gate"] == "step")
                + 0.004 * random.normal()
            )
            stopped = ""
            if epochs < 3 and values["multiplier_rate"] < 0.015:
                objective = -10 * random.uniform(0.1, 0.9)
            elif epochs > 1 and objective < 0.945:
                stopped, objective = "hopeless", objective - 0.02
            if random.random() < 0.05:
                stopped, objective = "", None
            trials.append(make_trial(len(trials), objective, values, epochs, stopped))
            before.append((-1.0 if objective is None else objective, values))
    return trials


def made_search(
    ended: Sequence[EndedTrial],
    test_accuracy: float | None = None,
    space: Mapping[str, Range] = SPACE,
    oracle: str = "hyperband",
    **config: Any,
) -> Results:
    """Return the results of a search, which is finished if it has a test accuracy."""
    values = {"model": "lenet300", "dataset": "mnist5k", "target_sparsity": 0.95, "seed": 3}
    plan = Plan(
        from_values({**values, **config}), Space(space), oracle, 60, 27, Terms(), hopeless=True
    )
    return Results(plan, ended, test_accuracy)
