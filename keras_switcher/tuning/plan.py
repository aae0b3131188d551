"""`Plan`: what a search is; two searches with the same plan find the same."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_switcher.config import Config, influences
from keras_switcher.tuning.space import Space

PLAN_FILE = "search.yaml"
TRIALS = "trials"
TRIALS_FILE = "trials.csv"
BEST_CONFIG_FILE = "best.yaml"
BEST_FILE = "best.json"

ORACLES = ("hyperband", "bayesian", "random")
COSTS = ("none", "parameters", "seconds")
# A search may go on with more of them.
_MAY_CHANGE = ("trials",)


@dataclasses.dataclass(frozen=True)
class Terms:
    """The objective: `metric - penalty * max(0, target - sparsity) - cost_weight * cost`.

    Args:
        metric: Name in the logs of what is to be great, such as "val_accuracy".
        penalty: What a missing share of sparsity costs; with 10, a tenth of a point of sparsity
            costs a point of accuracy. A settled model misses nothing.
        cost: What a trial costs: "none"; "parameters", the weights of the switchers for each
            connection that they switch; or "seconds", those of a training step.
        cost_weight: What a unit of it takes from the objective.
    """

    metric: str = "val_accuracy"
    penalty: float = 10.0
    cost: str = "none"
    cost_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.cost not in COSTS:
            raise ValueError(
                "Expected `cost` to be 'none', 'parameters' or 'seconds'. "
                f"Received: cost={self.cost!r}"
            )
        if (self.cost == "none") != (self.cost_weight == 0):
            raise ValueError(
                "Expected `cost` and a `cost_weight` above 0 together. "
                f"Received: cost={self.cost!r}, cost_weight={self.cost_weight}"
            )
        for name in ("penalty", "cost_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Expected `{name}` >= 0. Received: {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a search is.

    Args:
        config: The run whose switching is searched; its epochs are those of the best one's training
            afterwards.
        space: What is searched.
        oracle: "hyperband", "bayesian" or "random".
        trials: Trials in all.
        max_epochs: Epochs of a trial, at most.
        terms: Of the objective.
        hopeless: Whether trials far behind the others are stopped.
    """

    config: Config
    space: Space
    oracle: str
    trials: int
    max_epochs: int
    terms: Terms
    hopeless: bool

    def to_yaml(self) -> dict[str, Any]:
        """Return what `search.yaml` holds."""
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in influences(self.config).items()
        }
        named = {n: options[n] for n in ("model", "dataset", "target_sparsity", "seed")}
        return {
            **named,
            "oracle": self.oracle,
            "trials": self.trials,
            "max_epochs": self.max_epochs,
            **dataclasses.asdict(self.terms),
            "hopeless": self.hopeless,
            "space": {name: _described(r) for name, r in self.space.ranges.items()},
            # What is searched takes their place.
            "config": {n: v for n, v in options.items() if n not in named},
        }

    def changes(self, earlier: Mapping[str, Any]) -> list[str]:
        """Return what differs from an earlier search, such as `space.gate: ['step'] -> none`.

        Args:
            earlier: What its `search.yaml` holds.
        """
        before, after = _flat(earlier), _flat(self.to_yaml())
        return [
            f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
            for name in dict.fromkeys([*before, *after])
            if name not in _MAY_CHANGE and before.get(name) != after.get(name)
        ]


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
    """Return the values of the two groups beside the others."""
    groups = {name: values.get(name) or {} for name in ("space", "config")}
    return {
        **{name: value for name, value in values.items() if name not in groups},
        **{f"{group}.{name}": v for group, items in groups.items() for name, v in items.items()},
    }
