"""The workers of a run: how they agree, and how they learn that one of them is gone.

TensorFlow's collectives carry the training. The messages of this module go over a connection from
each worker to the chief: whether all have the same options and data, the checkpoint to go on from,
that a signal came, and that a worker ended. The connection is made at the chief's address before
TensorFlow takes that address.
"""

import json
import logging
import os
import queue
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_switcher.checks import ConfigError
from keras_switcher.children import end_with
from keras_switcher.cluster import Cluster
from keras_switcher.files import RunError
from keras_switcher.messages import (
    ALIVE,
    ALIVE_EVERY,
    BYE,
    DATA,
    LOST_AFTER,
    STOPPED,
    VALUE,
    VALUES,
    Connection,
    told,
)
from keras_switcher.programs import resuming_command

logger = logging.getLogger(__name__)

# In the environment of the launcher's workers: its process id, those of its flags that are needed
# to start them again, and, with these, the GPUs of each worker.
LAUNCHER = "KERAS_SWITCHER_LAUNCHER"
LAUNCHER_FLAGS = "KERAS_SWITCHER_LAUNCHER_FLAGS"
# Seconds that TensorFlow gets to notice by itself that a worker is lost.
GRACE = 10.0


class WorkerLost(RunError):
    """Another worker of the run ended or fell silent."""

    # "Temporary failure" among the exit statuses of sysexits.h: this worker is not to blame.
    exit_status = 75


class Workers:
    """The workers of a run, seen from one of them. In this class, it is the only one."""

    index = 0
    count = 1
    # How to go on, for a worker that ends because another is gone.
    advice = ""

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes the run's folder."""
        return self.index == 0

    def gather(self, what: str, value: Any) -> list[Any]:
        """Return the values of all workers in the order of their indices; wait for all.

        Args:
            what: What the value is, in words.
            value: The value of this worker, in the types of JSON.

        Raises:
            WorkerLost: If another worker is gone.
        """
        return [value]

    def from_chief(self, what: str, make: Callable[[], bytes]) -> bytes:
        """Return, on all workers, the bytes that the chief makes.

        Args:
            what: What the bytes are, in words.
            make: Makes the bytes; called only on the chief.

        Raises:
            WorkerLost: If another worker is gone.
        """
        return make()

    def check_same(self, what: str, value: Any) -> None:
        """Check that a value is the same on all workers.

        Args:
            what: What the value is, in words.
            value: The value of this worker, in the types of JSON.

        Raises:
            ConfigError: If it isn't.
        """
        values = self.gather(what, value)
        if any(other != values[0] for other in values):
            received = ", ".join(f"worker {i}: {other}" for i, other in enumerate(values))
            raise ConfigError(
                f"Expected {what} to be the same on all workers. Received: {received}"
            )

    @contextmanager
    def chief_first(self, what: str) -> Iterator[None]:
        """Run the block on the chief and then on the others, which may read what it writes.

        Args:
            what: What the block does, in words.
        """
        if not self.is_chief:
            self.gather(what, None)
        yield
        if self.is_chief:
            self.gather(what, None)

    def loss(self, wait: bool = False) -> WorkerLost | None:
        """Return an error that says which worker is lost, if one is.

        Args:
            wait: Whether to wait until this is known, because something else has failed that
                suggests it.
        """
        return None


def how_to_resume(path: Path, workers: Workers) -> str:
    """Return how to resume a run that was stopped.

    Args:
        path: The run's folder.
        workers: The workers of the run.
    """
    flags = f"--run-dir {shlex.quote(str(path))} --resume"
    program = sys.argv[0]
    if LAUNCHER in os.environ:
        script = f"{shlex.quote(program)} " if program.endswith(".py") else ""
        launcher = f"python -m keras_switcher.launch --workers {workers.count} "
        return f"Go on with: {launcher}{os.environ.get(LAUNCHER_FLAGS, '')}{script}{flags}"
    if workers.count > 1:
        return f"Go on with the same command and {flags}, on every worker."
    return f"Go on with: {resuming_command()} {flags}"


