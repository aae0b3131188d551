"""The search space: which options of the switching are searched, in which ranges."""

import dataclasses
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from keras_switcher.checks import ConfigError, is_integer, is_number, nearest
from keras_switcher.config import check_values, from_values
from keras_switcher.flags import read_mapping

Value = str | int | float | bool

# Up to this many integers in a row count as values to choose from.
_FEW_INTEGERS = 8
# Largest number of hidden layers of a switcher.
_DEEPEST = 4
_KINDS = ("unit", "connection")
_RATES = {"adam": "adam_learning_rate", "sgd": "sgd_learning_rate"}

# Hyperparameters that are not options themselves, but determine options.
_OF_HIDDEN = tuple(
    f"{kind}_{what}"
    for kind in _KINDS
    for what in ("depth", *(f"width_{index}" for index in range(1, _DEEPEST + 1)))
)
OPTIONS = (
    *("switcher", "switcher_activation", "switcher_normalization", "gate", "granularity"),
    *("task_steps", "switcher_steps", "warmup", "settle", "ramp"),
    *("switcher_optimizer", "multiplier_rate", "rate_exponent"),
)
# Options that matter only with a target sparsity.
_OF_TARGET = ("ramp", "multiplier_rate")
_PARENTS = ("switcher", "switcher_optimizer")
_PHASES = ("warmup", "settle")
# Floats however they are written, as Keras Tuner accepts no integers among floats.
_FLOATS = (*_PHASES, "ramp", "multiplier_rate", "rate_exponent", *_RATES.values())
NAMES = (*OPTIONS, *_OF_HIDDEN, *_RATES.values())
# The hyperparameters that a given flag of train.py fixes.
_FIXES = {
    "switcher_hidden": _OF_HIDDEN,
    "switcher_learning_rate": tuple(_RATES.values()),
    **{name: (name,) for name in OPTIONS},
}


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a hyperparameter may take: some, or all between two numbers.

    Args:
        values: The values, if there are some to choose from; a single value is fixed.
        minimum: Otherwise, the least value.
        maximum: Otherwise, the greatest value.
        sampling: How values between are drawn: "linear" or "log".
    """

    values: tuple[Any, ...] = ()
    minimum: float = 0
    maximum: float = 0
    sampling: str = "linear"

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.values) == 1

    @property
    def is_integer(self) -> bool:
        """Whether all values from the least to the greatest are integers."""
        return is_integer(self.minimum) and is_integer(self.maximum)

    @property
    def is_log(self) -> bool:
        """Whether values between are drawn on a logarithmic scale."""
        return self.sampling == "log"

    @property
    def listed(self) -> tuple[Value, ...]:
        """All values, numbers in ascending order, if they are few enough to list, or none."""
        if self.values:
            return tuple(sorted(self.values)) if all(map(is_number, self.values)) else self.values
        low, high = self.minimum, self.maximum
        if self.is_integer and not self.is_log and high - low < _FEW_INTEGERS:
            return tuple(range(int(low), int(high) + 1))
        return ()

    def position(self, value: Value) -> float:
        """Return where a value lies, from 0 at the first or least to 1 at the last or greatest."""
        if listed := self.listed:
            return listed.index(value) / max(1, len(listed) - 1)
        scale = math.log if self.is_log else float
        low, high = scale(self.minimum), scale(self.maximum)
        return (scale(float(value)) - low) / (high - low) if high > low else 0.5

    def declare(self, hyperparameters: Any, name: str) -> Any:
        """Declare it, and return its value.

        Args:
            hyperparameters: The `keras_tuner.HyperParameters` of a trial.
            name: Its name there.
        """
        if self.is_fixed:
            return self.values[0]
        if self.values:
            return hyperparameters.Choice(name, list(self.values))
        kind = hyperparameters.Int if self.is_integer else hyperparameters.Float
        return kind(name, self.minimum, self.maximum, sampling=self.sampling)

    def bounds(self) -> list[Any]:
        """Return the values to check in place of all: each one, or the least and the greatest."""
        return list(self.values) or [self.minimum, self.maximum]

    @classmethod
    def of(cls, name: str, value: Any) -> "Range":
        """Make a range from a list of values, a mapping with `min` and `max`, or one value.

        Args:
            name: Its name, for the error message.
            value: The value written for it.

        Raises:
            ConfigError: If it is none of these.
        """
        if isinstance(value, (list, tuple)):
            value = [_typed(name, v) for v in value]
            kinds = {type(v) for v in value if not is_number(v)}
            # Of True and 1, a dictionary would keep the first.
            mixed = bool in kinds and any(map(is_number, value))
            if not value or mixed or len(kinds) > 1 or kinds & {list, tuple, dict}:
                raise ConfigError(
                    f"Expected values of one type for {name} in the search space. "
                    f"Received: {list(value)}"
                )
            return cls(values=tuple(dict.fromkeys(value)))
        if not isinstance(value, Mapping):
            return cls(values=(_typed(name, value),))
        given = dict(value)
        low, high = _number(given.pop("min", None)), _number(given.pop("max", None))
        sampling = given.pop("sampling", "linear")
        is_right = low is not None and high is not None and low < high and not given
        if not is_right or sampling not in ("linear", "log") or (sampling == "log" and low <= 0):
            raise ConfigError(
                f"Expected {name} in the search space to be a list of values, one value, or "
                "{min: a, max: b, sampling: linear or log} with a < b, and a > 0 for log. "
                f"Received: {dict(value)}"
            )
        return cls((), _typed(name, low), _typed(name, high), sampling)


def _typed(name: str, value: Any) -> Any:
    """Return a value in the type of its option, if it is a number at all."""
    number = _number(value) if name in _FLOATS else None
    return value if number is None else float(number)


def _number(value: Any) -> Any:
    """Return a number; YAML reads 1e-3 as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


