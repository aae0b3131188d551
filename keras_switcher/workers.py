"""The workers of a run: how they meet, agree, and learn that one of them is gone.

TensorFlow's collectives carry the training. What is said here goes over a connection of each worker
to the chief: whether all have the same options and data, the checkpoint to go on from, that a
signal came, and that a worker ended. It is made at the chief's address before TensorFlow takes it.
"""

import json
import logging
import os
import queue
import shlex
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from keras_switcher.checks import ConfigError
from keras_switcher.cluster import Cluster, split_address
from keras_switcher.runs import RunError

logger = logging.getLogger(__name__)

# The process id of the launcher, in the environment of its workers.
LAUNCHER = "KERAS_SWITCHER_LAUNCHER"
# A worker that is alive says so this often, and is lost after this long a silence.
ALIVE_EVERY = 2.0
LOST_AFTER = 60.0
# What TensorFlow is given to notice by itself that a worker is lost.
GRACE = 10.0

_HEADER = struct.Struct("!4scQ")
_MAGIC = b"KSW1"
_HELLO, _WELCOME, _REFUSED, _ALIVE = b"H", b"W", b"R", b"A"
_VALUE, _VALUES, _DATA, _STOPPED, _BYE = b"V", b"L", b"D", b"S", b"B"
_PROBE = b"P"
_SHORT = 2**24


class WorkerLost(RunError):
    """Another worker of the run ended or fell silent."""

    # "Temporary failure" among the exit statuses of sysexits.h: this worker is not to blame.
    exit_status = 75