class ConnectedWorkers(Workers):
    """Several workers, each connected to the chief."""

    def __init__(self, cluster: Cluster, connections: dict[int, Connection]):
        self.index = cluster.index
        self.count = cluster.size
        self._addresses = cluster.addresses
        self._connections = connections
        self._received: dict[int, queue.Queue[tuple[bytes, Any] | None]] = {}
        self._lost: WorkerLost | None = None
        self._is_lost = threading.Event()
        self._has_left = threading.Event()
        self._changing = threading.Lock()
        # All must receive an answer before any of them hears that the first to receive it has left.
        self._telling = threading.RLock()
        for other, connection in connections.items():
            self._received[other] = queue.Queue()
            threading.Thread(target=self._hear, args=(other, connection), daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()
        if launcher := int(os.environ.get(LAUNCHER, 0)):
            # The script that it started may run the training in a process of its own.
            end_with(launcher, is_child=os.getppid() == launcher)

    def gather(self, what: str, value: Any) -> list[Any]:
        if not self.is_chief:
            self._send(0, VALUE, [what, value])
            values: list[Any] = self._next(0, VALUES, what)
            return values
        values = [json.loads(json.dumps(value))]
        values += [self._next(other, VALUE, what) for other in sorted(self._connections)]
        with self._telling:
            for other in self._connections:
                self._send(other, VALUES, [what, values])
        return values

    def from_chief(self, what: str, make: Callable[[], bytes]) -> bytes:
        if not self.is_chief:
            received: bytes = self._next(0, DATA, what)
            return received
        content = make()
        with self._telling:
            for other in self._connections:
                self._send(other, DATA, content)
        return content

    def loss(self, wait: bool = False) -> WorkerLost | None:
        # The end of a worker shows in its connection about as soon as in a collective.
        self._is_lost.wait(2 * ALIVE_EVERY if wait else 0)
        return self._lost

    def leave(self, problem: str | None) -> None:
        """Tell the others that this worker leaves, and why."""
        self._has_left.set()
        for connection in self._connections.values():
            with suppress(OSError):
                if problem is None:
                    connection.send(BYE)
                else:
                    connection.send(STOPPED, [self.index, f"it stopped: {problem}"])
            connection.close()

    def _send(self, other: int, kind: bytes, content: Any) -> None:
        try:
            self._connections[other].send(kind, content)
        except OSError as error:
            # Its last message may still be on its way.
            self._is_lost.wait(ALIVE_EVERY)
            self._lose(other, told(error))
            raise self._lost or WorkerLost(f"Lost worker {other}.") from error

    def _next(self, other: int, expected: bytes, what: str) -> Any:
        received = self._received[other]
        if self._lost is not None:
            # What it said before it ended still counts; the end comes last.
            received.put(None)
        message = received.get()
        if message is None:
            raise self._lost or WorkerLost(f"Lost worker {other}.")
        kind, content = message
        if kind == DATA and expected == DATA:
            return content
        if kind != expected or content[0] != what:
            raise RunError(
                f"The workers are out of step: worker {self.index} expected {what} of worker "
                f"{other}. Received: {content[0] if kind != DATA else 'other data'}"
            )
        return content[1]

    def _hear(self, other: int, connection: Connection) -> None:
        """Receive the messages of another worker until it leaves or is lost."""
        try:
            while True:
                kind, content = connection.receive(LOST_AFTER)
                if kind == BYE:
                    return
                if kind == STOPPED:
                    self._lose(*content)
                    return
                if kind != ALIVE:
                    self._received[other].put((kind, content))
        except TimeoutError:
            self._lose(other, f"it was silent for {LOST_AFTER:g} s")
        except (OSError, ValueError) as error:
            self._lose(other, told(error))

    def _lose(self, other: int, how: str) -> None:
        with self._changing:
            if self._lost is not None or self._has_left.is_set():
                return
            self._lost = WorkerLost(
                f"Lost worker {other} ({self._addresses[other]}): {how.rstrip('.')}."
            )
        self._is_lost.set()
        for received in self._received.values():
            received.put(None)
        if self.is_chief:
            for index in set(self._connections) - {other}:
                with self._telling, suppress(OSError):
                    self._connections[index].send(STOPPED, [other, how])
        threading.Thread(target=self._end_by_force, daemon=True).start()

    def _end_by_force(self) -> None:
        """End the process by force if its main thread waits for something that never comes."""
        if not self._has_left.wait(GRACE):
            print("\n".join(["", f"Error: {self._lost}", self.advice]), file=sys.stderr, flush=True)
            # Every file that was written is whole, so this is no worse than being killed.
            os._exit(WorkerLost.exit_status)

    def _live(self) -> None:
        """Signal that this worker is alive."""
        while not self._has_left.wait(ALIVE_EVERY):
            for connection in self._connections.values():
                with suppress(OSError):
                    # A worker that is slow to receive a checkpoint must not keep the others
                    # waiting.
                    connection.send_if_free(ALIVE)