DEFAULT: dict[str, Any] = {
    "switcher": ["unit", "orthogonal", "connection"],
    "unit_depth": {"min": 0, "max": 2},
    "unit_width_1": [16, 32, 64, 128],
    "unit_width_2": [16, 32, 64, 128],
    "connection_depth": {"min": 1, "max": 2},
    # This network runs once for every connection; a wider one takes longer than all else in a
    # training.
    "connection_width_1": [4, 8, 16],
    "connection_width_2": [4, 8, 16],
    "switcher_activation": ["relu", "tanh", "silu"],
    "switcher_normalization": ["none", "layer"],
    "gate": ["step", "relu_tanh"],
    "switcher_optimizer": ["adam", "sgd"],
    "adam_learning_rate": {"min": 1e-4, "max": 1e-2, "sampling": "log"},
    # Above this, a layer loses all its switches but one within a few turns.
    "sgd_learning_rate": {"min": 1e-3, "max": 0.1, "sampling": "log"},
    "task_steps": [4, 8, 16],
    "switcher_steps": [1, 2],
    "warmup": {"min": 0.0, "max": 0.3},
    "settle": {"min": 0.2, "max": 0.6},
    "ramp": {"min": 0.4, "max": 1.0},
    "multiplier_rate": {"min": 0.005, "max": 0.5, "sampling": "log"},
    "rate_exponent": {"min": 0.0, "max": 0.75},
}


