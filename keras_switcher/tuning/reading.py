"""Reading a search's folder: its settings, its trials and the best of them, all checked."""

import contextlib
import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from keras_switcher.checks import ConfigError
from keras_switcher.tuning.plan import BEST_FILE, PLAN_FILE, TRIALS_FILE

_PREFIX = "hp:"
# Up to this many integers in a row count as values to choose from.
_FEW_INTEGERS = 8
_SETTINGS = ("model", "dataset", "target_sparsity", "oracle", "max_epochs", "trials", "seed")
_COLUMNS = (
    *("trial", "status", "stopped", "objective", "val_accuracy", "sparsity", "epochs"),
    *("epochs_run", "seconds", "switcher_parameters", "worker"),
)

Value = str | int | float | bool


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Args:
        name: Its id.
        status: "COMPLETED" or "FAILED".
        stopped: "hopeless" or "diverged" if it was stopped early, else "".
        objective: The value that the search maximises; `None` if it failed.
        val_accuracy: Its validation accuracy, if known.
        sparsity: Share of the switched connections that are off, if known.
        epochs: Its budget of epochs.
        epochs_run: Epochs that it ran.
        seconds: Time that it took, if known.
        switcher_parameters: Weights of the switchers, if known.
        worker: Which process ran it.
        values: Its hyperparameters by name; `None` for one that is inactive.
    """

    name: str
    status: str
    stopped: str
    objective: float | None
    val_accuracy: float | None
    sparsity: float | None
    epochs: int
    epochs_run: int | None
    seconds: float | None
    switcher_parameters: int | None
    worker: str
    values: Mapping[str, Value | None]

    @property
    def is_hopeless(self) -> bool:
        """Whether it was stopped early, with no hope of being the best."""
        return self.stopped in ("hopeless", "diverged")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A hyperparameter: one of some values, or any number between two.

    Args:
        name: Its name.
        values: The values, if there are some to choose from.
        minimum: Otherwise, the least value.
        maximum: Otherwise, the greatest value.
        is_log: Whether values between are drawn on a logarithmic scale.
    """

    name: str
    values: tuple[Value, ...] = ()
    minimum: float = 0.0
    maximum: float = 1.0
    is_log: bool = False

    def position(self, value: Value) -> float:
        """Return where a value lies, from 0 at the first or least to 1 at the last or greatest."""
        if self.values:
            return self.values.index(value) / max(1, len(self.values) - 1)
        scale = math.log if self.is_log else float
        low, high = scale(self.minimum), scale(self.maximum)
        return (scale(float(value)) - low) / (high - low) if high > low else 0.5

    @classmethod
    def from_yaml(cls, name: str, written: Any, seen: Iterable[Value] = ()) -> "Parameter":
        """Make it from its range in `search.yaml`, widened to include all values seen.

        Args:
            name: Its name.
            written: A mapping with `values`, or with `min`, `max`, `sampling` and `kind`; a list of
                values; one value; or `None`, if only the values seen are known.
            seen: Its values in trials.

        Raises:
            ValueError: If it is none of these.
        """
        seen = list(dict.fromkeys(seen))
        if isinstance(written, Mapping) and "values" not in written:
            try:
                ends = [float(written[key]) for key in ("min", "max")]
                ends += [float(value) for value in seen]
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"expected `values`, or numbers `min` and `max`, for {name}. "
                    f"Received: {dict(written)}, with trials of {seen}"
                ) from None
            low, high = min(ends), max(ends)
            is_log = written.get("sampling") == "log" and low > 0
            if written.get("kind") == "int" and not is_log and high - low < _FEW_INTEGERS:
                return cls(name, tuple(range(int(low), int(high) + 1)))
            return cls(name, (), low, high, is_log)
        if written is None and seen and all(_is_number(value) for value in seen):
            numbers = [float(value) for value in seen]
            return cls(name, (), min(numbers), max(numbers))
        if isinstance(written, Mapping):
            written = written["values"]
        listed = list(written) if isinstance(written, (list, tuple)) else [written]
        # Parsed as in `trials.csv`, so that YAML's 1e-3, which is text, becomes the same number.
        known = [value for value in map(_value, map(str, listed)) if value is not None]
        values = list(dict.fromkeys([*known, *seen]))
        if all(_is_number(value) for value in values):
            values.sort(key=float)
        return cls(name, tuple(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class SearchFiles:
    """The files that a search left in its folder.

    Args:
        settings: The content of `search.yaml`.
        space: Each hyperparameter of the trials by its name, in the order of `trials.csv`.
        trials: The trials, in order of ending.
        best: The content of `best.json`; `None` while the search is under way.
    """

    settings: Mapping[str, Any]
    space: Mapping[str, Parameter]
    trials: tuple[Trial, ...]
    best: Mapping[str, Any] | None


class _Scored(Protocol):
    @property
    def objective(self) -> float | None: ...
    @property
    def epochs(self) -> int: ...
    @property
    def is_hopeless(self) -> bool: ...


ScoredTrial = TypeVar("ScoredTrial", bound=_Scored)


def best_of(trials: Iterable[ScoredTrial]) -> ScoredTrial | None:
    """Return the best of the trials with the most epochs.

    Args:
        trials: The trials.

    Returns:
        The one with the greatest objective, the first of equals; `None` if all failed or were
        stopped.
    """
    scored = [t for t in trials if t.objective is not None and not t.is_hopeless]
    most = max((t.epochs for t in scored), default=0)
    longest = [t for t in scored if t.epochs == most]
    return max(longest, key=lambda t: t.objective or 0.0, default=None)


def read_search(folder: Path) -> SearchFiles:
    """Read the files of a search, which may be under way.

    Args:
        folder: The search's folder.

    Raises:
        FileNotFoundError: If `trials.csv` or `search.yaml` is missing.
        ValueError: If a file is damaged.
    """
    missing = [name for name in (PLAN_FILE, TRIALS_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"No {', '.join(missing)} in '{folder}'. A search leaves these files as soon as its "
            "first trial has ended: name the folder of a search."
        )
    settings = _read_settings(folder / PLAN_FILE)
    names, trials = _read_trials(folder / TRIALS_FILE)
    space = {}
    for name in names:
        values = [trial.values[name] for trial in trials]
        try:
            space[name] = Parameter.from_yaml(
                name, settings["space"].get(name), [v for v in values if v is not None]
            )
        except ValueError as error:
            raise _damaged(folder / PLAN_FILE, error) from error
    best = _read_best(folder / BEST_FILE) if (folder / BEST_FILE).is_file() else None
    return SearchFiles(settings, space, tuple(trials), best)


def _damaged(path: Path, reason: object) -> ConfigError:
    return ConfigError(f"'{path}' is damaged or not a file of a search: {reason}.")


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(settings, dict):
        raise _damaged(path, f"expected a mapping, found {type(settings).__name__}")
    for name in _SETTINGS:
        if name not in settings:
            raise _damaged(path, f"`{name}` is missing")
    if not isinstance(settings.get("space"), dict):
        raise _damaged(path, "`space` is no mapping")
    return settings


def _read_best(path: Path) -> dict[str, Any]:
    try:
        best = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(best, dict) or "trial" not in best:
        raise _damaged(path, "expected an object with `trial`")
    if not isinstance(best.get("values"), dict):
        raise _damaged(path, "`values` is no object")
    return best


def _read_trials(path: Path) -> tuple[list[str], list[Trial]]:
    """Return the names of the hyperparameters, and the trials."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (csv.Error, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    columns = rows[0] if rows else []
    for name in _COLUMNS:
        if name not in columns:
            raise _damaged(path, f"it has no column `{name}`")
    trials = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(columns):
            raise _damaged(path, f"line {number} has {len(cells)} values for {len(columns)} names")
        try:
            trials.append(_trial(dict(zip(columns, cells, strict=True))))
        except ValueError as error:
            raise _damaged(path, f"line {number}: {error}") from error
    return [c.removeprefix(_PREFIX) for c in columns if c.startswith(_PREFIX)], trials


def _trial(row: Mapping[str, str]) -> Trial:
    if row["status"] not in ("COMPLETED", "FAILED"):
        raise ValueError(f"unknown status {row['status']!r}")
    return Trial(
        name=row["trial"],
        status=row["status"],
        stopped=row["stopped"],
        objective=None if row["status"] == "FAILED" else _number(row["objective"]),
        val_accuracy=_number(row["val_accuracy"]),
        sparsity=_number(row["sparsity"]),
        epochs=_integer(row["epochs"]) or 0,
        epochs_run=_integer(row["epochs_run"]),
        seconds=_number(row["seconds"]),
        switcher_parameters=_integer(row["switcher_parameters"]),
        worker=row["worker"],
        values={
            name.removeprefix(_PREFIX): _value(cell)
            for name, cell in row.items()
            if name.startswith(_PREFIX)
        },
    )


def _number(cell: str) -> float | None:
    """Return a finite number, or `None`."""
    number = float(cell) if cell else math.nan
    return number if math.isfinite(number) else None


def _integer(cell: str) -> int | None:
    return int(cell) if cell else None


def _value(cell: str) -> Value | None:
    if cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    with contextlib.suppress(ValueError):
        return int(cell)
    with contextlib.suppress(ValueError):
        return float(cell) if math.isfinite(float(cell)) else cell
    return cell or None