class Workers:
    """The workers of a run, seen from one of them. In this class, it is alone."""

    index = 0
    count = 1
    # How to go on, for a worker that ends because another is gone.
    advice = ""

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes the run's folder."""
        return self.index == 0

    def gather(self, what: str, value: Any) -> list[Any]:
        """Return the values of all workers, in their order; waits for all.

        Args:
            what: What the value is, in words.
            value: The value of this worker, as JSON has it.

        Raises:
            WorkerLost: If another worker is gone.
        """
        return [value]

    def from_chief(self, what: str, make: Callable[[], bytes]) -> bytes:
        """Return on all workers what the chief makes.

        Args:
            what: What it is, in words.
            make: Makes it; called on the chief alone.

        Raises:
            WorkerLost: If another worker is gone.
        """
        return make()

    def check_same(self, what: str, value: Any) -> None:
        """See that a value is the same on all workers.

        Args:
            what: What the value is, in words.
            value: The value of this worker, as JSON has it.

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
        """Run the block on the chief, and then on the others: it may write what they read.

        Args:
            what: What the block does, in words.
        """
        if not self.is_chief:
            self.gather(what, None)
        yield
        if self.is_chief:
            self.gather(what, None)

    def loss(self, wait: bool = False) -> WorkerLost | None:
        """Return which worker is lost, if one is.

        Args:
            wait: Whether to wait until it is known, as something else has failed for it.
        """
        return None


def how_to_resume(path: Path, workers: Workers) -> str:
    """Return what to do after a run was stopped.

    Args:
        path: The run's folder.
        workers: The workers of the run.
    """
    flags = f"--run-dir {shlex.quote(str(path))} --resume"
    if LAUNCHER in os.environ:
        launcher = f"python -m keras_switcher.launch --workers {workers.count}"
        return f"Go on with: {launcher} train.py {flags}"
    if workers.count > 1:
        return f"Go on with the same command and {flags}, on every worker."
    return f"Go on with: python train.py {flags}"


@contextmanager
def joined(cluster: Cluster, facts: Mapping[str, Any], timeout: float) -> Iterator[Workers]:
    """Meet the other workers of a run, and stay in touch as long as the block lasts.

    Args:
        cluster: The cluster.
        facts: What must be the same on all workers, by name.
        timeout: Seconds to wait for all to come.

    Yields:
        The workers.

    Raises:
        ConfigError: If the facts differ.
        RunError: If not all meet in time, or the port of this one is taken.
    """
    meet = _meet_as_chief if cluster.index == 0 else _meet_as_worker
    # As the others see them: JSON has no tuples.
    own: dict[str, Any] = json.loads(json.dumps(facts))
    workers = _ConnectedWorkers(cluster, meet(cluster, own, timeout))
    try:
        yield workers
        # Not before all are through: without the chief TensorFlow ends the others by force.
        workers.gather("the end of the run", None)
    except BaseException as error:
        workers.leave(str(error) if isinstance(error, Exception) else repr(error))
        raise
    workers.leave(None)


class _Connection:
    """Messages over a socket: a kind of one byte, and a content."""

    def __init__(self, connected: socket.socket):
        self._socket = connected
        self._sending = threading.Lock()
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind: bytes, content: Any = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        with self._sending:
            self._socket.sendall(_HEADER.pack(_MAGIC, kind, len(body)))
            # The time-out of a socket is for all that one call sends.
            for start in range(0, len(body), 2**20):
                self._socket.sendall(body[start : start + 2**20])

    def receive(self, timeout: float) -> tuple[bytes, Any]:
        self._socket.settimeout(timeout)
        magic, kind, length = _HEADER.unpack(self._read(_HEADER.size))
        if magic != _MAGIC or (kind != _DATA and length > _SHORT):
            raise ConnectionError("it does not speak as a worker does")
        body = self._read(length)
        return kind, body if kind == _DATA else json.loads(body)

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(min(size - len(parts), 2**20))
            if not part:
                raise ConnectionError("its connection closed")
            parts += part
        return bytes(parts)

    def is_open(self) -> bool:
        """Whether the other side has not closed."""
        self._socket.settimeout(0)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _listen(cluster: Cluster) -> socket.socket:
    """Take the port of this worker, as TensorFlow will after the workers have met."""
    host, port = split_address(cluster.addresses[cluster.index])
    loopback = host in ("localhost", "127.0.0.1")
    listener = socket.socket(socket.AF_INET if loopback else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        # TensorFlow listens while the connections that were made here are open.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not loopback:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("127.0.0.1" if loopback else "::", port))
        listener.listen(cluster.size)
    except OSError as error:
        listener.close()
        raise RunError(
            f"Worker {cluster.index} can't listen at its address {host}:{port}: {error.strerror}. "
            "If another program has the port, end it or give the cluster another port."
        ) from error
    return listener


def _meet_as_chief(
    cluster: Cluster, facts: dict[str, Any], timeout: float
) -> dict[int, _Connection]:
    deadline = time.monotonic() + timeout
    met: dict[int, _Connection] = {}
    with _listen(cluster) as listener:
        while len(met) < cluster.size - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                missing = [
                    f"worker {i} ({address})"
                    for i, address in enumerate(cluster.addresses)
                    if i and i not in met
                ]
                message = (
                    f"{len(met) + 1} of {cluster.size} workers came within {timeout:g} s. Missing: "
                    f"{', '.join(missing)}. See whether each was started and can reach "
                    f"{cluster.addresses[0]}; --worker-timeout sets how long to wait."
                )
                _refuse(met, message)
                raise RunError(message)
            listener.settimeout(min(left, ALIVE_EVERY))
            with suppress(TimeoutError):
                _greet(_Connection(listener.accept()[0]), cluster, facts, met)
            for index, connection in list(met.items()):
                try:
                    connection.send(_ALIVE)
                except OSError:
                    # It may come again.
                    del met[index]
        _probe_all(cluster, met)
    for connection in met.values():
        connection.send(_WELCOME)
    return met


def _probe_all(cluster: Cluster, met: dict[int, _Connection]) -> None:
    """See that every worker reaches every other: a collective would wait for ever."""
    try:
        for connection in met.values():
            connection.send(_PROBE)
        problems = _unreachable(cluster)
        for index in sorted(met):
            kind, found = met[index].receive(LOST_AFTER)
            problems += found if kind == _PROBE else [f"worker {index} does not answer"]
    except OSError as error:
        problems = [f"a worker left: {_told(error)}"]
    if problems:
        message = (
            f"Expected every worker to reach every other. Received: {'; '.join(problems)}. Open "
            "the ports of the cluster between its machines, or give it other addresses."
        )
        _refuse(met, message)
        raise RunError(message)


def _unreachable(cluster: Cluster) -> list[str]:
    """Return which other workers this one can't reach; they listen until all have been tried."""
    problems = []
    for index, address in enumerate(cluster.addresses):
        if index != cluster.index:
            try:
                socket.create_connection(split_address(address), 10.0).close()
            except OSError as error:
                reason = error.strerror or str(error)
                problems.append(f"worker {cluster.index} to worker {index}, {address}: {reason}")
    return problems


