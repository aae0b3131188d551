"""Alternation: when the task network learns, and when the switcher network does."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_switcher.checks import is_integer, is_number
from keras_switcher.registry import PACKAGE

WARMUP, ALTERNATE, SETTLE = "warmup", "alternate", "settle"
_NEVER = 2**31 - 1


@keras.saving.register_keras_serializable(PACKAGE)
@dataclasses.dataclass(frozen=True)
class Alternation:
    """The course of training: warm-up, alternate, settle.

    During warm-up, only the task network learns, with the switches as they are: all on in a new
    model. Then the two networks alternate: after every `task_steps` batches, the switcher network
    takes `switcher_steps` steps by the mean gradient of the batches' losses with respect to the
    switches. When the model settles, the structure is brought to the target sparsity and frozen,
    and only the task network continues to learn.

    Args:
        task_steps: Task steps between two turns of the switcher, >= 1.
        switcher_steps: Switcher steps in a turn, >= 1.
        warmup: Share of all training steps spent in warm-up, in [0, 1).
        settle: Share of all training steps left when the model settles, in [0, 1);
            `warmup + settle < 1`.
        ramp: Share of the alternate phase, in [0, 1], over which the target density falls from 1
            to its final value.

    Raises:
        ValueError: If a value is outside its range.
    """

    task_steps: int = 8
    switcher_steps: int = 1
    warmup: float = 0.1
    settle: float = 0.4
    ramp: float = 0.8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            # A number of NumPy's is as good, but JSON can't hold it.
            if isinstance(value, np.number):
                object.__setattr__(self, name, value.item())
        for name in ("task_steps", "switcher_steps"):
            value = getattr(self, name)
            if not is_integer(value) or value < 1:
                raise ValueError(f"Expected an integer `{name}` >= 1. Received: {name}={value!r}")
        for name in ("warmup", "settle"):
            value = getattr(self, name)
            if not (is_number(value) and 0 <= value < 1):
                raise ValueError(
                    f"Expected `{name}` to be a share of the training in [0, 1). "
                    f"Received: {name}={value!r}"
                )
        if self.warmup + self.settle >= 1:
            raise ValueError(
                "Expected `warmup + settle` below 1, so that there is time to alternate. "
                f"Received: warmup={self.warmup}, settle={self.settle}"
            )
        if not (is_number(self.ramp) and 0 <= self.ramp <= 1):
            raise ValueError(
                "Expected `ramp` to be a share of the alternate phase in [0, 1]. "
                f"Received: ramp={self.ramp!r}"
            )

    def plan(self, total_steps: int) -> tuple[int, int, int]:
        """Return the steps at which the switcher starts, the ramp ends and the model settles.

        Args:
            total_steps: Number of training steps in all.

        Returns:
            Three non-decreasing integers, at most `total_steps`.
        """
        begin = round(self.warmup * total_steps)
        settle = round((1 - self.settle) * total_steps)
        ramp_end = begin + round(self.ramp * (settle - begin))
        return begin, ramp_end, settle

    def get_config(self) -> dict[str, Any]:
        """Return the arguments as a dictionary, for saving by Keras."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Alternation":
        """Make an `Alternation` from what `get_config` returned."""
        return cls(**config)


class AlternationState(keras.layers.Layer):
    """The state of a model's alternation, held in weights so that every checkpoint includes it.

    `step` counts training steps. `plan` holds the result of `Alternation.plan`; until `fit` knows
    the length of training, it stands for "alternate from now on, without an end". `settled` is 1
    once the structure is frozen. `offset` is added to every logit, and `multiplier` is the price of
    density; see `objective.py` for both.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(dtype="float32", trainable=False, **kwargs)

        def state(name: str, shape: tuple[int, ...], dtype: str) -> Any:
            return self.add_weight(
                name=name,
                shape=shape,
                dtype=dtype,
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )

        # TensorFlow keeps variables of 32-bit integers on the CPU, where XLA on a GPU can't go.
        self.step = state("step", (), "int64")
        self.plan = state("plan", (3,), "int64")
        self.settled = state("settled", (), "int64")
        self.offset = state("offset", (), "float32")
        self.multiplier = state("multiplier", (), "float32")
        self.built = True
        self.restart()

    def restart(self) -> None:
        """Go back to the beginning of training."""
        self.step.assign(0)
        self.plan.assign((0, 0, _NEVER))
        self.settled.assign(0)
        self.offset.assign(0.0)
        self.multiplier.assign(0.0)

    def phase(self) -> str:
        """Return "warmup", "alternate" or "settle"."""
        step, settled = (int(ops.convert_to_numpy(v)) for v in (self.step, self.settled))
        if settled:
            return SETTLE
        return WARMUP if step < int(ops.convert_to_numpy(self.plan)[0]) else ALTERNATE

    def alternates(self) -> Any:
        """Return whether the phase is "alternate", as a boolean tensor."""
        return ops.logical_and(ops.equal(self.settled, 0), self.step >= self.plan[0])

    def is_switcher_turn(self, alternation: Alternation) -> Any:
        """Return whether a switcher's turn follows the step just counted, as a boolean tensor."""
        since = self.step - self.plan[0]
        is_due = ops.logical_and(since > 0, ops.equal(since % alternation.task_steps, 0))
        return ops.logical_and(self.alternates(), is_due)

    def target_density(self, target_sparsity: float) -> Any:
        """Return the target density at this step, as a float32 scalar tensor.

        It falls from 1 to `1 - target_sparsity` along a cubic curve, fast at first.

        Reference:
            [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878), the cubic schedule.
        """
        begin, end = self.plan[0], self.plan[1]
        elapsed = ops.cast(self.step - begin, "float32")
        length = ops.cast(ops.maximum(end - begin, 1), "float32")
        remaining = 1.0 - ops.clip(elapsed / length, 0.0, 1.0)
        return 1.0 - target_sparsity * (1.0 - remaining**3)
