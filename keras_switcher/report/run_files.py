"""Reading the files of a run's folder, and checking that they are whole."""

import csv
import dataclasses
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import yaml

from keras_switcher.metrics import layer_table
from keras_switcher.runs import CONFIG_FILE, HISTORY_FILE, MODEL_FILE, SUMMARY_FILE

_NUMBER = (int, float)
_NUMBER_OR_NONE = (int, float, type(None))
# The figures that summary.json must have for a report; it may have more. Those of the dense network
# are null in a run without one.
_FIGURES: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "dataset": str,
    "dataset_source": str,
    "train_examples": int,
    "validation_examples": int,
    "test_examples": int,
    "epochs": int,
    "seed": int,
    "target_sparsity": _NUMBER_OR_NONE,
    "granularity": str,
    "validation_accuracy": _NUMBER,
    "test_accuracy": _NUMBER,
    "dense_test_accuracy": _NUMBER_OR_NONE,
    "fc_sparsity": _NUMBER,
    "model_sparsity": _NUMBER,
    "parameters": int,
    "switcher_parameters": int,
    "gzip_bytes": int,
    "dense_gzip_bytes": (int, type(None)),
    "seconds": _NUMBER,
    "dense_seconds": _NUMBER_OR_NONE,
    "layers": list,
}
_ROW = {"name": str, "shape": list, "connections": int, "on": int}


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files that a run left in its folder.

    Args:
        config_text: The text of `config.yaml`.
        config: The settings in it.
        summary: The content of `summary.json`.
        history: One row per epoch: `epoch`, `phase` if it is known, and the figures that Keras
            logs.
        model: The switched model.
    """

    config_text: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    model: keras.Model


def read_run(run_dir: Path) -> RunFiles:
    """Read the files of a finished run.

    Args:
        run_dir: The run's folder.

    Returns:
        Their content.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If one of them is damaged, or they are not of the same run.
    """
    names = (CONFIG_FILE, SUMMARY_FILE, HISTORY_FILE, MODEL_FILE)
    missing = [name for name in names if not (run_dir / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"No {', '.join(missing)} in '{run_dir}'. A finished run of train.py leaves these "
            "files: finish an interrupted one with --resume, or name the folder of another run."
        )
    config_text, config = _read_config(run_dir / CONFIG_FILE)
    summary = _read_summary(run_dir / SUMMARY_FILE)
    history = _read_history(run_dir / HISTORY_FILE)
    model = _read_model(run_dir / MODEL_FILE)
    if [{key: row[key] for key in _ROW} for row in summary["layers"]] != layer_table(model):
        raise ValueError(
            f"{SUMMARY_FILE} and {MODEL_FILE} in '{run_dir}' are not of the same run: their "
            "switched layers differ. Train again into a new folder."
        )
    return RunFiles(config_text, config, summary, history, model)


def _damaged(path: Path, reason: object) -> ValueError:
    return ValueError(
        f"'{path}' is damaged or not a file of train.py: {reason}. Restore it from a copy, or "
        "train again into a new folder."
    )


def _read_config(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        config = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(config, dict):
        raise _damaged(path, f"expected a mapping of settings, found {type(config).__name__}")
    return text, config


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(summary, dict):
        raise _damaged(path, f"expected an object, found {type(summary).__name__}")
    _check_types(path, "", summary, _FIGURES)
    for index, row in enumerate(summary["layers"]):
        if not isinstance(row, dict):
            raise _damaged(path, f"`layers[{index}]` is not an object")
        _check_types(path, f"layers[{index}].", row, _ROW)
    return summary


def _check_types(
    path: Path, prefix: str, values: Mapping[str, Any], types: Mapping[str, Any]
) -> None:
    for name, expected in types.items():
        if name not in values:
            raise _damaged(path, f"`{prefix}{name}` is missing")
        if not isinstance(values[name], expected):
            raise _damaged(path, f"`{prefix}{name}` can't be {values[name]!r}")


def _read_history(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if len(rows) < 2:
        raise _damaged(path, "it has no epoch")
    columns = rows[0]
    if "epoch" not in columns:
        raise _damaged(path, "it has no column `epoch`")
    history = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(columns):
            raise _damaged(path, f"line {number} has {len(cells)} values for {len(columns)} names")
        try:
            history.append(
                {
                    name: _value(name, cell)
                    for name, cell in zip(columns, cells, strict=True)
                    if cell or name == "epoch"
                }
            )
        except ValueError as error:
            raise _damaged(path, f"line {number}: {error}") from error
    return history


def _value(name: str, cell: str) -> str | int | float:
    if name == "phase":
        return cell
    return int(cell) if name == "epoch" else float(cell)


def _read_model(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error
