import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from command import ROOT

from keras_switcher import workers as workers_module
from keras_switcher.checks import ConfigError
from keras_switcher.cluster import Cluster
from keras_switcher.files import RunError
from keras_switcher.machine import free_ports
from keras_switcher.meeting import joined
from keras_switcher.workers import WorkerLost, Workers

FACTS = {"seed": 0, "widths": (64, 32)}


def addresses(count):
    return tuple(f"127.0.0.1:{port}" for port in free_ports(count))


def together(count, body, facts=None, timeout=60.0):
    """Run a body on workers in threads of this process; return the results or errors in order."""
    members = addresses(count)

    def run(index):
        own = FACTS if facts is None else facts[index]
        try:
            with joined(Cluster(members, index), own, timeout) as workers:
                return body(workers)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class Other:
    """Another worker, in a process of its own; it says `joined` once it has met the others."""

    def __init__(self, cluster, body, before="", **environment):
        script = (
            "import os, sys, time\n"
            "from keras_switcher import meeting, workers as module\n"
            "from keras_switcher.cluster import Cluster\n"
            f"{before}\n"
            f"with meeting.joined({cluster!r}, {FACTS!r}, 60.0) as workers:\n"
            "    workers.advice = 'Go on so.'\n"
            "    print('joined', flush=True)\n"
            f"    {body}\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "KERAS_SWITCHER_FLAGS_FIRST": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self):
        output, errors = self.process.communicate(timeout=120)
        return self.process.returncode, output, errors


def test_a_lone_worker_is_the_chief_and_agrees_with_itself():
    alone = Workers()
    assert alone.is_chief
    assert alone.gather("a value", 3) == [3]
    assert alone.from_chief("content", lambda: b"made") == b"made"
    alone.check_same("a value", 3)
    with alone.chief_first("it"):
        pass
    assert alone.loss() is None


def test_all_get_the_values_of_all_in_the_order_of_the_workers():
    def body(workers):
        return [workers.gather(f"value {n}", [workers.index, n]) for n in range(50)]

    expected = [[[i, n] for i in range(3)] for n in range(50)]
    assert together(3, body) == [expected] * 3


def test_all_get_what_the_chief_makes():
    content = os.urandom(5_000_000)
    made = []

    def body(workers):
        def make():
            made.append(workers.index)
            return content

        return workers.from_chief("content", make) == content

    assert together(3, body) == [True] * 3
    assert made == [0]


def test_others_start_when_the_chief_is_through():
    order = []

    def body(workers):
        with workers.chief_first("it"):
            if workers.is_chief:
                time.sleep(0.3)
            order.append(workers.index)

    together(3, body)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_values_that_differ_are_told_to_all():
    results = together(2, lambda workers: workers.check_same("the data", f"d{workers.index}"))
    for error in results:
        assert isinstance(error, ConfigError)
        assert "Expected the data to be the same" in str(error)
        assert "worker 0: d0, worker 1: d1" in str(error)


def test_options_that_differ_are_named_on_both_sides():
    results = together(2, lambda workers: None, [{"seed": 0, "epochs": 2}, {"seed": 7}], 30.0)
    for error in results:
        assert isinstance(error, ConfigError)
        assert "seed: 0 on worker 0, 7 on worker 1" in str(error)
        assert "epochs: 2 on worker 0, None on worker 1" in str(error)


def test_error_of_one_ends_the_others_with_its_message():
    def body(workers):
        if workers.index == 1:
            raise ValueError("the disk is full")
        workers.gather("a value", None)

    chief, second, third = together(3, body)
    assert str(second) == "the disk is full"
    for error in (chief, third):
        assert isinstance(error, WorkerLost)
        assert "Lost worker 1" in str(error)
        assert "it stopped: the disk is full" in str(error)


def test_what_all_decide_together_is_the_loss_of_none():
    # As when all stop after the same batch: who is first closes its connections before the others
    # have looked at the answers.
    def body(workers):
        for n in range(20):
            workers.gather(f"value {n}", None)
        raise ValueError("decided")

    for _ in range(40):
        assert [type(error) for error in together(3, body)] == [ValueError] * 3


def test_workers_out_of_step_are_told_so():
    results = together(2, lambda workers: workers.gather(f"value {workers.index}", None))
    assert "out of step" in str(results[0])
    assert "expected value 0 of worker 1. Received: value 1" in str(results[0])


def test_cluster_that_differs_is_refused():
    first, second = addresses(2), addresses(2)
    theirs = Cluster((first[0], second[1]), 1)
    with ThreadPoolExecutor(1) as pool:

        def run():
            with joined(theirs, FACTS, 30.0):
                pass

        other = pool.submit(run)
        with (
            pytest.raises(ConfigError, match="all workers to have the cluster"),
            joined(Cluster(first, 0), FACTS, 30.0),
        ):
            pass
        assert isinstance(other.exception(60), ConfigError)


def test_two_workers_with_the_same_index_are_refused():
    members = addresses(3)
    # As on two machines, where both have the port.
    before = "import contextlib; meeting._listen = lambda cluster: contextlib.nullcontext()"
    others = [Other(Cluster(members, 1), "time.sleep(60)", before) for _ in range(2)]
    with (
        pytest.raises(ConfigError, match="an index of its own. Received: 1 twice"),
        joined(Cluster(members, 0), FACTS, 60.0),
    ):
        pass
    for other in others:
        status, _, errors = other.end()
        assert status == 1
        assert "an index of its own" in errors


def test_worker_that_does_not_come_is_named():
    members = addresses(2)
    with (
        pytest.raises(RunError, match="1 of 2 workers came within 0.5 s. Missing: worker 1") as e,
        joined(Cluster(members, 0), FACTS, 0.5),
    ):
        pass
    assert members[1] in str(e.value)


def test_chief_that_can_not_be_reached_is_named():
    members = addresses(2)
    with (
        pytest.raises(RunError, match="could not reach the chief") as error,
        joined(Cluster(members, 1), FACTS, 0.5),
    ):
        pass
    assert f"{members[0]}, within 0.5 s: Connection refused" in str(error.value)


@pytest.mark.parametrize("index", [0, 1])
def test_port_that_is_taken_is_named(index):
    members = addresses(2)
    host, port = members[index].split(":")
    with socket.create_server((host, int(port))):
        with (
            pytest.raises(RunError, match=f"Worker {index} can't listen at its address") as error,
            joined(Cluster(members, index), FACTS, 5.0),
        ):
            pass
        assert f"{members[index]}: Address already in use" in str(error.value)


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_worker_of_several_machines_listens_with_or_without_ipv6(has_ipv6, monkeypatch):
    from keras_switcher.meeting import _listen

    if not has_ipv6:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    elif not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    port = free_ports(1)[0]
    with _listen(Cluster((f"here.example:{port}", "there.example:1"), 0)) as listener:
        assert listener.family == (socket.AF_INET6 if has_ipv6 else socket.AF_INET)
        socket.create_connection(("127.0.0.1", port), 5).close()


def test_worker_that_another_can_not_reach_is_named(monkeypatch):
    # Worker 1 can reach the chief, and nobody can reach worker 2: as behind a firewall.
    members = addresses(3)
    connect = socket.create_connection

    def walled(address, *arguments, **options):
        if f"127.0.0.1:{address[1]}" == members[2]:
            raise TimeoutError(110, "Connection timed out")
        return connect(address, *arguments, **options)

    monkeypatch.setattr(socket, "create_connection", walled)

    def run(index):
        with joined(Cluster(members, index), FACTS, 60.0):
            pass

    with ThreadPoolExecutor(3) as pool:
        errors = [task.exception() for task in [pool.submit(run, index) for index in range(3)]]
    for error in errors:
        assert "Expected every worker to reach every other" in str(error)
        for index in (0, 1):
            assert f"worker {index} to worker 2, {members[2]}: Connection timed out" in str(error)


def test_many_workers_behind_a_firewall_take_no_longer_than_one(monkeypatch):
    from keras_switcher.meeting import _unreachable

    all_at_once = threading.Barrier(11)

    def walled(address, *arguments, **options):
        all_at_once.wait(timeout=10)
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(socket, "create_connection", walled)
    members = tuple(f"worker-{index}:1" for index in range(12))
    assert [problem.partition(",")[0] for problem in _unreachable(Cluster(members, 3))] == [
        f"worker 3 to worker {index}" for index in range(12) if index != 3
    ]


def test_port_is_free_for_tensorflow_once_all_have_met():
    def body(workers):
        if workers.is_chief:
            port = int(workers._addresses[0].rpartition(":")[2])
            # As gRPC does, and with the connections of the workers open.
            with socket.socket(socket.AF_INET6) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("::", port))
                listener.listen()
        workers.gather("done", None)

    assert together(2, body) == [None, None]


