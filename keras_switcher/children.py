"""Processes that this one has started: they get its signals, and end when it ends."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from keras_switcher.signals import stopping

_TO_END = 30.0


class Children:
    """Processes that this one has started.

    The first signal that asks this process to stop is passed on to all of them, so that each ends
    at a point from which it can be resumed; a second one kills them.
    """

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[Any]] = []
        self._signals: list[int] = []

    @property
    def signal(self) -> int | None:
        """The signal that was passed on, if there is one."""
        return self._signals[0] if self._signals else None

    @contextmanager
    def supervised(self) -> Iterator[None]:
        """Pass signals on as long as the block lasts, and end all processes with it."""
        before = {number: signal.signal(number, self._pass_on) for number in stopping()}
        try:
            yield
        finally:
            self.end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a process.

        Args:
            command: Its program and arguments.
            environment: Its environment variables.
            **options: More arguments of `subprocess.Popen`.

        Returns:
            The process.
        """
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            # So Ctrl-C in a terminal reaches only this process.
            process_group=0,
            **options,
        )
        self._processes.append(process)
        for number in self._signals[:2]:
            # They came before this process was started.
            process.send_signal(number)
        return process

    def end(self) -> None:
        """End the processes that still run, by force after a while."""
        running = [process for process in self._processes if process.poll() is None]
        if not self._signals:
            # Otherwise they have been asked, and a second signal would end them at once.
            for process in running:
                process.terminate()
        deadline = time.monotonic() + _TO_END
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        # A terminal that closes asks only this process to hang up.
        number = signal.SIGTERM if number == signal.SIGHUP else number
        self._signals.append(signal.SIGKILL if self._signals else number)
        for process in list(self._processes):
            process.send_signal(self._signals[-1])


def exit_status(returncode: int) -> int:
    """Return the exit status of a process as a shell gives it, 128 + 9 for one killed by SIGKILL.

    Args:
        returncode: `returncode` of its `subprocess.Popen`.
    """
    return returncode if returncode >= 0 else 128 - returncode


def how_it_ended(returncode: int) -> str:
    """Return how a process ended, in words that follow its name.

    Args:
        returncode: `returncode` of its `subprocess.Popen`.
    """
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"


def end_with(process: int, *, is_child: bool = True, forced_after: float | None = None) -> None:
    """Stop this process, as by SIGTERM, when another is gone.

    Args:
        process: The id of the other.
        is_child: Whether that one started this one, or only stands behind what did.
        forced_after: Seconds after which this process ends in any case; by default it may take as
            long as it needs.
    """

    def watch() -> None:
        while not has_ended(process, is_child):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        if forced_after is not None:
            time.sleep(forced_after)
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def has_ended(process: int, is_child: bool) -> bool:
    """Return whether a process has ended.

    Args:
        process: Its id.
        is_child: Whether this process was started by that one.
    """
    if is_child:
        # That it is the parent no longer shows even while nobody has waited for it.
        return os.getppid() != process
    try:
        os.kill(process, 0)
    except OSError:
        return True
    return False
