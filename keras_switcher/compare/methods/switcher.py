"""This project's method, as `train.py` trains it."""

import keras

from keras_switcher.compare.method import Method, check_granularity, register
from keras_switcher.compare.work import Work
from keras_switcher.config import Config
from keras_switcher.networks import Start, switched_model


@register("switcher")
class Switcher(Method):
    """Switcher networks read the kernels and switch connections off (docs/method.md)."""

    title = "switcher network"

    def check(self, config: Config, start: Start) -> None:
        check_granularity(config, start)

    def model(self, work: Work) -> keras.Model:
        return switched_model(work.config, work.data, work.start())
