"""What options and arguments accept, and how the error messages say so."""

import dataclasses
import difflib
import math
import numbers
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard


class ConfigError(ValueError):
    """A configuration that can't be run; the message says what was expected."""

    exit_status = 2


@dataclasses.dataclass(frozen=True)
class Check:
    """What a field accepts.

    Args:
        expected: Completes "Expected <flag> to be ...".
        accepts: Function that returns whether a value is valid; it may raise a `ConfigError` with a
            message of its own.
    """

    expected: str
    accepts: Callable[[Any], bool]


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether a value is an integer, of Python or of NumPy, and not a boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number, of Python or of NumPy, and not a boolean."""
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def or_none(check: Check) -> Check:
    """Accept `None` in addition to what a check accepts."""
    return Check(f"{check.expected}, or none", lambda v: v is None or check.accepts(v))


def one_of(*names: str) -> Check:
    """Accept these names."""
    return Check(f"one of {', '.join(names)}", lambda v: isinstance(v, str) and v in names)


def registered(kind: str, module: str, attribute: str, *names: str) -> Check:
    """Accept a name in a registry, asking its module, which loads TensorFlow, only if imported."""

    def accepts(value: Any) -> bool:
        known = list(names)
        if f"keras_switcher.{module}" in sys.modules:
            known = getattr(sys.modules[f"keras_switcher.{module}"], attribute).names()
        if isinstance(value, str) and value in known:
            return True
        advice = nearest(value, known) or " For one of your own, --load the file that registers it."
        raise ConfigError(f"Unknown {kind} {value!r}.{advice} Known: {', '.join(known)}.")

    return Check(f"the name of a {kind}", accepts)


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return " Did you mean ...?", or nothing if no known name is similar."""
    found = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f" Did you mean '{found[0]}'?" if found else ""


def _is_widths(value: Any) -> bool:
    return isinstance(value, tuple) and all(is_integer(v) and v >= 1 for v in value)


FLAG = Check("true or false", lambda v: isinstance(v, bool))
COUNT = Check("an integer >= 1", lambda v: is_integer(v) and v >= 1)
RATE = Check("a number > 0", lambda v: is_number(v) and v > 0)
# More is too much for the clocks of some systems.
WAIT = Check("seconds, a number > 0, at most a week", lambda v: is_number(v) and 0 < v <= 604_800)
SHARE = Check("a share in [0, 1), where 95 % is 0.95", lambda v: is_number(v) and 0 <= v < 1)
INNER_SHARE = Check("a share in (0, 1)", lambda v: is_number(v) and 0 < v < 1)
WHOLE_SHARE = Check("a share in [0, 1]", lambda v: is_number(v) and 0 <= v <= 1)
UNIT_RATE = Check("a number in (0, 1]", lambda v: is_number(v) and 0 < v <= 1)
AMOUNT = Check("a number >= 0", lambda v: is_number(v) and v >= 0)
PATH = Check("a path, as text", lambda v: isinstance(v, str) and v != "")
FILES = Check(
    "paths of Python files, as text",
    lambda v: isinstance(v, (tuple, list)) and all(isinstance(p, str) and p for p in v),
)
SEED = Check("an integer in [0, 2**31)", lambda v: is_integer(v) and 0 <= v < 2**31)
WIDTHS = Check("widths of layers, integers >= 1", _is_widths)


def check_flags(holder: Any, checks: Mapping[str, Check], prefix: str = "--") -> None:
    """Check what flags have set.

    Args:
        holder: The object whose attributes they are.
        checks: What each accepts, by its name.
        prefix: What comes before the name, in the flag.

    Raises:
        ConfigError: If one is not accepted.
    """
    for name, check in checks.items():
        value = getattr(holder, name)
        if not check.accepts(value):
            flag = prefix + name.replace("_", "-")
            raise ConfigError(f"Expected {flag} to be {check.expected}. Received: {value}")