@dataclasses.dataclass(frozen=True)
class Space:
    """What is searched, and in which ranges.

    Args:
        ranges: The range of each hyperparameter. Those left out keep the option of the
            configuration.
    """

    ranges: Mapping[str, Range]

    @property
    def searched(self) -> dict[str, Range]:
        """The ranges of the hyperparameters that are not fixed."""
        return {name: range_ for name, range_ in self.ranges.items() if not range_.is_fixed}

    @classmethod
    def of(
        cls, values: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
    ) -> "Space":
        """Make the default space with some of its ranges replaced, and without what is fixed.

        Args:
            values: By name, what replaces the default range: a list of values, a mapping with
                `min`, `max` and `sampling`, or a single value, which is fixed.
            options: Options of the configuration that are given, by name: what they stand for is
                not searched. Those that have nothing to do with the space don't matter.

        Raises:
            ConfigError: If a name or a range is wrong, or the options leave too little for what is
                searched.
        """
        values = dict(values or {})
        for name in values:
            if name not in NAMES:
                raise ConfigError(
                    f"Unknown hyperparameter {name!r} in the search space.{nearest(name, NAMES)} "
                    f"Known: {', '.join(NAMES)}."
                )
        whole = cls({k: Range.of(k, v) for k, v in {**DEFAULT, **values}.items()})
        whole._check_values()
        space = whole._without(options or {})
        for name in values:
            if "_width_" in name and name not in space.ranges:
                kind, index = name.split("_width_")
                if f"{kind}_depth" in space.ranges:
                    most = max(space._alternatives(f"{kind}_depth", 0))
                    raise ConfigError(
                        f"Expected {kind}_depth in the search space to go up to {index}, as there "
                        f"is a {name}. Received: at most {most}"
                    )
        return space

    def _without(self, options: Mapping[str, Any]) -> "Space":
        """Return the space without the hyperparameters that options of the configuration fix."""
        fixed = {name for option in options for name in _FIXES.get(option, ())}
        if options.get("target_sparsity", 0.0) is None:
            fixed |= {*_OF_TARGET}
        ranges = {name: r for name, r in self.ranges.items() if name not in fixed}
        # What else is searched depends on these.
        parents = {n: Range(values=(options[n],)) for n in _PARENTS if n in options}
        phases = {n: Range(values=(options[n],)) for n in _PHASES if n in options}
        Space({**ranges, **phases})._check_together()
        return Space({**parents, **ranges})._pruned()

    def _pruned(self) -> "Space":
        """Return the space without hyperparameters that matter only for values outside it."""
        widths = {
            f"{kind}_width_{index}"
            for kind in _KINDS
            for index in range(1, 1 + max(self._alternatives(f"{kind}_depth", 0)))
        }
        kinds = self._alternatives("switcher", _KINDS[0])
        rates = [_RATES[name] for name in self._alternatives("switcher_optimizer", "adam")]
        return Space(
            {
                name: range_
                for name, range_ in self.ranges.items()
                if not (name in _OF_HIDDEN and name.split("_")[0] not in kinds)
                and not ("_width_" in name and name not in widths)
                and not (name in _RATES.values() and name not in rates)
            }
        )

    def _check_values(self) -> None:
        """Check that every value is one that its option accepts."""
        for name, range_ in self.ranges.items():
            for value in range_.bounds():
                _check(name, value)

    def _check_together(self) -> None:
        """Check that there is a range for each width, and that the phases leave time."""
        for kind in _KINDS:
            deepest = self.ranges.get(f"{kind}_depth")
            depth = 0 if deepest is None else max(deepest.bounds())
            for index in range(1, depth + 1):
                if f"{kind}_width_{index}" not in self.ranges:
                    raise ConfigError(
                        f"Expected a range for {kind}_width_{index} in the search space: "
                        f"{kind}_depth goes up to {depth}. Received: none"
                    )
        longest = {n: max(r.bounds()) for n, r in self.ranges.items() if n in _PHASES}
        if sum(longest.get(name, 0) for name in _PHASES) >= 1:
            raise ConfigError(
                "Expected the greatest warmup and settle of the search space, or what is given for "
                f"them, to leave time to alternate: less than 1 together. Received: {longest}. "
                "Narrow a range, or give both"
            )

    def choose(self, hyperparameters: Any) -> dict[str, Any]:
        """Declare every hyperparameter, and return the options of the configuration they stand for.

        Args:
            hyperparameters: The `keras_tuner.HyperParameters` of a trial.

        Returns:
            Options by name, as `keras_switcher.config` knows them.
        """
        found = {
            name: self.ranges[name].declare(hyperparameters, name)
            for name in OPTIONS
            if name in self.ranges
        }
        kind = found.get("switcher", _KINDS[0])
        optimizer = found.get("switcher_optimizer", "adam")
        for each in self._alternatives("switcher", _KINDS[0]):
            if f"{each}_depth" in self.ranges:
                with self._where(hyperparameters, "switcher", [each]):
                    widths = self._widths(hyperparameters, each)
                if each == kind:
                    found["switcher_hidden"] = widths
        for each in self._alternatives("switcher_optimizer", "adam"):
            if _RATES[each] in self.ranges:
                with self._where(hyperparameters, "switcher_optimizer", [each]):
                    rate = self.ranges[_RATES[each]].declare(hyperparameters, _RATES[each])
                if each == optimizer:
                    found["switcher_learning_rate"] = rate
        return found

    def _widths(self, hyperparameters: Any, kind: str) -> tuple[int, ...]:
        name = f"{kind}_depth"
        depth = self.ranges[name].declare(hyperparameters, name)
        depths = self._alternatives(name, 0)
        widths = []
        for index in range(1, max(depths) + 1):
            width = f"{kind}_width_{index}"
            with self._where(hyperparameters, name, [d for d in depths if d >= index]):
                widths.append(self.ranges[width].declare(hyperparameters, width))
        # Nothing is chosen if the switcher is of another kind.
        return tuple(widths[: depth or 0])

    def _alternatives(self, name: str, default: Any) -> tuple[Any, ...]:
        """Return all values that a hyperparameter may take."""
        if name not in self.ranges:
            return (default,)
        range_ = self.ranges[name]
        return range_.values or tuple(range(int(range_.minimum), int(range_.maximum) + 1))

    def _where(
        self, hyperparameters: Any, parent: str, values: list[Any]
    ) -> AbstractContextManager[Any]:
        """Declare, in this block, what matters only for some values of another hyperparameter."""
        if len(values) == len(self._alternatives(parent, None)):
            return nullcontext()
        scope: AbstractContextManager[Any] = hyperparameters.conditional_scope(parent, values)
        return scope


def _check(name: str, value: Any) -> None:
    """Check that a value of a hyperparameter is valid for the option that it stands for."""
    where = "the search space"
    if name.endswith("_depth"):
        if not (is_integer(value) and 0 <= value <= _DEEPEST):
            raise ConfigError(
                f"Expected {name} in {where} to be an integer from 0 to {_DEEPEST}. "
                f"Received: {value}"
            )
    elif "_width_" in name:
        check_values(from_values({"switcher_hidden": [value]}, where), where)
    elif name in _RATES.values():
        check_values(from_values({"switcher_learning_rate": value}, where), where)
    else:
        check_values(from_values({name: value}, where), where)


def read_space(path: Path) -> dict[str, Any]:
    """Read ranges from a YAML file.

    Args:
        path: The file.

    Raises:
        ConfigError: If it can't be read, or holds anything but ranges by name.
    """
    values = read_mapping(path, "search space", "hyperparameter: range")
    if values is None:
        raise ConfigError(f"Expected the search space {path} to hold ranges. Received: nothing")
    return values
