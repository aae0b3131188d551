import io
import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from command import ROOT

from keras_switcher import launch, machine
from keras_switcher.checks import ConfigError
from keras_switcher.config import from_values
from keras_switcher.fitting import execution
from keras_switcher.launch import Launch, command_of, shared_gpus
from keras_switcher.machine import free_ports
from keras_switcher.signals import stopping
from keras_switcher.workers import LAUNCHER_FLAGS

# Neither needs TensorFlow: any script can be launched.
TELLS = """
import json, os, pathlib, sys
cluster = json.loads(os.environ["TF_CONFIG"])
index = cluster["task"]["index"]
told = [cluster, os.environ.get("TF_NUM_INTRAOP_THREADS"), sys.argv[1:]]
pathlib.Path(f"told-{index}.json").write_text(json.dumps(told))
print("worker", index, "here", flush=True)
"""
FAILS = """
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    print("something is wrong", flush=True)
    {how}
time.sleep(600)
"""


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Launches a script in this process; returns the exit status and what the launcher wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_TO_END", 0.5)
    monkeypatch.setattr(launch, "_AFTER_TERM", 0.5)

    def run(script, *arguments, workers=2, show_all=False, gpus=()):
        (tmp_path / "script.py").write_text(script)
        output = io.StringIO()
        command = command_of(["script.py", *arguments])
        status = Launch(workers, command, show_all, output, gpus).run()
        return status, output.getvalue()

    return run


def test_ports_are_free_and_below_those_of_chance():
    ports = free_ports(8)
    assert len(set(ports)) == 8
    for port in ports:
        assert 15_000 <= port < 32_000
        with socket.socket() as listener:
            listener.bind(("", port))


def test_each_worker_has_its_place_in_one_cluster(launched, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)

    status, output = launched(TELLS, "--seed", "3", workers=3)

    told = [json.loads((tmp_path / f"told-{index}.json").read_text()) for index in range(3)]
    clusters, threads, arguments = zip(*told, strict=True)
    assert status == 0
    assert [c["task"] for c in clusters] == [{"type": "worker", "index": i} for i in range(3)]
    assert len({json.dumps(c["cluster"]) for c in clusters}) == 1
    assert len(set(clusters[0]["cluster"]["worker"])) == 3
    assert all(a.startswith("127.0.0.1:") for a in clusters[0]["cluster"]["worker"])
    # The cores are shared out.
    assert threads == ("2", "2", "2")
    assert arguments == (["--seed", "3"],) * 3
    # The chief writes as if it were alone; the others are silent.
    assert capfd.readouterr().out == "worker 0 here\n"
    assert "here" not in output


