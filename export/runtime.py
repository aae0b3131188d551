"""Run and measure TFLite files by LiteRT, in processes that may crash or hang."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import InvalidFile, RuntimeFailure
from .flatbuffer import IDENTIFIER

RUNNER = Path(__file__).with_name("runner.py")
TIMEOUT = 120.0

_ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "OPENBLAS_NUM_THREADS": "1"}
_GRACE = 10.0
"""Seconds beyond the time limit after which a process ends itself, if nobody is left to do it."""


@dataclass(frozen=True)
class Latency:
    """Time of one call at the file's batch size.

    Args:
        median_us: Median over blocks of calls of about 20 ms, in microseconds.
        p90_us: The 90th percentile over them.
        clock: `cpu` for the CPU time of the process, taken with one thread; `wall` with several.
        threads: Number of threads.
        delegate: Whether XNNPACK was used.
    """

    median_us: float
    p90_us: float
    clock: Literal["cpu", "wall"]
    threads: int
    delegate: bool


@dataclass(frozen=True)
class Memory:
    """How much a process grows when it loads a file and calls it three times; `None` if unknown.

    Args:
        heap_bytes: Anonymous memory: weights unpacked or repacked, activations, the interpreter.
        peak_bytes: Peak of all resident memory, including the pages of the file itself.
    """

    heap_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True)
class Measurement:
    """Latency and memory of a file in one configuration."""

    latency: Latency
    memory: Memory


def run(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    *,
    delegate: bool = True,
    threads: int = 1,
    timeout: float = TIMEOUT,
) -> dict[str, np.ndarray]:
    """Return a file's outputs for some examples.

    Args:
        path: The TFLite file.
        inputs: For each input of the file, by name, the examples: shape (examples, ...), any number
            of them, in the dtype of the input.
        delegate: Whether XNNPACK runs what it can, as it does by default in all of LiteRT.
        threads: Number of threads.
        timeout: Seconds after which it counts as hanging.

    Returns:
        The outputs by name; shape (examples, ...).

    Raises:
        ValueError: If there are no examples, or not as many for one input as for another.
        InvalidFile: If the file can't be read, or is not a TFLite model.
        RuntimeFailure: If the runtime refuses the file or the inputs, crashes or hangs.

    Example:

    ```python
    outputs = run(Path("model_sparse.tflite"), {"image": images})
    outputs["logits"].argmax(axis=-1)
    ```
    """
    counts = {name: len(np.atleast_1d(array)) for name, array in inputs.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"Expected the same number of examples, >= 1, each. Received: {counts}")
    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"input_{position}.npy" for position, name in enumerate(inputs)}
        for name, file in files.items():
            np.save(Path(folder, file), inputs[name], allow_pickle=False)
        how: dict[str, Any] = {"threads": threads, "delegate": delegate}
        answer = _ask(path, "run", folder, timeout, **how, inputs=files)
        return {
            name: np.load(Path(folder, file), allow_pickle=False)
            for name, file in answer["outputs"].items()
        }


def measure(
    paths: Sequence[Path],
    *,
    configurations: Sequence[tuple[int, bool]] = ((1, True),),
    processes: int = 3,
    seconds: float = 1.0,
    timeout: float = TIMEOUT,
    seed: int = 0,
) -> dict[Path, tuple[Measurement, ...]]:
    """Compare the latency and memory of files, on made-up inputs.

    Each file runs in each configuration in `processes` fresh processes, one at a time, in rounds
    of shuffled order. Whatever else a machine does can only make a file slower, so its figures are
    those of the process that was disturbed least.

    Args:
        paths: The TFLite files.
        configurations: Pairs of the number of threads and whether XNNPACK is used.
        processes: Number of processes for each file and configuration.
        seconds: Wall time of one measurement, which a slow file may exceed by a few calls.
        timeout: Seconds after which a process counts as hanging.
        seed: Seed of the order.

    Returns:
        For each path, a measurement per configuration, from the process with the lowest median.

    Raises:
        ValueError: If a number is out of range.
        InvalidFile: If a file can't be read, or is not a TFLite model.
        RuntimeFailure: If the runtime refuses a file, crashes or hangs.
    """
    if processes < 1 or any(threads < 1 for threads, _ in configurations) or not seconds > 0:
        raise ValueError(
            "Expected processes >= 1, threads >= 1 and seconds > 0. Received: "
            f"processes={processes}, configurations={configurations}, seconds={seconds}"
        )
    order = random.Random(seed)
    answers: dict[tuple[Path, tuple[int, bool]], list[dict[str, Any]]] = {
        (path, pair): [] for path in paths for pair in configurations
    }
    for _ in range(processes):
        for path, (threads, delegate) in order.sample(list(answers), len(answers)):
            with tempfile.TemporaryDirectory() as folder:
                how: dict[str, Any] = {"threads": threads, "delegate": delegate}
                answer = _ask(path, "measure", folder, timeout, **how, seconds=seconds)
            answers[path, (threads, delegate)].append(answer)
    return {
        path: tuple(_least_disturbed(answers[path, pair], *pair) for pair in configurations)
        for path in paths
    }


def _least_disturbed(answers: list[dict[str, Any]], threads: int, delegate: bool) -> Measurement:
    best = min(answers, key=lambda answer: float(answer["median_us"]))
    return Measurement(
        Latency(best["median_us"], best["p90_us"], best["clock"], threads, delegate),
        Memory(best["heap_bytes"], best["peak_bytes"]),
    )


def _ask(
    path: Path, task: str, folder: str, timeout: float, *, threads: int, delegate: bool, **more: Any
) -> dict[str, Any]:
    """Have a process do one task on a file, with `folder` as current folder; return its answer."""
    _check_file(path)
    request = {
        "task": task,
        "file": str(path.absolute()),
        "threads": threads,
        "delegate": delegate,
        "seconds_to_live": timeout + _GRACE,
        **more,
    }
    where = f"{path}, {'with' if delegate else 'without'} XNNPACK, on {threads} thread(s)"
    try:
        status, output, chatter = _answered(json.dumps(request), folder, timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeFailure(
            f"LiteRT did not finish within {timeout:g} s (--timeout): {where}."
        ) from None
    if status:
        what = f"crashed ({signal.Signals(-status).name})" if status < 0 else "gave up"
        lines = [line for line in chatter.splitlines() if line and not line.startswith("INFO")]
        raise RuntimeFailure(f"LiteRT {what}: {where}. {lines[-1] if lines else ''}".rstrip())
    answer: dict[str, Any] = json.loads(output)
    if "error" in answer:
        raise RuntimeFailure(f"LiteRT failed: {where}. {' '.join(answer['error'].split())}")
    return answer


def _answered(request: str, folder: str, timeout: float) -> tuple[int, str, str]:
    # -P keeps modules beside the script from hiding those of Python's library.
    with subprocess.Popen(
        [sys.executable, "-P", "-X", "utf8", str(RUNNER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, **_ENVIRONMENT},
        start_new_session=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            output, chatter = process.communicate(request, timeout)
        # An interrupted parent, too, leaves nothing running.
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    return process.returncode, output, chatter


def _check_file(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InvalidFile(f"Could not read {path}: {error.strerror}.") from error
    if start[4:] != IDENTIFIER:
        raise InvalidFile(
            f"Expected a TFLite model, with {IDENTIFIER!r} at byte 4. Received: {path}, which "
            f"starts with {start!r}"
        )
