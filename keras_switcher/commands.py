"""What the commands have in common: TensorFlow without its chatter, and messages on a console."""

import gc
import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler

from keras_switcher.checks import ConfigError
from keras_switcher.display import show_error, show_warning
from keras_switcher.files import RunError
from keras_switcher.signals import Interrupted

# Keras imports them if they are installed: for its wrappers, its galleries and data frames given to
# `fit`, which no command uses.
_UNUSED = ("matplotlib", "pandas", "sklearn")


def load_tensorflow(verbose: bool) -> None:
    """Import TensorFlow and Keras without the lines that they write on machines without a GPU.

    Keras does without the packages that it imports only to support them, which takes a quarter of
    the time; they can be imported afterwards.

    The objects that come with it are exempted from garbage collection: there are hundreds of
    thousands, they stay to the end, and examining them in every later collection would take a tenth
    of a short run.

    Args:
        verbose: Keep these lines; TensorFlow is then imported where it is first needed.
    """
    if verbose or "tensorflow" in sys.modules:
        return
    hidden = [name for name in _UNUSED if name not in sys.modules]
    # The lines come before any setting of TensorFlow's own can suppress them, so standard error is
    # discarded; errors are still raised.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept = os.dup(2)
    collects = gc.isenabled()
    gc.disable()
    # The `try` starts here because a signal may come at any line, and its message needs the real
    # standard error.
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        # An entry of None makes an import fail, as if the package were not installed.
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
        importlib.import_module("tensorflow")
        importlib.import_module("keras")
        gc.freeze()
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
        if collects:
            gc.enable()
        os.dup2(kept, 2)
        os.close(kept)


class Output(Console):
    """A console that falls silent when nobody reads it any more, as in `train.py | head`.

    Rich would end the process, and with it hours of training.
    """

    def on_broken_pipe(self) -> None:
        """Go on without output."""
        self.quiet = True
        # What could not be written is still in the buffer, which Python writes as it ends.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.file.fileno())


def run_command(command: Callable[[Console], int], verbose: bool, advice: str = "") -> int:
    """Run a command and report its errors, with their notes.

    Args:
        command: A function that takes a console for its output and returns the exit status.
        verbose: Show the library's log in full, and where an error was raised.
        advice: What to show if a signal stops it.

    Returns:
        The exit status: that of the command; 2 for a mistake in flags, files or data; 1 for work
        that failed; 130 and 143 after Ctrl-C and SIGTERM.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Rather a question mark than no result, where a terminal lacks a character.
        sys.stdout.reconfigure(errors="replace")
    errors = Output(stderr=True)
    with shown_messages(errors, verbose):
        try:
            return command(Output(file=sys.stdout))
        except KeyboardInterrupt:
            return 130
        except (Interrupted, RunError, ConfigError, OSError) as error:
            if verbose:
                errors.print_exception()
            show_error(errors, "\n".join([str(error), *getattr(error, "__notes__", [])]))
            if advice and isinstance(error, Interrupted):
                errors.print(advice, highlight=False)
            return getattr(error, "exit_status", 2)


@contextmanager
def shown_messages(console: Console, verbose: bool) -> Iterator[None]:
    """Show the library's log and warnings on a console, as long as the block lasts.

    Args:
        console: The console.
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
        # TensorFlow Datasets warns of missing folders that it then creates.
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