def test_threads_that_the_user_has_chosen_stay(launched, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    launched(TELLS)
    assert json.loads((tmp_path / "told-1.json").read_text())[1] == "5"


def test_what_the_others_write_is_shown_on_request(launched):
    status, output = launched(TELLS, show_all=True)
    assert status == 0
    assert "[1] worker 1 here\n" in output


@pytest.mark.parametrize(
    ("how", "status", "told"),
    [
        ("sys.exit(7)", 7, "Worker 1 of 2 ended with status 7; the others were ended."),
        ("os.kill(os.getpid(), 9)", 137, "Worker 1 of 2 was killed by SIGKILL; the others"),
    ],
)
def test_worker_that_fails_is_named_with_its_last_lines(launched, how, status, told):
    start = time.monotonic()
    result, output = launched(FAILS.format(how=how))
    assert result == status
    assert told in output
    assert "[1] something is wrong" in output
    # The other one would have slept for ten minutes.
    assert time.monotonic() - start < 60


def test_worker_that_another_took_down_is_not_blamed(launched, monkeypatch):
    # Both end by themselves.
    monkeypatch.setattr(launch, "_TO_END", 20.0)
    script = """
import json, os, sys, time
if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 1:
    time.sleep(0.2)
    sys.exit(4)
sys.exit(75)
"""
    status, output = launched(script)
    assert status == 4
    assert "Worker 1 of 2 ended with status 4" in output


def test_death_of_the_chief_tells_how_to_go_on(launched):
    status, output = launched("import os; os.kill(os.getpid(), 9)", workers=1)
    assert status == 137
    assert "Worker 0 of 1 was killed by SIGKILL" in output
    assert "Go on with the same command and --resume." in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_comes_to_every_worker_once(tmp_path, number):
    script = """
import os, signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda n, frame: got.append(n))
print("ready", flush=True)
while not got:
    time.sleep(0.01)
time.sleep(0.5)
# At once, so that no line of another process comes in between.
os.write(1, (" ".join(["got", *map(str, got)]) + "\\n").encode())
sys.exit(128 + got[0])
"""
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_switcher.launch", "--workers", "3", "--show-all"]
        + [str(tmp_path / "script.py")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # The tests themselves may be run by nohup.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    lines = []
    # The chief writes by itself: its line may be cut by another one.
    while "".join(lines).count("ready") < 3:
        line = process.stdout.readline()
        assert line, lines
        lines.append(line)
    process.send_signal(number)
    lines += process.communicate(timeout=60)[0].splitlines(keepends=True)

    # A terminal that closes is as good as a request to stop.
    sent = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
    assert process.returncode == 128 + sent, lines
    assert len(re.findall(rf"got {int(sent)}(?! \d)", "".join(lines))) == 3, lines
    assert not any("was killed" in line or "ended with" in line for line in lines)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_terminal_that_closes_stops_what_it_started_unless_nohup_did(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        assert (signal.SIGHUP in stopping()) == (handler is signal.SIG_DFL)
        assert {signal.SIGINT, signal.SIGTERM} <= {*stopping()}
    finally:
        signal.signal(signal.SIGHUP, before)


def test_flags_alone_are_those_of_the_training():
    assert command_of(["train.py", "--seed", "1"]) == [sys.executable, "train.py", "--seed", "1"]
    assert command_of(["-m", "export", "runs"]) == [sys.executable, "-m", "export", "runs"]
    for flags in ([], ["--help"], ["--", "--help"]):
        command = command_of(flags)
        assert command[:2] == [sys.executable, "-c"]
        assert "keras_switcher.training" in command[2]
    # As in an installed package, where there is no train.py.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert "--target-sparsity" in done.stdout


def test_each_worker_sees_gpus_of_its_own(launched, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert shared_gpus(2, None, "0,1") == []
    assert shared_gpus(3, 1, None) == [["0"], ["1"], ["2"]]
    assert shared_gpus(2, 2, "5,4,GPU-a,GPU-b") == [["5", "4"], ["GPU-a", "GPU-b"]]
    script = (
        "import os, pathlib, json\n"
        "os.environ['KERAS_SWITCHER_FLAGS_FIRST'] = '1'\n"
        "index = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
        "from keras_switcher.workers import Workers, how_to_resume\n"
        "workers = Workers()\n"
        "workers.count = 2\n"
        "advice = how_to_resume(pathlib.Path('run'), workers)\n"
        "pathlib.Path(f'gpus-{index}').write_text(os.environ['CUDA_VISIBLE_DEVICES'] + advice)\n"
    )
    assert launched(script, gpus=[["5"], ["4"]])[0] == 0
    told = [(tmp_path / f"gpus-{index}").read_text() for index in range(2)]
    assert [text[0] for text in told] == ["5", "4"]
    assert all("--workers 2 --gpus-per-worker 1 " in text for text in told)


@pytest.mark.parametrize(
    ("workers", "each", "visible", "expected"),
    [
        (2, 0, None, "--gpus-per-worker to be 1 or more. Received: 0"),
        (2, 1, "0", "expected 2 GPUs in CUDA_VISIBLE_DEVICES, 1 for each of 2 workers.*'0'"),
        (1, 1, "", "expected 1 GPUs in CUDA_VISIBLE_DEVICES.*Received: ''"),
    ],
)
def test_gpus_that_are_not_there_are_missed(workers, each, visible, expected):
    with pytest.raises(ValueError, match=expected):
        shared_gpus(workers, each, visible)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--workers"),
        (["train.py", "--workers", "2"], "--workers"),
        (["--workers", "0", "train.py"], "expected --workers to be 1 or more. Received: 0"),
        (["--workers", "two"], "invalid int value: 'two'"),
        (
            ["--workers", "2", "--gpus-per-worker=0", "train.py"],
            "expected --gpus-per-worker to be 1 or more. Received: 0",
        ),
        (["--workers", "2", "none.py"], "expected a script that exists. Received: none.py"),
    ],
    ids=str,
)
def test_wrong_arguments_are_answered_by_what_would_be_right(arguments, expected, capsys):
    with pytest.raises(SystemExit) as left:
        launch.main(arguments)
    assert left.value.code == 2
    assert expected in capsys.readouterr().err


def test_launcher_loads_no_tensorflow():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "keras_switcher.launch", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "keras_switcher.workers" in loaded
    assert not {"tensorflow", "keras"} & loaded


def test_a_worker_without_the_gpus_that_it_was_given_does_not_train_on_the_processor(monkeypatch):
    monkeypatch.setenv(LAUNCHER_FLAGS, "--gpus-per-worker 2 ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "98,99")
    config = from_values({"strategy": "multiworker"})
    with pytest.raises(ConfigError, match="Expected the GPUs 98, 99.* Received: 0 that Tensor"):
        with execution(config):
            pass


def test_too_many_workers_for_the_ports_are_told(capsys):
    with pytest.raises(SystemExit):
        launch.main(["--workers", "1500"])
    assert "Expected 1500 free ports" in capsys.readouterr().err
