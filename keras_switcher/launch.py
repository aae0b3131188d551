"""The launcher: several workers of one run as processes of this machine.

`python -m keras_switcher.launch --workers 2 train.py --strategy multiworker ...` is to
`--strategy multiworker` what torchrun is to PyTorch. It needs neither TensorFlow nor Keras.
"""

import argparse
import collections
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from keras_switcher.children import Children, exit_status, how_it_ended
from keras_switcher.cluster import TF_CONFIG, Cluster, to_tf_config
from keras_switcher.machine import GPUS, THREADS, free_ports, threads_each
from keras_switcher.programs import module_command
from keras_switcher.workers import GRACE, LAUNCHER, LAUNCHER_FLAGS, WorkerLost

# Seconds that the others get to end by themselves when one has failed, and then after SIGTERM.
_TO_END = GRACE + 5.0
_AFTER_TERM = 10.0
_LAST_LINES = 15
_WITH_VALUE = ("--workers", "--gpus-per-worker")
# Does the same as train.py, which an installed package lacks.
_TRAIN = """
import os, sys
os.environ["KERAS_SWITCHER_FLAGS_FIRST"] = "1"
from keras_switcher.training import main
sys.exit(main())
"""


@dataclasses.dataclass
class _Worker:
    """A worker's process, and the last lines that it wrote if they are not shown."""

    index: int
    process: subprocess.Popen[str]
    last: collections.deque[str]
    reader: threading.Thread | None = None


def command_of(arguments: Sequence[str]) -> list[str]:
    """Return the command that a worker runs.

    Args:
        arguments: A script and its arguments, `-m` with a module and its arguments, or flags alone,
            which go to `keras_switcher.training`.
    """
    given = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if not given or (given[0].startswith("-") and given[0] != "-m"):
        return [sys.executable, "-c", _TRAIN, *given]
    return [sys.executable, *given]


