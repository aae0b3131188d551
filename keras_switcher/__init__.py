"""Sparse Keras 3 models by a switcher network."""

import os
import sys
from typing import TYPE_CHECKING

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

# The classes must be known to Keras before a saved model is loaded, so all is imported at once.
# Only `train.py` asks for less: it answers --help and wrong flags before TensorFlow loads. And the
# launcher, which needs nothing of it: its workers do. The search does as `train.py`.
_flags_first = (
    os.environ.pop("KERAS_SWITCHER_FLAGS_FIRST", None) is not None
    or not {"keras_switcher.launch", "keras_switcher.tuning"}.isdisjoint(sys.orig_argv)
    or any(
        name.endswith(("/keras-switcher-launch", "/keras-switcher-tune"))
        for name in sys.orig_argv[1:2]
    )
)
if TYPE_CHECKING or not _flags_first:
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
