import os
import signal
import subprocess
import sys
import time

import pytest

from keras_switcher import children
from keras_switcher.children import Children, has_ended

# Writes the signals that it gets to a file, and ends at the first that it is told to obey.
SCRIPT = """
import pathlib, signal, sys, time
trace, obeyed = pathlib.Path(sys.argv[1]), sys.argv[2:]

def note(number, frame):
    name = signal.Signals(number).name
    with trace.open("a") as file:
        print(name, file=file)
    if name in obeyed:
        time.sleep(0.3)
        sys.exit(9)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
trace.write_text("ready\\n")
while True:
    time.sleep(0.01)
"""


@pytest.fixture
def start(tmp_path):
    def start(parent, *obeyed):
        trace = tmp_path / f"trace{len(list(tmp_path.iterdir()))}"
        process = parent.start([sys.executable, "-c", SCRIPT, str(trace), *obeyed], os.environ)
        while not trace.exists() or not trace.read_text():
            time.sleep(0.01)
        process.trace = trace
        return process

    return start


def signals_of(process) -> list[str]:
    return process.trace.read_text().split()[1:]


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        (signal.SIGINT, "SIGINT"),
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGHUP, "SIGTERM"),
    ],
)
def test_a_signal_comes_to_each_once_and_is_told(start, sent, passed_on):
    ignored = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        parent = Children()
        with parent.supervised():
            assert parent.signal is None
            processes = [start(parent, passed_on) for _ in range(2)]
            signal.raise_signal(sent)
        assert parent.signal == signal.Signals[passed_on]
        assert [p.returncode for p in processes] == [9, 9]
        assert [signals_of(p) for p in processes] == [[passed_on]] * 2
    finally:
        signal.signal(signal.SIGHUP, ignored)


def test_a_second_signal_kills(start):
    parent = Children()
    with parent.supervised():
        process = start(parent)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert process.wait(timeout=30) == -signal.SIGKILL


def test_a_process_that_is_started_after_a_signal_gets_it(tmp_path):
    parent = Children()
    with parent.supervised():
        signal.raise_signal(signal.SIGTERM)
        process = parent.start([sys.executable, "-c", "import time; time.sleep(600)"], os.environ)
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_a_process_that_is_started_after_two_signals_is_killed(start):
    parent = Children()
    with parent.supervised():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        process = parent.start([sys.executable, "-c", SCRIPT, os.devnull], os.environ)
        assert process.wait(timeout=30) in (-signal.SIGINT, -signal.SIGKILL)
    assert parent.signal == signal.SIGINT


def test_all_end_with_the_block_even_those_that_do_not_want_to(start, monkeypatch):
    # Enough for the willing one even on a busy machine; the other takes all of it.
    monkeypatch.setattr(children, "_TO_END", 5.0)
    before = signal.getsignal(signal.SIGINT)
    parent = Children()
    with pytest.raises(ZeroDivisionError), parent.supervised():
        willing, stubborn = start(parent, "SIGTERM"), start(parent)
        raise ZeroDivisionError
    assert (willing.returncode, stubborn.returncode) == (9, -signal.SIGKILL)
    assert signals_of(willing) == signals_of(stubborn) == ["SIGTERM"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_process_is_watched_even_if_another_is_between():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert not has_ended(other.pid, is_child=False)
        assert has_ended(other.pid, is_child=True)
        other.kill()
    assert has_ended(other.pid, is_child=False)