class Launch:
    """The workers of one run, from their start to their end.

    Args:
        count: Number of workers.
        command: The command that each runs.
        show_all: Whether to show the output of the workers other than the chief, too.
        output: Where the launcher itself writes.
        gpus: For each worker, the names of the GPUs that it sees; with `()`, every worker sees all.
    """

    def __init__(
        self,
        count: int,
        command: Sequence[str],
        show_all: bool,
        output: TextIO,
        gpus: Sequence[Sequence[str]] = (),
    ):
        self.count = count
        self.command = list(command)
        self.show_all = show_all
        self.output = output
        self.gpus = gpus
        self._workers: list[_Worker] = []
        self._children = Children()

    def run(self) -> int:
        """Run the workers to their end; return the exit status."""
        with self._children.supervised():
            self._start()
            return self._wait()

    def _say(self, text: str) -> None:
        print(f"[launch] {text}", file=self.output, flush=True)

    def _start(self) -> None:
        addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(self.count))
        threads = threads_each(self.count)
        environment = {**os.environ, LAUNCHER: str(os.getpid()), THREADS: threads}
        if self.gpus:
            environment[LAUNCHER_FLAGS] = f"--gpus-per-worker {len(self.gpus[0])} "
        self._say(
            f"{self.count} workers on this machine, {threads} threads each: {', '.join(addresses)}."
        )
        for index in range(self.count):
            is_shown = index == 0
            own = {TF_CONFIG: to_tf_config(Cluster(addresses, index))}
            if self.gpus:
                own[GPUS] = ",".join(self.gpus[index])
            process = self._children.start(
                self.command,
                {**environment, **own},
                stdout=None if is_shown else subprocess.PIPE,
                stderr=None if is_shown else subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
            )
            worker = _Worker(index, process, collections.deque(maxlen=_LAST_LINES))
            if not is_shown:
                worker.reader = threading.Thread(target=self._read, args=(worker,), daemon=True)
                worker.reader.start()
            self._workers.append(worker)

    def _read(self, worker: _Worker) -> None:
        for line in worker.process.stdout or ():
            worker.last.append(line.rstrip("\n"))
            if self.show_all:
                print(f"[{worker.index}] {line}", end="", file=self.output, flush=True)

    def _wait(self) -> int:
        """Wait for all; once one has failed, make the others end. Return the exit status."""
        ended: list[_Worker] = []
        victims: list[_Worker] = []
        deadlines = [(_TO_END, signal.SIGTERM), (_TO_END + _AFTER_TERM, signal.SIGKILL)]
        failed_at = 0.0
        while len(ended) < self.count:
            for worker in self._workers:
                if worker not in ended and worker.process.poll() is not None:
                    ended.append(worker)
                    failed_at = failed_at or (time.monotonic() if worker.process.returncode else 0)
            if failed_at and deadlines and time.monotonic() > failed_at + deadlines[0][0]:
                _, number = deadlines.pop(0)
                victims = [worker for worker in self._workers if worker not in ended]
                for worker in victims:
                    worker.process.send_signal(number)
            time.sleep(0.1)
        failed = [worker for worker in ended if worker.process.returncode]
        if not failed:
            return 0
        # A worker that ended because another did is not to blame.
        failed.sort(
            key=lambda worker: (
                worker in victims or worker.process.returncode == WorkerLost.exit_status
            )
        )
        status = exit_status(failed[0].process.returncode)
        if self._children.signal is None or status != 128 + self._children.signal:
            self._report(failed[0])
        return status

    def _report(self, worker: _Worker) -> None:
        """Say which worker failed and how, show its last lines, and say how to go on."""
        lines = []
        if worker.reader is not None:
            worker.reader.join(timeout=5)
            lines = [] if self.show_all else list(worker.last)
        self._say(
            f"Worker {worker.index} of {self.count} {how_it_ended(worker.process.returncode)}; "
            "the others were ended." + (" Its last lines:" if lines else "")
        )
        for line in lines:
            print(f"[{worker.index}] {line}", file=self.output, flush=True)
        # Otherwise the chief has said so itself.
        if self._workers[0].process.returncode < 0:
            self._say("Go on with the same command and --resume.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the launcher.

    Args:
        arguments: Its arguments; those of the process by default.

    Returns:
        The exit status: 0; that of the worker that failed first, or 128 plus the number of the
        signal that killed it; 2 for a mistake in the arguments.
    """
    parser = argparse.ArgumentParser(
        prog=module_command("keras_switcher.launch", "keras-switcher-launch"),
        description="Run a training as several processes of this machine, for --strategy "
        "multiworker. The chief, worker 0, writes to this terminal; the others show when they "
        "fail.",
        epilog="Example: python -m keras_switcher.launch --workers 2 train.py --strategy "
        "multiworker --model lenet. In an installed package: keras-switcher-launch --workers 2 "
        "--strategy multiworker --model lenet",
        # The arguments after the launcher's own must not be taken for abbreviations of these.
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=int, required=True, metavar="N", help="how many")
    parser.add_argument(
        "--gpus-per-worker",
        type=int,
        metavar="N",
        help="give each worker GPUs of its own, of those that CUDA_VISIBLE_DEVICES names or of all "
        "(default: every worker sees all, which works with none)",
    )
    parser.add_argument(
        "--show-all", action="store_true", help="show what the other workers write, too"
    )
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="a script and its flags, -m and a module and its, or flags of train.py alone",
    )
    own, command = _split(sys.argv[1:] if arguments is None else list(arguments))
    options = parser.parse_args(own)
    if options.workers < 1:
        parser.error(f"expected --workers to be 1 or more. Received: {options.workers}")
    if command and command[0].endswith(".py") and not Path(command[0]).is_file():
        parser.error(f"expected a script that exists. Received: {command[0]}")
    try:
        gpus = shared_gpus(options.workers, options.gpus_per_worker, os.environ.get(GPUS))
    except ValueError as error:
        parser.error(str(error))
    launch = Launch(options.workers, command_of(command), options.show_all, sys.stderr, gpus)
    try:
        return launch.run()
    except OSError as error:
        parser.error(str(error))


def shared_gpus(workers: int, each: int | None, visible: str | None) -> list[list[str]]:
    """Return the names of the GPUs of each worker.

    Args:
        workers: Number of workers.
        each: How many GPUs each gets; `None` if they are not shared out.
        visible: The value of CUDA_VISIBLE_DEVICES, if it is set.

    Returns:
        A list for each worker; an empty list if nothing is shared out.

    Raises:
        ValueError: If there are not enough.
    """
    if each is None:
        return []
    if each < 1:
        raise ValueError(f"expected --gpus-per-worker to be 1 or more. Received: {each}")
    needed = workers * each
    # Only CUDA knows which GPUs there are; workers without theirs are refused by `train.py`.
    names = [str(n) for n in range(needed)] if visible is None else visible.split(",")
    if len(names) < needed or "" in names:
        raise ValueError(
            f"expected {needed} GPUs in CUDA_VISIBLE_DEVICES, {each} for each of {workers} "
            f"workers. Received: {visible!r}"
        )
    return [names[i * each : (i + 1) * each] for i in range(workers)]


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the launcher's own arguments, which come first, and the rest."""
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument in _WITH_VALUE:
            position += 2
        elif argument in ("--show-all", "-h", "--help") or argument.startswith(
            tuple(f"{name}=" for name in _WITH_VALUE)
        ):
            position += 1
        else:
            break
    return arguments[:position], arguments[position:]


if __name__ == "__main__":
    sys.exit(main())
