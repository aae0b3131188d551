"""Sparse Keras 3 models by a switcher network."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from keras_switcher import models
from keras_switcher.alternation import Alternation
from keras_switcher.convert import strip, switch
from keras_switcher.layers import SwitchedDense
from keras_switcher.model import SwitchedModel
from keras_switcher.switchers import ConnectionSwitcher, Switcher, UnitSwitcher

__version__ = "0.1.0"
__all__ = [
    "Alternation",
    "ConnectionSwitcher",
    "SwitchedDense",
    "SwitchedModel",
    "Switcher",
    "UnitSwitcher",
    "models",
    "strip",
    "switch",
]
