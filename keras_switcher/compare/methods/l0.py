"""L0 regularisation by hard concrete gates, held to the target as a constraint."""

import itertools

import keras

from keras_switcher.compare.hard_concrete import (
    GateParameters,
    HardConcreteDense,
    HardConcreteModel,
)
from keras_switcher.compare.method import Method, register
from keras_switcher.compare.pruned import READS
from keras_switcher.compare.work import Work
from keras_switcher.copying import converted_functional
from keras_switcher.networks import alternation_of, compiled_switched

# Neither has a published value for a target that falls along a course. The first was not tuned. On
# the second, see docs/results/compare-details.md: a short training needs a greater one.
GATE_RATE = 0.02
_MULTIPLIER_RATE, _MULTIPLIER_STEPS = 0.1, 1000


@register("l0")
class HardConcrete(Method):
    """A stochastic gate for each connection, learned together with the weights.

    Reference:
        - [Louizos et al., 2018](https://arxiv.org/abs/1712.01312), the gates.
        - [Gallego-Posada et al., 2022](https://arxiv.org/abs/2208.04425), the constraint.
    """

    title = "L0, hard concrete"
    reads = READS

    def model(self, work: Work) -> keras.Model:
        start = work.start()
        # The layers' noise must differ.
        seeds = itertools.count(1000 * work.config.optimisation.seed)

        def convert(layer: keras.layers.Layer) -> keras.layers.Layer | None:
            if not isinstance(layer, keras.layers.Dense):
                return None
            config = {n: v for n, v in layer.get_config().items() if n != "quantization_config"}
            config["dtype"] = layer.dtype_policy.name
            seed = next(seeds)
            return HardConcreteDense(**config, switcher=GateParameters(seed=seed), seed=seed)

        graph = converted_functional(start.learned, convert)
        model = HardConcreteModel(graph.inputs, graph.outputs)
        return compiled_switched(
            work.config,
            work.data,
            start,
            model,
            switcher_optimizer=keras.optimizers.Adam(GATE_RATE),
            multiplier_rate=_multiplier_rate(work),
        )


def _multiplier_rate(work: Work) -> float:
    """Return the rate at which the multiplier rises, by the steps in which the target falls."""
    steps = work.config.optimisation.epochs * work.steps_per_epoch
    begin, _, settle = alternation_of(work.config).plan(steps)
    return min(1.0, max(_MULTIPLIER_RATE, _MULTIPLIER_STEPS / max(1, settle - begin)))
