"""How the workers of a run meet, and check that they agree and can reach each other.

They meet at the chief's address before TensorFlow takes it.
"""

import json
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from keras_switcher.checks import ConfigError
from keras_switcher.cluster import Cluster, split_address
from keras_switcher.files import RunError
from keras_switcher.messages import (
    ALIVE,
    ALIVE_EVERY,
    HELLO,
    LOST_AFTER,
    PROBE,
    REFUSED,
    WELCOME,
    Connection,
    told,
)
from keras_switcher.workers import ConnectedWorkers, Workers


@contextmanager
def joined(cluster: Cluster, facts: Mapping[str, Any], timeout: float) -> Iterator[Workers]:
    """Meet the other workers of a run, and stay in touch as long as the block lasts.

    Args:
        cluster: The cluster.
        facts: What must be the same on all workers, by name.
        timeout: Seconds to wait for all workers to come.

    Yields:
        The workers.

    Raises:
        ConfigError: If the facts differ.
        RunError: If not all meet in time, or the port of this worker is taken.
    """
    meet = _meet_as_chief if cluster.index == 0 else _meet_as_worker
    # In the form in which the others receive them: JSON has no tuples.
    own: dict[str, Any] = json.loads(json.dumps(facts))
    workers = ConnectedWorkers(cluster, meet(cluster, own, timeout))
    try:
        yield workers
        # Wait until all are through: without the chief, TensorFlow ends the others by force.
        workers.gather("the end of the run", None)
    except BaseException as error:
        workers.leave(str(error) or repr(error))
        raise
    workers.leave(None)


def _listen(cluster: Cluster) -> socket.socket:
    """Take the port of this worker, as TensorFlow will after the workers have met."""
    host, port = split_address(cluster.addresses[cluster.index])
    loopback = host in ("localhost", "127.0.0.1")
    # Some systems have no IPv6.
    both = not loopback and socket.has_dualstack_ipv6()
    listener = socket.socket(socket.AF_INET6 if both else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # TensorFlow will listen while the connections that were made here are still open.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if both:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("127.0.0.1" if loopback else "::" if both else "", port))
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
) -> dict[int, Connection]:
    deadline = time.monotonic() + timeout
    met: dict[int, Connection] = {}
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
                _greet(Connection(listener.accept()[0]), cluster, facts, met)
            for index, connection in list(met.items()):
                try:
                    connection.send(ALIVE)
                except OSError:
                    # The worker may come again.
                    del met[index]
        _probe_all(cluster, met)
    for connection in met.values():
        connection.send(WELCOME)
    return met


def _probe_all(cluster: Cluster, met: dict[int, Connection]) -> None:
    """Check that every worker can reach every other; a collective would wait for ever."""
    try:
        for connection in met.values():
            connection.send(PROBE)
        problems = _unreachable(cluster)
        for index in sorted(met):
            kind, found = met[index].receive(LOST_AFTER)
            problems += found if kind == PROBE else [f"worker {index} does not answer"]
    except OSError as error:
        problems = [f"a worker left: {told(error)}"]
    if problems:
        message = (
            f"Expected every worker to reach every other. Received: {'; '.join(problems)}. Open "
            "the ports of the cluster between its machines, or give it other addresses."
        )
        _refuse(met, message)
        raise RunError(message)


def _unreachable(cluster: Cluster) -> list[str]:
    """Return which other workers this one can't reach; they listen until all have been tried."""

    def problem(index: int) -> str | None:
        address = cluster.addresses[index]
        try:
            socket.create_connection(split_address(address), 10.0).close()
        except OSError as error:
            reason = error.strerror or str(error)
            return f"worker {cluster.index} to worker {index}, {address}: {reason}"
        return None

    # All at once: behind a firewall each takes its ten seconds, and the chief waits for the answer.
    others = [index for index in range(cluster.size) if index != cluster.index]
    with ThreadPoolExecutor(cluster.size) as pool:
        return [found for found in pool.map(problem, others) if found is not None]


def _greet(
    connection: Connection,
    cluster: Cluster,
    facts: dict[str, Any],
    met: dict[int, Connection],
) -> None:
    """Admit whoever has connected, if it is a worker and agrees with the chief."""
    try:
        kind, hello = connection.receive(5.0)
        index, addresses, theirs = hello["index"], hello["addresses"], hello["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return
    if kind != HELLO or addresses != list(cluster.addresses):
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


def _refuse(met: dict[int, Connection], problem: str) -> None:
    for connection in met.values():
        with suppress(OSError):
            connection.send(REFUSED, problem)
        connection.close()


def _meet_as_worker(
    cluster: Cluster, facts: dict[str, Any], timeout: float
) -> dict[int, Connection]:
    # If the port is taken, this shows now and not when TensorFlow wants it.
    with _listen(cluster):
        return {0: _knock(cluster, facts, timeout)}


def _knock(cluster: Cluster, facts: dict[str, Any], timeout: float) -> Connection:
    """Return the connection to the chief once it has all workers together."""
    hello = {"index": cluster.index, "addresses": cluster.addresses, "facts": facts}
    deadline = time.monotonic() + timeout
    problem = "nothing answers"
    while (left := deadline - time.monotonic()) > 0:
        connection = None
        try:
            address = split_address(cluster.addresses[0])
            connection = Connection(socket.create_connection(address, min(left, 5.0)))
            connection.send(HELLO, hello)
            kind = ALIVE
            while kind in (ALIVE, PROBE):
                kind, content = connection.receive(LOST_AFTER)
                if kind == PROBE:
                    connection.send(PROBE, _unreachable(cluster))
            if kind == WELCOME:
                return connection
            if kind == REFUSED:
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
