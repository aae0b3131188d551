"""What the commands have in common: TensorFlow without its chatter, and messages on a console."""

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler

from keras_switcher.display import show_warning


def load_tensorflow(verbose: bool) -> None:
    """Import TensorFlow without the lines that it writes on machines without a GPU.

    Args:
        verbose: Keep them.
    """
    if verbose or "tensorflow" in sys.modules:
        return
    # They come before any of its own settings can keep them back. What goes wrong, raises.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    # From here on: a signal may come at any line, and has something to say.
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("tensorflow")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def shown_messages(console: Console, verbose: bool) -> Iterator[None]:
    """Show the library's log and warnings on a console, as long as the block lasts.

    Args:
        console: Where.
        verbose: Show the log in full.
    """
    library = logging.getLogger("keras_switcher")
    handler = RichHandler(console=console, show_time=False, show_path=False)
    level, propagates = library.level, library.propagate
    library.addHandler(handler)
    # TensorFlow gives the root logger a handler of its own.
    library.propagate = False
    library.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        # TensorFlow Datasets warns of folders that it goes on to make.
        logging.getLogger("absl").setLevel(logging.ERROR)

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, UserWarning):
            show_warning(console, str(message))

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)
        library.propagate = propagates