def test_strangers_at_the_door_are_turned_away():
    members = addresses(2)
    port = int(members[0].rpartition(":")[2])
    met = threading.Event()

    def disturb():
        while not met.is_set():
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), 5) as stranger,
            ):
                stranger.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                stranger.recv(100)
            time.sleep(0.01)

    def run(index):
        time.sleep(index)
        with joined(Cluster(members, index), FACTS, 60.0) as workers:
            return workers.gather("index", index)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(run, range(2))) == [[0, 1], [0, 1]]
    finally:
        met.set()
        disturber.join()


@pytest.mark.parametrize("victim", [0, 1])
def test_end_of_a_worker_is_noticed_at_once(victim):
    members = addresses(2)
    other = Other(Cluster(members, victim), "time.sleep(600)")
    with (
        pytest.raises(WorkerLost, match=f"Lost worker {victim}.*its connection closed") as error,
        joined(Cluster(members, 1 - victim), FACTS, 60.0) as workers,
    ):
        other.process.kill()
        start = time.monotonic()
        workers.gather("a value", None)
    assert time.monotonic() - start < 20
    assert members[victim] in str(error.value)
    assert error.value.exit_status == 75
    other.end()


def test_chief_passes_on_that_a_worker_is_lost():
    members = addresses(3)
    victim = Other(Cluster(members, 1), "time.sleep(600)")
    third = Other(Cluster(members, 2), "workers.gather('a value', None)")
    with (
        pytest.raises(WorkerLost, match="Lost worker 1"),
        joined(Cluster(members, 0), FACTS, 60.0) as workers,
    ):
        victim.process.kill()
        workers.gather("a value", None)
    assert "Lost worker 1" in third.end()[2]
    victim.end()


