"""What ends a search, and what must not."""

import time
from collections.abc import Callable
from typing import Any

import grpc
from keras_tuner.errors import FatalError

from keras_switcher.signals import Interrupted


class Stopped(Interrupted, FatalError):
    """A signal came; Keras Tuner takes it for the end of the search, not for a failed trial.

    Args:
        signal_number: The signal, SIGINT or SIGTERM.
    """


class PatientOracle:
    """A worker's way to the oracle of the chief, which asks again when the chief was killed.

    Keras Tuner waits for a chief that is not there yet; but a question that the chief was about to
    answer fails, and it would take that for a failure of the trial. All that is asked may be asked
    twice: a worker gets the same trial again, and one that has ended ends once.

    Args:
        client: What Keras Tuner asks.
        seconds: How long to wait before asking again.
    """

    def __init__(self, client: Any, seconds: float = 1.0):
        self._client = client
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._patient(found) if callable(found) else found

    def _patient(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            while True:
                try:
                    return ask(*args, **kwargs)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                time.sleep(self._seconds)

        return asked
