"""Errors that end a search, and those that must not."""

import time
from collections.abc import Callable
from typing import Any

import grpc
from keras_tuner.errors import FatalError

from keras_switcher.files import RunError
from keras_switcher.signals import StopSignals


class NotTheTrial(RunError, FatalError):
    """An error for which a trial is not to blame, and after which it is still under way.

    Keras Tuner takes every other error for a failure of the trial.
    """

    exit_status = 1


class ChiefLost(NotTheTrial):
    """A worker has waited for its chief as long as Keras Tuner does."""


class PatientOracle:
    """A worker's way to the oracle of the chief, which asks again if the chief was killed.

    Keras Tuner waits for a chief that is not there yet. But a request that the chief was about to
    answer fails, and Keras Tuner would take that for a failure of the trial. Every request may be
    repeated: a worker gets the same trial again, and a trial that has ended ends only once.

    Args:
        client: The client by which Keras Tuner asks the chief.
        stop: The signals that stop the search, even while it waits for an answer.
        seconds: How long to wait before asking again.

    Raises:
        ChiefLost: On any request.
    """

    def __init__(self, client: Any, stop: StopSignals, seconds: float = 1.0):
        self._client = client
        self._stop = stop
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._patient(found) if callable(found) else found

    def _patient(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            while True:
                try:
                    with self._stop.at_once():
                        return ask(*args, **kwargs)
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                        # Keras Tuner would take it for a failure of the trial.
                        raise ChiefLost(
                            "The chief has not answered for an hour. Start both again under the "
                            "same names: nothing is lost."
                        ) from error
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                self._stop.check()
                time.sleep(self._seconds)

        return asked
