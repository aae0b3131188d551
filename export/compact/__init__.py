"""Keras to Keras: the same model without the units, channels and inputs that zeros made useless."""

from .changes import LayerChange, LayerSize
from .compaction import Compacted, compact

__all__ = ["Compacted", "LayerChange", "LayerSize", "compact"]
