"""Ctrl-C, SIGTERM, a closing terminal: they end a run at a point from which it can be resumed."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The run was asked to stop by a signal.

    No `Exception`, as `KeyboardInterrupt` is none: a signal may come anywhere in others' code, and
    Keras, Keras Tuner and TFLite's converter turn every `Exception` into an error of their own.

    Args:
        signal_number: The signal, such as SIGINT.
    """

    def __init__(self, signal_number: int):
        super().__init__(f"Stopped by {signal.Signals(signal_number).name}.")
        self.exit_status = 128 + signal_number


def stopping() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a command, and the processes that it has started, to stop.

    A closing terminal counts as a request to stop, unless `nohup` makes this process ignore it.
    """
    asked = (signal.SIGINT, signal.SIGTERM)
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return asked if is_ignored else (*asked, signal.SIGHUP)


class StopSignals:
    """Turns these signals into `Interrupted`: at once or, during a `fit`, between batches.

    A second signal ends even a `fit` at once.
    """

    def __init__(self) -> None:
        self._deferred = False
        self._received: int | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals as long as the block lasts; for the main thread only."""
        before = {number: signal.getsignal(number) for number in stopping()}
        for number in before:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer signals until `check` is called or the block ends."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within `deferred`, raise what comes as long as the block lasts, as it may wait long."""
        before, self._deferred = self._deferred, False
        try:
            yield
        finally:
            self._deferred = before

    @property
    def received(self) -> int | None:
        """The signal that has come and was deferred, if there is one."""
        return self._received

    def check(self) -> None:
        """Raise `Interrupted` if a signal has come."""
        if self._received is not None:
            raise Interrupted(self._received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._deferred or self._received is not None:
            raise Interrupted(number)
        self._received = number
