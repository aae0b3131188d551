"""Small folders of searches for the tests of their report, made without searching."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from keras_switcher.tuning.reading import Trial

SPACE: dict[str, Any] = {
    "switcher": {"values": ["unit", "connection"]},
    "unit_depth": {"min": 0, "max": 2, "sampling": "linear", "kind": "int"},
    "unit_width_1": {"values": [16, 32, 64, 128]},
    "connection_width_1": {"values": [4, 8, 16]},
    "switcher_activation": {"values": ["relu", "tanh", "silu"]},
    "switcher_normalization": {"values": ["none", "layer"]},
    "gate": {"values": ["step", "relu_tanh"]},
    "switcher_learning_rate": {"min": 1e-4, "max": 1e-2, "sampling": "log", "kind": "float"},
    "task_steps": {"values": [1, 2, 4, 8]},
    "switcher_steps": {"values": [1, 2]},
    "warmup": {"min": 0.0, "max": 0.3, "sampling": "linear", "kind": "float"},
    "settle": {"min": 0.2, "max": 0.6, "sampling": "linear", "kind": "float"},
    "ramp": {"min": 0.4, "max": 1.0, "sampling": "linear", "kind": "float"},
    "multiplier_rate": {"min": 0.005, "max": 0.5, "sampling": "log", "kind": "float"},
}
_COLUMNS = (
    *("trial", "status", "stopped", "objective", "val_accuracy", "sparsity", "epochs"),
    *("epochs_run", "seconds", "switcher_parameters", "worker"),
)


def draw(random: np.random.Generator) -> dict[str, Any]:
    """Draw a value for each hyperparameter; `None` where it is inactive."""
    values: dict[str, Any] = {}
    for name, written in SPACE.items():
        if "values" in written:
            values[name] = written["values"][random.integers(len(written["values"]))]
        elif written["kind"] == "int":
            values[name] = int(random.integers(written["min"], written["max"] + 1))
        elif written["sampling"] == "log":
            low, high = np.log([written["min"], written["max"]])
            values[name] = float(np.exp(random.uniform(low, high)))
        else:
            values[name] = float(random.uniform(written["min"], written["max"]))
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
) -> Trial:
    """Return a trial; without an objective, a failed one."""
    failed = objective is None
    return Trial(
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


def hyperband_trials(count: int, seed: int = 0) -> list[Trial]:
    """Return trials of the budgets 1, 3, 9 and 27; those of greater ones go on with the best."""
    random = np.random.default_rng(seed)
    share = {1: 0.45, 3: 0.25, 9: 0.18, 27: 0.12}
    before: list[tuple[float, dict[str, Any]]] = []
    trials: list[Trial] = []
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


def best_json(trial: Trial) -> dict[str, Any]:
    """Return what `best.json` holds of a trial when the search is over."""
    return {
        "trial": trial.name,
        "objective": trial.objective,
        "val_accuracy": trial.val_accuracy,
        "sparsity": trial.sparsity,
        "test_accuracy": 0.9731,
        "epochs": trial.epochs,
        "values": {k: v for k, v in trial.values.items() if v is not None},
    }


def make_search(
    folder: Path,
    ended: Sequence[Trial],
    best: Mapping[str, Any] | None = None,
    **settings: Any,
) -> None:
    """Write the files of a search into a folder."""
    folder.mkdir(exist_ok=True)
    content = {
        "model": "lenet300",
        "dataset": "mnist5k",
        "target_sparsity": 0.95,
        "oracle": "hyperband",
        "max_epochs": 27,
        "trials": 60,
        "seed": 3,
        "space": SPACE,
        **settings,
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    names = list(dict.fromkeys(name for trial in ended for name in trial.values))
    with (folder / "trials.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *(f"hp:{name}" for name in names or SPACE)])
        for trial in ended:
            known = [trial.name, *(getattr(trial, column) for column in _COLUMNS[1:])]
            writer.writerow([*known, *(trial.values.get(name) for name in names)])
    if best is not None:
        (folder / "best.json").write_text(json.dumps(best))