def _greet(
    connection: _Connection,
    cluster: Cluster,
    facts: dict[str, Any],
    met: dict[int, _Connection],
) -> None:
    """Take a worker in that has come, if it is one and agrees with the chief."""
    try:
        kind, hello = connection.receive(5.0)
        index, addresses, theirs = hello["index"], hello["addresses"], hello["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return
    if kind != _HELLO or addresses != list(cluster.addresses):
        wrong = f"Expected all workers to have the cluster {', '.join(cluster.addresses)}"
        problem = f"{wrong}. Received from worker {index}: {', '.join(addresses)}"
    elif index in met and met[index].is_open():
        problem = f"Expected each worker to have an index of its own. Received: {index} twice"
    else:
        different = [
            f"{name}: {facts.get(name)} on worker 0, {theirs.get(name)} on worker {index}"
            for name in {**facts, **theirs}
            if facts.get(name) != theirs.get(name)
        ]
        problem = ""
        if different:
            problem = (
                "Expected the same options and versions on all workers. Received: "
                f"{'; '.join(different)}"
            )
    if problem:
        _refuse({**met, -1: connection}, problem)
        raise ConfigError(problem)
    met[index] = connection


def _refuse(met: dict[int, _Connection], problem: str) -> None:
    for connection in met.values():
        with suppress(OSError):
            connection.send(_REFUSED, problem)
        connection.close()


def _meet_as_worker(
    cluster: Cluster, facts: dict[str, Any], timeout: float
) -> dict[int, _Connection]:
    # That the port is free shows now, and not when TensorFlow wants it.
    with _listen(cluster):
        return {0: _knock(cluster, facts, timeout)}


def _knock(cluster: Cluster, facts: dict[str, Any], timeout: float) -> _Connection:
    """Return the connection to the chief, when it has all workers together."""
    hello = {"index": cluster.index, "addresses": cluster.addresses, "facts": facts}
    deadline = time.monotonic() + timeout
    problem = "nothing answers"
    while (left := deadline - time.monotonic()) > 0:
        connection = None
        try:
            address = split_address(cluster.addresses[0])
            connection = _Connection(socket.create_connection(address, min(left, 5.0)))
            connection.send(_HELLO, hello)
            kind = _ALIVE
            while kind in (_ALIVE, _PROBE):
                kind, content = connection.receive(LOST_AFTER)
                if kind == _PROBE:
                    connection.send(_PROBE, _unreachable(cluster))
            if kind == _WELCOME:
                return connection
            if kind == _REFUSED:
                raise ConfigError(content)
        except OSError as error:
            problem = error.strerror or str(error)
        if connection is not None:
            connection.close()
        time.sleep(0.2)
    raise RunError(
        f"Worker {cluster.index} could not reach the chief, {cluster.addresses[0]}, within "
        f"{timeout:g} s: {problem}. See whether it was started and its port can be reached from "
        "here; --worker-timeout sets how long to wait."
    )


def _told(error: Exception) -> str:
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "its connection closed"
    return getattr(error, "strerror", None) or str(error)


class _ConnectedWorkers(Workers):
    """Several workers, each connected to the chief."""

    def __init__(self, cluster: Cluster, connections: dict[int, _Connection]):
        self.index = cluster.index
        self.count = cluster.size
        self._addresses = cluster.addresses
        self._connections = connections
        self._received: dict[int, queue.Queue[tuple[bytes, Any] | None]] = {}
        self._lost: WorkerLost | None = None
        self._is_lost = threading.Event()
        self._has_left = threading.Event()
        self._changing = threading.Lock()
        # All are told an answer before any is told that one, who had it first, has left.
        self._telling = threading.RLock()
        for other, connection in connections.items():
            self._received[other] = queue.Queue()
            threading.Thread(target=self._hear, args=(other, connection), daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()

    def gather(self, what: str, value: Any) -> list[Any]:
        if not self.is_chief:
            self._send(0, _VALUE, [what, value])
            values: list[Any] = self._next(0, _VALUES, what)
            return values
        values = [json.loads(json.dumps(value))]
        values += [self._next(other, _VALUE, what) for other in sorted(self._connections)]
        with self._telling:
            for other in self._connections:
                self._send(other, _VALUES, [what, values])
        return values

    def from_chief(self, what: str, make: Callable[[], bytes]) -> bytes:
        if not self.is_chief:
            received: bytes = self._next(0, _DATA, what)
            return received
        content = make()
        with self._telling:
            for other in self._connections:
                self._send(other, _DATA, content)
        return content

    def loss(self, wait: bool = False) -> WorkerLost | None:
        # The end of a worker shows in its connection about as soon as in a collective.
        self._is_lost.wait(2 * ALIVE_EVERY if wait else 0)
        return self._lost

    def leave(self, problem: str | None) -> None:
        """Say good-bye, and why."""
        self._has_left.set()
        for connection in self._connections.values():
            with suppress(OSError):
                if problem is None:
                    connection.send(_BYE)
                else:
                    connection.send(_STOPPED, [self.index, f"it stopped: {problem}"])
            connection.close()

    def _send(self, other: int, kind: bytes, content: Any) -> None:
        try:
            self._connections[other].send(kind, content)
        except OSError as error:
            # Its last words may be on their way.
            self._is_lost.wait(ALIVE_EVERY)
            self._lose(other, _told(error))
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
        if kind == _DATA and expected == _DATA:
            return content
        if kind != expected or content[0] != what:
            raise RunError(
                f"The workers are out of step: worker {self.index} expected {what} of worker "
                f"{other}. Received: {content[0] if kind != _DATA else 'other data'}"
            )
        return content[1]

    def _hear(self, other: int, connection: _Connection) -> None:
        """Take in what another worker says, until it leaves or is lost."""
        try:
            while True:
                kind, content = connection.receive(LOST_AFTER)
                if kind == _BYE:
                    return
                if kind == _STOPPED:
                    self._lose(*content)
                    return
                if kind != _ALIVE:
                    self._received[other].put((kind, content))
        except TimeoutError:
            self._lose(other, f"it was silent for {LOST_AFTER:g} s")
        except (OSError, ValueError) as error:
            self._lose(other, _told(error))

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
                    self._connections[index].send(_STOPPED, [other, how])
        threading.Thread(target=self._end_by_force, daemon=True).start()

    def _end_by_force(self) -> None:
        """End the process if what its main thread waits for never comes."""
        if not self._has_left.wait(GRACE):
            print("\n".join(["", f"Error: {self._lost}", self.advice]), file=sys.stderr, flush=True)
            # Whatever was written is whole: this is no worse than to be killed.
            os._exit(WorkerLost.exit_status)

    def _live(self) -> None:
        """Say that this worker is alive; end with the launcher that started it."""
        launcher = int(os.environ.get(LAUNCHER, 0))
        while not self._has_left.wait(ALIVE_EVERY):
            for connection in self._connections.values():
                with suppress(OSError):
                    connection.send(_ALIVE)
            if launcher and os.getppid() != launcher:
                launcher = 0
                os.kill(os.getpid(), signal.SIGTERM)
