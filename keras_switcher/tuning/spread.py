"""One search by several processes: a chief that gives trials out, and workers that train them."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from keras_switcher.checks import ConfigError
from keras_switcher.children import Children, end_with, exit_status, how_it_ended
from keras_switcher.cluster import split_address, without_proxy
from keras_switcher.machine import THREADS, child_environment, free_ports, threads_each
from keras_switcher.programs import same_command

# The variables that Keras Tuner reads.
ID, _IP, _PORT = "KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"
_LAUNCHER = "KERAS_SWITCHER_TUNING_LAUNCHER"

# The signal to a chief that serves workers.
NO_WORKER_LEFT = signal.SIGUSR1
# How often a worker is started again after it was killed.
_STARTS = 3
_TO_END = 30.0
_LAST_LINES = 15
LOGS = "logs"


@dataclasses.dataclass(frozen=True)
class Place:
    """Which of the processes of a search this is.

    Args:
        name: Its name, as Keras Tuner knows it.
        is_worker: Whether a chief in another process gives it its trials.
        is_chief: Whether it gives trials out and trains none.
        launcher: The id of the process that started it, or 0.
    """

    name: str = "tuner0"
    is_worker: bool = False
    is_chief: bool = False
    launcher: int = 0

    @property
    def is_cluster(self) -> bool:
        """Whether the workers live on when the chief ends, and vice versa."""
        return (self.is_worker or self.is_chief) and not self.launcher

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Place":
        """Read the place from Keras Tuner's variables for it.

        Args:
            environment: The environment variables.

        Raises:
            ConfigError: If only some of them are set, or to what is no address.
        """
        given = [name for name in (ID, _IP, _PORT) if environment.get(name)]
        if not given:
            return cls()
        if len(given) < 3:
            raise ConfigError(
                f"Expected {ID}, {_IP} and {_PORT} together, or none of them. Received: "
                f"{', '.join(given)}"
            )
        try:
            split_address(f"{environment[_IP]}:{environment[_PORT]}")
        except ValueError:
            raise ConfigError(
                f"Expected {_IP} to be the address of the chief and {_PORT} a number from 1 to "
                f"65535. Received: {environment[_IP]}, {environment[_PORT]}"
            ) from None
        name, launcher = environment[ID], int(environment.get(_LAUNCHER, 0))
        # This is how Keras Tuner tells them apart.
        is_chief = "chief" in name
        return cls(name, not is_chief, is_chief, launcher)

    def take(self) -> None:
        """Take the place: reach the chief directly, and end when the launcher has ended."""
        if self.is_worker:
            os.environ.update(without_proxy([f"{os.environ[_IP]}:{os.environ[_PORT]}"]))
        if not self.launcher:
            return
        if self.is_chief:
            # The signal comes at any time after the last trial.
            signal.signal(NO_WORKER_LEFT, signal.SIG_IGN)

        # The main thread may be waiting for an answer from the chief, which has ended, too.
        end_with(self.launcher, forced_after=_TO_END / 2)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serve workers in the block, which ends when the launcher says that none is left."""

        class Over(BaseException):
            """Not an error, and Keras Tuner must not take it for one."""

        def over(number: int, frame: FrameType | None) -> None:
            raise Over

        if self.launcher:
            signal.signal(NO_WORKER_LEFT, over)
        try:
            yield
        except Over:
            pass
        finally:
            if self.launcher:
                # Python drops handlers as it ends, and the signal would then kill the process.
                signal.signal(NO_WORKER_LEFT, signal.SIG_IGN)


class Spread:
    """A chief and workers on this machine, from their start to the end of the search.

    A worker that is killed is started again and trains its trial anew. When the chief is killed,
    all end, and the same command continues the search.

    Args:
        workers: Number of workers.
        command: The command that each process runs.
        folder: The folder of the search; the output of workers goes into `logs/` there.
        output: Where this process writes.
    """

    def __init__(self, workers: int, command: Sequence[str], folder: Path, output: TextIO):
        self.count = workers
        self.command = list(command)
        self.folder = folder
        self.output = output
        self._shared: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._children = Children()

    def run(self) -> int:
        """Run the processes to their end; return the exit status."""
        with self._children.supervised():
            return self._run()

    def _run(self) -> int:
        threads = threads_each(self.count)
        self._shared = {
            _IP: "127.0.0.1",
            _PORT: str(free_ports(1)[0]),
            _LAUNCHER: str(os.getpid()),
            THREADS: threads,
        }
        (self.folder / LOGS).mkdir(exist_ok=True)
        workers = [f"tuner{index}" for index in range(self.count)]
        starts = dict.fromkeys(workers, 1)
        self._say(f"{self.count} workers on this machine, {threads} threads each.")
        for name in ("chief", *workers):
            self._start(name)
        while workers:
            time.sleep(0.1)
            chief = self._processes["chief"].poll()
            if chief == 0:
                # All trials had ended before.
                return 0
            if chief is not None and any(self._processes[name].poll() is None for name in workers):
                return self._stopped("The chief", chief)
            for name in list(workers):
                status = self._processes[name].poll()
                if status == 0:
                    workers.remove(name)
                elif status is not None and (status > 0 or self._children.signal):
                    return self._stopped(f"Worker {name}", status)
                elif status is not None:
                    if starts[name] > _STARTS:
                        self._say(f"Worker {name} was killed {starts[name]} times.")
                        return self._stopped(f"Worker {name}", status)
                    starts[name] += 1
                    self._say(f"Worker {name} {how_it_ended(status)}: starting it again.")
                    self._start(name)
        # The chief waits for workers that may still come, but none will.
        self._processes["chief"].send_signal(NO_WORKER_LEFT)
        return exit_status(self._processes["chief"].wait())

    def _start(self, name: str) -> None:
        # The chief writes to this terminal.
        path = os.devnull if name == "chief" else self.folder / LOGS / f"{name}.log"
        number = 0 if name == "chief" else int(name.removeprefix("tuner"))
        environment = {**child_environment(number), **self._shared, ID: name}
        with open(path, "ab") as file:
            log = None if name == "chief" else file
            self._processes[name] = self._children.start(
                self.command, environment, stdout=log, stderr=log
            )

    def _stopped(self, who: str, status: int) -> int:
        """End the processes that still run; say which one failed, unless all were asked to stop."""
        if self._children.signal is None and status == ConfigError.exit_status:
            # Asked to stop, it would say how to go on, which a mistake can't. There is nothing yet
            # that it would have to write.
            self._processes["chief"].kill()
        self._children.end()
        if self._children.signal is not None:
            return 128 + self._children.signal
        self._say(f"{who} {how_it_ended(status)}; the others were ended.")
        if who.startswith("Worker "):
            name = who.removeprefix("Worker ")
            path = self.folder / LOGS / f"{name}.log"
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[
                -_LAST_LINES:
            ]:
                print(f"[{name}] {line}", file=self.output, flush=True)
        if status < 0:
            self._say(f"Nothing is lost: go on with {same_command()}.")
        return exit_status(status)

    def _say(self, text: str) -> None:
        print(f"[tuning] {text}", file=self.output, flush=True)


def own_command(arguments: Sequence[str]) -> list[str]:
    """Return the command that runs `keras_switcher.tuning` again.

    Args:
        arguments: Its flags.
    """
    return [sys.executable, "-m", "keras_switcher.tuning", *arguments]
