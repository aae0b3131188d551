"""Sparse Keras 3 models by a switcher network."""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

# The classes must be known to Keras before a saved model is loaded, so all is imported at once.
# Only the commands ask for less: they answer --help and wrong flags before TensorFlow loads, and
# the launcher needs nothing of it. What is asked for nevertheless is imported then.
_flags_first = (
    os.environ.pop("KERAS_SWITCHER_FLAGS_FIRST", None) is not None
    or not {
        "keras_switcher.launch",
        "keras_switcher.tuning",
        "keras_switcher.compare",
        "keras_switcher.compare.cell",
    }.isdisjoint(sys.orig_argv)
    # As pip installs them.
    or any("/keras-switcher-" in name for name in sys.orig_argv[1:2])
)
if _flags_first or sys.orig_argv[1:3] in (["-m", "export"], ["-m", "keras_switcher.export"]):
    # A command: nothing else in its process has a say in it.
    os.environ["KERAS_BACKEND"] = "tensorflow"
_backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
if "keras" in sys.modules:
    _backend = sys.modules["keras"].config.backend()
if _backend != "tensorflow":
    raise ImportError(
        "Expected the TensorFlow backend of Keras, as the training step is TensorFlow's. Received: "
        f"{_backend}. Set KERAS_BACKEND=tensorflow before Keras is imported."
    )
if TYPE_CHECKING or not _flags_first:
    from keras_switcher import models
    from keras_switcher.alternation import Alternation
    from keras_switcher.convert import strip, switch
    from keras_switcher.layers import SwitchedDense
    from keras_switcher.model import SwitchedModel
    from keras_switcher.switchers import (
        ConnectionSwitcher,
        FreeSwitcher,
        OrthogonalSwitcher,
        Switcher,
        UnitSwitcher,
    )

__version__ = "0.1.0"
__all__ = [
    "Alternation",
    "ConnectionSwitcher",
    "FreeSwitcher",
    "OrthogonalSwitcher",
    "SwitchedDense",
    "SwitchedModel",
    "Switcher",
    "UnitSwitcher",
    "models",
    "strip",
    "switch",
]

_MODULES = ("alternation", "convert", "layers", "model", "switchers")


def __getattr__(name: str) -> Any:
    if _flags_first and name in __all__:
        if name == "models":
            return importlib.import_module("keras_switcher.models")
        for module in _MODULES:
            found = vars(importlib.import_module(f"keras_switcher.{module}"))
            if name in found:
                return found[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
