"""Methods compared on the same work: `python -m keras_switcher.compare`."""

from typing import Any

__all__ = ["Method", "Trained", "Work", "register"]


def __getattr__(name: str) -> Any:
    # The command answers a wrong flag before TensorFlow is loaded.
    if name in __all__:
        # The methods first, so that one of a user's own does not take the name of one of them.
        from keras_switcher.compare import method, methods, work  # noqa: F401

        return getattr(work if name == "Work" else method, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
