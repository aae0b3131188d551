"""Switches without a switcher network: from free logits, from ranks of magnitudes, and random."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_switcher.compare.method import Method, register
from keras_switcher.compare.methods.switcher import Switcher
from keras_switcher.compare.plan import TRAINING
from keras_switcher.compare.pruned import READS, MagnitudeSwitcher
from keras_switcher.compare.work import Work
from keras_switcher.convert import switch
from keras_switcher.networks import compiled_switched, switched_model
from keras_switcher.switchers import FreeSwitcher

_READS = READS | {
    *("granularity", "gate", "task_steps", "switcher_steps"),
    # These matter with magnitudes, too, as the layers' offsets are learned.
    *("switcher_optimizer", "switcher_learning_rate", "multiplier_rate"),
}


@register("free")
class FreeSwitches(Switcher):
    """The switcher's training without a switcher network: a free logit for each connection.

    Target, phases, objective and gate are the switcher's own, so the difference shows what reading
    the weights contributes.
    """

    title = "free logits, no network"
    reads = _READS

    def model(self, work: Work) -> keras.Model:
        start = work.start()
        switcher = FreeSwitcher(seed=work.config.optimisation.seed)
        return switched_model(work.config, work.data, start, switcher)


@register("magnitude-switcher")
class MagnitudeSwitches(Switcher):
    """The switcher's training with the weights' magnitudes in place of the network's logits.

    Offsets still spread the density over the layers, but which connections of a layer are on is not
    learned; the difference shows what learning it contributes.
    """

    title = "magnitude in the switcher's place"
    reads = _READS

    def model(self, work: Work) -> keras.Model:
        return switched_model(work.config, work.data, work.start(), MagnitudeSwitcher())


@register("random")
class RandomMask(Method):
    """A random mask, fixed before training, with Erdos-Renyi densities for the layers.

    Reference:
        [Mocanu et al., 2018](https://arxiv.org/abs/1707.04780), the densities.
    """

    title = "random mask"
    reads = TRAINING | {"rate_exponent"}

    def model(self, work: Work) -> keras.Model:
        start = work.start()
        model = switch(start.learned, switcher=MagnitudeSwitcher())
        compiled_switched(work.config, work.data, start, model)
        layers = model.switched_layers()
        shapes = [tuple(layer.kernel.shape) for layer in layers]
        densities = erdos_renyi(shapes, 1 - work.target_sparsity)
        random = np.random.default_rng(work.config.optimisation.seed)
        for layer, density in zip(layers, densities, strict=True):
            shape = tuple(layer.switches.shape)
            count = math.prod(shape)
            on = random.permutation(count) < max(1, round(density * count))
            layer.switches.assign(on.reshape(shape).astype("float32"))
        # The structure stays, as a model that has settled enters no other phase.
        model.alternation_state.settled.assign(1)
        return model


def erdos_renyi(shapes: Sequence[tuple[int, int]], density: float) -> list[float]:
    """Return the density of each layer, such that `density` of all connections are on.

    It is proportional to `(inputs + units) / (inputs * units)`, and at most 1.

    Args:
        shapes: Inputs and units of each layer.
        density: The share of all connections that are on, in [0, 1].
    """
    sizes = np.array([inputs * units for inputs, units in shapes], "float64")
    raw = np.array([inputs + units for inputs, units in shapes]) / sizes
    low, high = 0.0, float(1 / raw.min())
    for _ in range(60):
        middle = (low + high) / 2
        wanted = np.minimum(1.0, middle * raw) @ sizes <= density * sizes.sum()
        low, high = (middle, high) if wanted else (low, middle)
    return [float(share) for share in np.minimum(1.0, low * raw)]
