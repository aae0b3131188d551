"""`Plan`: the definition of a search; two searches with the same plan find the same result."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_switcher.checks import ConfigError
from keras_switcher.config import Config, influences
from keras_switcher.plan_folder import differences, plain
from keras_switcher.tuning.space import Space

PLAN_FILE = "search.yaml"
TRIALS = "trials"
TRIALS_FILE = "trials.csv"
BEST_CONFIG_FILE = "best.yaml"
BEST_FILE = "best.json"

ORACLES = ("hyperband", "bayesian", "random")
COSTS = ("none", "parameters", "seconds")
# A search may be continued with more of them.
_MAY_CHANGE = ("trials",)


@dataclasses.dataclass(frozen=True)
class Terms:
    """The objective: `metric - penalty * max(0, target - sparsity) - cost_weight * cost`.

    Args:
        metric: Name in the logs of a metric, such as "val_accuracy".
        penalty: Factor by which a missing share of sparsity lowers the objective; with 10, a tenth
            of a point of sparsity costs a point of accuracy. A settled model misses nothing.
        cost: The cost of a trial: "none"; "parameters", the weights of the switchers per connection
            that they switch; or "seconds", those of a training step, in the mean over all epochs.
        cost_weight: Factor by which the cost lowers the objective.
        direction: "max", or "min" for a metric that is better the smaller it is: the objective then
            has `-metric` in its place.
    """

    metric: str = "val_accuracy"
    penalty: float = 10.0
    cost: str = "none"
    cost_weight: float = 0.0
    direction: str = "max"

    def __post_init__(self) -> None:
        if self.direction not in ("max", "min"):
            raise ConfigError(
                f"Expected `direction` to be 'max' or 'min'. Received: {self.direction!r}"
            )
        if self.direction == "max" and self.metric in ("loss", "val_loss"):
            raise ConfigError(
                f"Expected direction='min' with a metric that is better the smaller it is. "
                f"Received: metric={self.metric!r}, direction='max'"
            )
        if self.cost not in COSTS:
            raise ConfigError(
                "Expected `cost` to be 'none', 'parameters' or 'seconds'. "
                f"Received: cost={self.cost!r}"
            )
        if (self.cost == "none") != (self.cost_weight == 0):
            raise ConfigError(
                "Expected `cost` and a `cost_weight` above 0 together. "
                f"Received: cost={self.cost!r}, cost_weight={self.cost_weight}"
            )
        for name in ("penalty", "cost_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"Expected `{name}` >= 0. Received: {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """The definition of a search.

    Args:
        config: The run whose switching is searched; its epochs are those for training the best one
            afterwards.
        space: What is searched.
        oracle: "hyperband", "bayesian" or "random".
        trials: Number of trials in all.
        max_epochs: Largest number of epochs of a trial.
        terms: The terms of the objective.
        hopeless: Whether trials far behind the others are stopped.
    """

    config: Config
    space: Space
    oracle: str
    trials: int
    max_epochs: int
    terms: Terms
    hopeless: bool

    def content(self) -> dict[str, Any]:
        """Return the content of `search.yaml`."""
        options = plain(influences(self.config))
        named = {n: options[n] for n in ("model", "dataset", "target_sparsity", "seed")}
        return {
            **named,
            "oracle": self.oracle,
            "trials": self.trials,
            "max_epochs": self.max_epochs,
            # The command always maximises.
            **{n: v for n, v in dataclasses.asdict(self.terms).items() if n != "direction"},
            "hopeless": self.hopeless,
            "space": {name: _described(r) for name, r in self.space.ranges.items()},
            # In trials, searched values take the place of some of these.
            "config": {n: v for n, v in options.items() if n not in named},
        }

    def changes(self, earlier: Mapping[str, Any]) -> list[str]:
        """Return the differences from an earlier search, such as `space.gate: ['step'] -> none`.

        Args:
            earlier: The content of its `search.yaml`.
        """
        before, after = (
            {name: value for name, value in _flat(content).items() if name not in _MAY_CHANGE}
            for content in (earlier, self.content())
        )
        return differences(before, after)


def _described(range_: Any) -> dict[str, Any]:
    if range_.values:
        return {"values": list(range_.values)}
    kind = "int" if range_.is_integer else "float"
    return {
        "min": range_.minimum,
        "max": range_.maximum,
        "sampling": range_.sampling,
        "kind": kind,
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return all values in one mapping, with those of the two groups beside the others."""
    groups = {name: values.get(name) or {} for name in ("space", "config")}
    return {
        **{name: value for name, value in values.items() if name not in groups},
        **{f"{group}.{name}": v for group, items in groups.items() for name, v in items.items()},
    }
