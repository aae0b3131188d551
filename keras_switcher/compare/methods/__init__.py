"""The methods that are compared: a file for each family, all behind `compare.method.Method`."""

from keras_switcher.compare.methods import (
    dense,
    l0,
    magnitude,
    pquant_dst,
    pquant_pdp,
    switcher,
    tfmot,
    without_network,
)

__all__ = [
    "dense",
    "l0",
    "magnitude",
    "pquant_dst",
    "pquant_pdp",
    "switcher",
    "tfmot",
    "without_network",
]
