"""What the options of `Config` accept, and the words in which they say so."""

import dataclasses
import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

from keras_switcher.registry import Registry


class ConfigError(ValueError):
    """A configuration that can't be run; the message says what would be right."""


@dataclasses.dataclass(frozen=True)
class Check:
    """What a field accepts.

    Args:
        expected: Completes "Expected <flag> to be ...".
        accepts: Returns whether a value is right; may raise `ConfigError` with a message of its
            own.
    """

    expected: str
    accepts: Callable[[Any], bool]


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def or_none(check: Check) -> Check:
    """Accept `None` beside what a check accepts."""
    return Check(f"{check.expected}, or none", lambda v: v is None or check.accepts(v))


def one_of(*names: str) -> Check:
    """Accept these names."""
    return Check(f"one of {', '.join(names)}", lambda v: isinstance(v, str) and v in names)


def registered(kind: str, module: str, attribute: str, *names: str) -> Check:
    """A name in a registry, whose module (which loads TensorFlow) is asked only if it is there."""
    own: Registry[None] = Registry(kind, f"@keras_switcher.{module}.{attribute}.register('name')")
    for name in names:
        own.register(name)(None)

    def accepts(value: Any) -> bool:
        if value in names:
            return True
        loaded = f"keras_switcher.{module}" in sys.modules
        registry: Registry[Any] = own
        if loaded:
            registry = getattr(importlib.import_module(f"keras_switcher.{module}"), attribute)
        try:
            registry.get(value)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return True

    return Check(f"the name of a {kind}", accepts)


def _is_widths(value: Any) -> bool:
    return isinstance(value, tuple) and all(is_integer(v) and v >= 1 for v in value)


FLAG = Check("true or false", lambda v: isinstance(v, bool))
COUNT = Check("an integer >= 1", lambda v: is_integer(v) and v >= 1)
RATE = Check("a number > 0", lambda v: _is_number(v) and v > 0)
SHARE = Check("a share in [0, 1)", lambda v: _is_number(v) and 0 <= v < 1)
INNER_SHARE = Check("a share in (0, 1)", lambda v: _is_number(v) and 0 < v < 1)
WHOLE_SHARE = Check("a share in [0, 1]", lambda v: _is_number(v) and 0 <= v <= 1)
AMOUNT = Check("a number >= 0", lambda v: _is_number(v) and v >= 0)
PATH = Check("a path", lambda v: isinstance(v, str) and v != "")
SEED = Check("an integer in [0, 2**31)", lambda v: is_integer(v) and 0 <= v < 2**31)
WIDTHS = Check("widths of layers, integers >= 1", _is_widths)
