"""PQuantML's dynamic sparse training: trained thresholds."""

import math
from typing import Any

import keras
import numpy as np

from keras_switcher.compare.method import register
from keras_switcher.compare.plan import COURSE, TRAINING
from keras_switcher.compare.pquantml import PquantMethod, kernel_of, phases
from keras_switcher.compare.work import Work
from keras_switcher.settling import choose_on

# How often the strength of a penalty is adapted, if that is not oftener than after so many batches:
# a short training would be far from its target when it has to meet it, but thresholds take a while
# to follow.
_TIMES, _LEAST_BATCHES = 25, 50


@register("pquant-dst")
class Dst(PquantMethod):
    """Dynamic sparse training: a trained threshold for the weights of every unit.

    It knows no target: the strength of its penalty decides how sparse a network becomes. That
    strength starts from the authors' value for MNIST. After each epoch in which it prunes, and in a
    short training also within them, about 25 times in all but never within 50 batches, it is
    multiplied by the ratio of the odds of the density two such times later, if they go on changing
    as they do, to the odds of the target density, but at least by 1/2 and at most by 2. The
    remaining difference is made up before fine-tuning: the connections whose weights are furthest
    above their thresholds stay on.

    Reference:
        [Liu et al., 2020](https://arxiv.org/abs/2005.06870).
    """

    title = "PQuantML, DST"
    # It has no course.
    reads = (TRAINING | COURSE) - {"ramp"}
    name = "dst"

    def configure(self, parameters: Any, work: Work, epochs: int) -> None:
        self._odds: float | None = None
        # As in the authors' code, https://github.com/junjieliu2910/DynamicSparseTraining. In the
        # package's own configuration there is a threshold for every weight, and the penalty is a
        # hundredth of this.
        parameters.threshold_type = "channelwise"
        # Above this share, a layer's thresholds would start again from 0.
        parameters.max_pruning_pct = 1.0
        # A variable, because the penalty is compiled into the step.
        parameters.alpha = keras.Variable(5e-4, trainable=False, dtype="float32")

    def thresholds(self, layers: list[Any]) -> list[Any]:
        return [layer.pruning_layer.threshold for layer in layers]

    def begin(self, layers: list[Any], epoch: int) -> None:
        self._epoch, self._part = epoch, 0

    def within(self, layers: list[Any], parameters: Any, work: Work, batches: int) -> None:
        _, pruning, _ = phases(work)
        if not 0 <= self._epoch < pruning or batches == work.steps_per_epoch:
            return
        # In an epoch, its end included.
        times = min(math.ceil(_TIMES / pruning), work.steps_per_epoch // _LEAST_BATCHES)
        part = batches * times // work.steps_per_epoch
        if part > self._part:
            self._part = part
            self._adapt(layers, parameters, work)

    def _adapt(self, layers: list[Any], parameters: Any, work: Work) -> None:
        masks = [layer.pruning_layer.mask for layer in layers]
        density = float(sum(keras.ops.sum(mask) for mask in masks))
        density /= sum(math.prod(mask.shape) for mask in masks)
        odds = _odds(density)
        # Thresholds keep moving for a while, so without looking ahead the density would swing.
        ahead = odds * (1.0 if self._odds is None else odds / self._odds) ** 2
        self._odds = odds
        change = ahead / _odds(1 - work.target_sparsity)
        parameters.alpha.assign(parameters.alpha * min(max(change, 0.5), 2.0))

    def end(self, layers: list[Any], parameters: Any, work: Work, epoch: int) -> None:
        _, pruning, _ = phases(work)
        if not 0 <= epoch < pruning:
            return
        if epoch < pruning - 1:
            self._adapt(layers, parameters, work)
            return
        masks = [layer.pruning_layer.mask for layer in layers]
        above = [
            np.abs(keras.ops.convert_to_numpy(kernel_of(layer)).T)
            - keras.ops.convert_to_numpy(layer.pruning_layer.threshold)
            for layer in layers
        ]
        sizes = [np.ones((len(each), 1), "float32") for each in above]
        for mask, on in zip(masks, choose_on(above, sizes, work.target_sparsity), strict=True):
            mask.assign(on.astype("float32"))


def _odds(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return share / (1 - share)
