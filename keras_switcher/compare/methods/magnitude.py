"""Magnitude pruning along the cubic schedule, in this project's own training loop."""

import keras

from keras_switcher.compare.method import Method, register
from keras_switcher.compare.pruned import READS, of_all_layers, pruned_model, uniform
from keras_switcher.compare.work import Work


@register("magnitude-uniform")
class UniformMagnitude(Method):
    """Every layer loses the same share of its connections: those with the smallest weights.

    Reference:
        [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    title = "magnitude, uniform"
    reads = READS

    def model(self, work: Work) -> keras.Model:
        return pruned_model(work, uniform)


@register("magnitude-global")
class GlobalMagnitude(Method):
    """The smallest weights of all layers together are removed, whatever that leaves of each layer.

    Reference:
        [Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878), the schedule.
    """

    title = "magnitude, global"
    reads = READS

    def model(self, work: Work) -> keras.Model:
        return pruned_model(work, of_all_layers)
