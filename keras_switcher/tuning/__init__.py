"""The search over the switcher's architecture with Keras Tuner.

`python -m keras_switcher.tuning` is the command; `SwitcherHyperModel` is for your own scripts.
"""

from typing import TYPE_CHECKING

from keras_switcher import _flags_first

if TYPE_CHECKING or not _flags_first:
    from keras_switcher.tuning.hypermodel import SwitcherHyperModel
    from keras_switcher.tuning.memory import forget_gradients
    from keras_switcher.tuning.objective import objective

__all__ = ["SwitcherHyperModel", "forget_gradients", "objective"]
