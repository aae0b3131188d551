"""`train.py` as a process of its own, and in this one, on little data and without a network."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "train.py"

# 270 training, 30 validation and 300 test examples; an epoch has 8 batches.
SMALL = (
    *("--model", "lenet300", "--dataset", "mnist5k", "--limit", "300"),
    # So few steps have turns of the switcher in every epoch, and between two epochs.
    *("--width", "0.2", "--epochs", "2", "--batch-size", "32", "--task-steps", "2"),
)


def offline(data_dir: Path) -> dict[str, str]:
    """An environment in which no data set is prepared and no host answers."""
    return {
        **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
        "TFDS_DATA_DIR": str(data_dir),
        # Refused at once, whether or not this machine has a network.
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "COLUMNS": "100",
    }


class Process:
    """A running `train.py`, or another program, and what it has written so far."""

    program = (str(TRAIN),)

    def __init__(self, *flags: str, cwd: Path, **environment: str):
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            [sys.executable, *self.program, *flags],
            cwd=cwd,
            env={**offline(cwd), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, *starts: str) -> None:
        """Wait for a line that starts so, then for one after it that starts as the next..."""
        position = 0
        for start in starts:
            with self._news:
                while not any(line.startswith(start) for line in self.lines[position:]):
                    if self._ended or not self._news.wait(timeout=400):
                        raise AssertionError(f"No line {start!r} in:\n{self.output}")
                matches = [line.startswith(start) for line in self.lines[position:]]
                position += matches.index(True) + 1

    @property
    def number(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """Kill it, and do not wait for those that still hold its output."""
        self._process.kill()
        self._process.wait(timeout=60)

    def send(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self._process.wait(timeout=600)
        self._reader.join()
        self._process.stdout.close()
        return status


def run(*flags: str, cwd: Path) -> tuple[int, str]:
    """Run `train.py` to its end; return its exit status and what it wrote."""
    process = Process(*flags, cwd=cwd)
    status = process.wait()
    return status, process.output