def test_silence_of_a_worker_is_noticed_in_time(monkeypatch):
    monkeypatch.setattr(workers_module, "LOST_AFTER", 3.0)
    members = addresses(2)
    other = Other(Cluster(members, 1), "time.sleep(600)")
    try:
        with (
            pytest.raises(WorkerLost, match="Lost worker 1.*it was silent for 3 s"),
            joined(Cluster(members, 0), FACTS, 60.0) as workers,
        ):
            other.process.send_signal(signal.SIGSTOP)
            workers.gather("a value", None)
    finally:
        other.process.kill()
        other.end()


def test_worker_whose_main_thread_hangs_is_ended_with_a_message():
    members = addresses(2)
    # As in a collective of TensorFlow that waits for who is gone.
    other = Other(Cluster(members, 1), "time.sleep(600)", before="module.GRACE = 3.0")
    with (
        pytest.raises(KeyError),
        joined(Cluster(members, 0), FACTS, 60.0) as workers,
    ):
        assert workers.count == 2
        raise KeyError("something")
    status, _, errors = other.end()
    assert status == 75
    assert "Error: Lost worker 0" in errors
    assert "it stopped: 'something'" in errors
    assert "Go on so." in errors


def test_worker_ends_with_the_launcher_that_started_it():
    members = addresses(1)
    before = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('stopped', flush=True), os._exit(3)))"
    )
    # A launcher that is not there any more: another process is the parent.
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    other = Other(
        Cluster(members, 0), "time.sleep(60)", before, KERAS_SWITCHER_LAUNCHER=str(gone.pid)
    )
    status, output, _ = other.end()
    assert (status, output.split()[-1]) == (3, "stopped")
