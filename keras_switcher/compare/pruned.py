"""Networks whose connections are chosen by a rule, in this project's own training loop."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_switcher.compare.plan import COURSE, TRAINING
from keras_switcher.compare.work import Work
from keras_switcher.convert import switch
from keras_switcher.model import SwitchedModel
from keras_switcher.networks import alternation_of, compiled_switched
from keras_switcher.registry import PACKAGE
from keras_switcher.switchers import Switcher

# Takes the kernels and the share of connections to keep; returns for each kernel the scores, of its
# shape, and the least score that stays on.
Rule = Callable[[Sequence[Any], Any], list[tuple[Any, Any]]]

# Options that a method in this project's loop reads if its structure does not come from a switcher.
READS = TRAINING | COURSE | {"rate_exponent"}
# As in `prune_low_magnitude` of TensorFlow Model Optimization.
UPDATE_EVERY = 100


@keras.saving.register_keras_serializable(PACKAGE)
class MagnitudeSwitcher(Switcher):
    """Takes the place of a switcher network; its logits are the magnitudes.

    A `PrunedModel`, which chooses by its rule, does not use it.
    """

    def call(self, kernel: Any) -> Any:
        return ops.abs(kernel)


class PrunedModel(SwitchedModel):
    """A model that turns off the connections with the smallest scores, along the cubic course.

    Warm-up, the course of the target, and settling are those of `SwitchedModel`. A connection that
    is off gets no gradient, and may turn on again until the model settles. Until then its weight
    changes only by the optimiser's momentum and weight decay.

    Args:
        *args: Inputs and outputs of a graph with `SwitchedDense` layers.
        rule: Function that returns the scores and thresholds.
        **kwargs: Keyword arguments of `SwitchedModel`.

    Reference:
        [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878), gradual pruning.
    """

    learns_switches = False

    def __init__(self, *args: Any, rule: Rule, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rule = rule

    def switcher_step(self, gradients: list[Any]) -> None:
        """Choose the connections again, at the density that the target's course requires."""
        self._choose(self.alternation_state.target_density(self.target_sparsity or 0.0))

    def choose_structure(self) -> None:
        """Choose the connections a last time, at the target."""
        self._choose(ops.convert_to_tensor(1.0 - (self.target_sparsity or 0.0), "float32"))

    def _choose(self, density: Any) -> None:
        layers = self.switched_layers()
        chosen = self.rule([ops.convert_to_tensor(layer.kernel) for layer in layers], density)
        for layer, (scores, least) in zip(layers, chosen, strict=True):
            layer.switches.assign(ops.cast(scores >= least, "float32"))


def uniform(kernels: Sequence[Any], density: Any) -> list[tuple[Any, Any]]:
    """Keep the same share of connections in every layer: those with the largest weights."""
    sizes = [ops.abs(kernel) for kernel in kernels]
    return [(size, _least([size], density)) for size in sizes]


def of_all_layers(kernels: Sequence[Any], density: Any) -> list[tuple[Any, Any]]:
    """Keep the connections with the largest weights across all layers."""
    sizes = [ops.abs(kernel) for kernel in kernels]
    least = _least(sizes, density)
    return [(size, least) for size in sizes]


def _least(scores: Sequence[Any], density: Any) -> Any:
    """Return the least score that the largest share `density` includes; at least one is kept."""
    falling = -ops.sort(-ops.concatenate([ops.reshape(score, (-1,)) for score in scores]))
    count = int(falling.shape[0])
    kept = ops.cast(ops.round(density * count), "int32")
    return ops.take(falling, ops.clip(kept - 1, 0, count - 1))


def pruned_model(work: Work, rule: Rule) -> PrunedModel:
    """Return the network of a work as a compiled `PrunedModel`.

    Args:
        work: The work to do.
        rule: Function that returns the scores and thresholds.
    """
    start = work.start()
    graph = switch(start.learned, switcher=MagnitudeSwitcher())
    model = PrunedModel(graph.inputs, graph.outputs, rule=rule)
    _, _, every = course(work)
    alternation = alternation_of(work.config, task_steps=every, switcher_steps=1)
    return compiled_switched(work.config, work.data, start, model, alternation=alternation)


def course(work: Work) -> tuple[int, int, int]:
    """Return the first and the last step at which the masks change, and the steps between changes.

    The first and last steps are those of the switcher's target, with the last moved by less than
    the steps between two changes, so that the last change meets the final sparsity.

    Args:
        work: The work to do.
    """
    steps = work.steps_per_epoch * work.config.optimisation.epochs
    begin, end, _ = alternation_of(work.config).plan(steps)
    every = max(1, min(UPDATE_EVERY, (end - begin) // 10))
    return begin, begin + max(1, (end - begin) // every) * every, every
