"""This project's method, as `train.py` trains it."""

import keras

from keras_switcher.compare.method import Method, Work, register
from keras_switcher.config import Config
from keras_switcher.convert import switch
from keras_switcher.networks import Start, switched_model
from keras_switcher.runs import RunError


@register("switcher")
class Switcher(Method):
    """Switcher networks read the kernels and switch connections off (docs/method.md)."""

    title = "switcher network"

    def check(self, config: Config, start: Start) -> None:
        granularity = config.switching.granularity
        if granularity != "connection":
            try:
                switch(start.learned, granularity=granularity)
            except ValueError as error:
                raise RunError(str(error)) from error

    def model(self, work: Work) -> keras.Model:
        return switched_model(work.config, work.data, work.start())
