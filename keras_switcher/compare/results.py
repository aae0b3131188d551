"""The files of results: a CSV row for each network, and JSON with the statistics over them."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from keras_switcher.compare.figures import CONFIDENCE, Difference, Group
from keras_switcher.compare.plan import CELLS, RESULT_FILE, TRAINS_ANEW, Plan, cell_name
from keras_switcher.files import RunError, write_csv, write_json

CSV_FILE = "results.csv"
JSON_FILE = "results.json"

_COLUMNS = (
    "method",
    "target_sparsity",
    "seed",
    "test_accuracy",
    "validation_accuracy",
    "fc_sparsity",
    "model_sparsity",
    "remaining_parameters",
    "epochs",
    "seconds",
    "peak_mib",
    "threads",
    "dataset_source",
    "versions",
    "processor",
)
ACCURACIES = ("test_accuracy", "validation_accuracy")
_FIGURES = (*ACCURACIES, "fc_sparsity", "seconds", "peak_mib")


def finished(folder: Path) -> list[dict[str, Any]]:
    """Return the results of all cells of a comparison that are finished.

    Args:
        folder: Its folder.

    Raises:
        RunError: If a result can't be read.
    """
    found = []
    for path in sorted(folder.glob(f"{CELLS}/*/{RESULT_FILE}")):
        result = read_result(path.parent)
        # A copy that someone has made has another name.
        if path.parent.name == cell_name(
            result["method"], result["target_sparsity"], result["seed"]
        ):
            found.append(result)
    return found


def read_result(folder: Path) -> dict[str, Any]:
    """Return the result of a cell.

    Args:
        folder: The cell's folder.

    Raises:
        RunError: If it can't be read.
    """
    path = folder / RESULT_FILE
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(result, dict) or not {"method", "target_sparsity", "seed"} <= {*result}:
            raise ValueError("no result of a network")
    except ValueError as error:
        raise RunError(
            f"Expected {path} to be JSON. Received: {error}. Remove {folder}, {TRAINS_ANEW}"
        ) from error
    return result


def ordered(groups: Iterable[Group], plan: Plan) -> list[Group]:
    """Return groups in the order of the comparison's methods, then of their sparsities.

    Args:
        groups: The groups.
        plan: The comparison.
    """
    place = {str(variant): index for index, variant in enumerate(plan.variants)}
    return sorted(
        groups, key=lambda group: (place.get(group.method, len(place)), group.target_sparsity or 0)
    )


def differences(
    groups: Sequence[Group], plan: Plan, figure: str
) -> list[tuple[Group, float | None, Difference]]:
    """Return by how much the comparison's first method is better than each other one.

    Args:
        groups: All groups.
        plan: The comparison.
        figure: The figure to compare: "test_accuracy", or "validation_accuracy", by which one may
            choose.

    Returns:
        For each other group and each target: the group, the target, and the difference. A method
        that aims at no sparsity has a difference for each target of the other; for two such
        methods, the target is `None`.
    """
    first = [group for group in groups if group.method == str(plan.variants[0])]
    found = []
    for group in groups:
        for reference in first:
            targets = {group.target_sparsity, reference.target_sparsity} - {None}
            if group.method != reference.method and len(targets) < 2:
                difference = reference.minus(group, figure)
                if difference is not None:
                    found.append((group, next(iter(targets), None), difference))
    return found


def write_results(
    plan: Plan, folder: Path, results: Sequence[dict[str, Any]], groups: Sequence[Group]
) -> None:
    """Write `results.csv` and `results.json`, each as one atomic unit.

    Args:
        plan: The comparison.
        folder: Its folder.
        results: The results of the cells.
        groups: The same, grouped.
    """
    rows = [
        {
            **{name: result.get(name) for name in _COLUMNS},
            "layer_sparsities": " ".join(
                f"{row['name']}={1 - row['on'] / row['connections']:.4f}"
                for row in result["layers"]
            ),
        }
        for result in results
    ]
    targets = {group.target_sparsity for group in groups if group.target_sparsity is not None}
    content = {
        **plan.content(),
        # Including those of earlier commands.
        "methods": list(dict.fromkeys(group.method for group in groups)),
        "sparsities": sorted(targets),
        "seeds": sorted({result["seed"] for result in results}),
        "confidence": CONFIDENCE,
        "groups": [_described(group) for group in groups],
        # Seed by seed.
        "differences": [
            {
                "figure": figure,
                "method": str(plan.variants[0]),
                "minus": group.method,
                "target_sparsity": target,
                **dataclasses.asdict(difference),
            }
            for figure in ACCURACIES
            for group, target, difference in differences(groups, plan, figure)
        ],
        "cells": list(results),
    }
    write_csv(folder / CSV_FILE, rows)
    write_json(folder / JSON_FILE, content)


def _described(group: Group) -> dict[str, Any]:
    return {
        "method": group.method,
        "title": group.title,
        "target_sparsity": group.target_sparsity,
        **{name: dataclasses.asdict(group.mean(name)) for name in _FIGURES},
        "layers": group.layers(),
    }
