"""Script that loads one TFLite file in a process of its own, to run it or measure time and memory.

`runtime` starts it by its path, writes a request in JSON to its standard input and reads the answer
in JSON from its standard output; arrays travel as .npy files in the current folder. It imports only
NumPy and LiteRT, so that a process starts in a third of a second and its memory is that of the file
and not of the rest of the library.
"""

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

BLOCK_NS = 20_000_000
MIN_BLOCKS = 3
WARMUP = 0.1
"""Share of a measurement's seconds that pass before anything counts."""
INVOKES_BEFORE_WEIGHING = 3


def load(request: dict[str, Any]) -> Interpreter:
    """Return an interpreter of the file, with its tensors allocated."""
    resolver = (
        OpResolverType.AUTO
        if request["delegate"]
        else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter = Interpreter(
        model_path=request["file"],
        num_threads=request["threads"],
        experimental_op_resolver_type=resolver,
    )
    interpreter.allocate_tensors()
    return interpreter


def tensors(interpreter: Interpreter) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return LiteRT's details of the inputs and of the outputs by name.

    The names are those of the signature if the file has exactly one and it belongs to the graph
    that `invoke` runs; otherwise they are those of the tensors.
    """
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(interpreter.get_signature_list()) == 1:
        signature = interpreter.get_signature_runner()
        named = signature.get_input_details()
        if {tensor["index"] for tensor in named.values()} == {one["index"] for one in inputs}:
            return named, signature.get_output_details()
    return _by_tensor_name(inputs), _by_tensor_name(outputs)


def _by_tensor_name(details: list[dict[str, Any]]) -> dict[str, Any]:
    names = [tensor["name"] for tensor in details]
    if len(set(names)) < len(names):
        names = [f"{name}#{position}" for position, name in enumerate(names)]
    return dict(zip(names, details, strict=True))


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run all examples in batches of the file's size, and write the outputs."""
    interpreter = load(request)
    inputs, outputs = tensors(interpreter)
    given = {name: np.load(file, allow_pickle=False) for name, file in request["inputs"].items()}
    if set(given) != set(inputs):
        raise ValueError(f"Expected the inputs {sorted(inputs)}. Received: {sorted(given)}")
    batch = _batch(inputs)
    for name, tensor in inputs.items():
        _fit(interpreter, name, tensor, batch, given[name])
    interpreter.allocate_tensors()

    examples = len(next(iter(given.values())))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    for start in range(0, examples, batch):
        # The last batch is filled up with the last example.
        rows = np.minimum(np.arange(start, start + batch), examples - 1)
        for name, tensor in inputs.items():
            interpreter.set_tensor(tensor["index"], given[name][rows])
        interpreter.invoke()
        for name, tensor in outputs.items():
            part = interpreter.get_tensor(tensor["index"])
            if part.shape[:1] != (batch,):
                raise ValueError(
                    f"Expected output '{name}' to have {batch} rows, as the inputs have. Received: "
                    f"shape {part.shape}"
                )
            parts[name].append(part)
    files = {name: f"output_{position}.npy" for position, name in enumerate(parts)}
    for name, file in files.items():
        np.save(file, np.concatenate(parts[name])[:examples])
    return {"outputs": files}


def _batch(inputs: dict[str, Any]) -> int:
    """Return the number of examples that one call takes; 1 where the file leaves it open."""
    sizes = {tuple(int(size) for size in tensor["shape"][:1]) for tensor in inputs.values()}
    if len(sizes) != 1 or sizes == {()}:
        shapes = {name: tensor["shape"].tolist() for name, tensor in inputs.items()}
        raise ValueError(f"Expected inputs whose first axis is the same batch. Received: {shapes}")
    return sizes.pop()[0]


def _fit(
    interpreter: Interpreter, name: str, tensor: dict[str, Any], batch: int, given: np.ndarray
) -> None:
    """Check an input, and give the axes that the file leaves open the sizes of the given array."""
    signature = tensor["shape_signature"].tolist() or tensor["shape"].tolist()
    expected = [None, *(None if size < 0 else size for size in signature[1:])]
    is_shape = len(given.shape) == len(expected) and all(
        size in (None, got) for size, got in zip(expected, given.shape, strict=True)
    )
    if not is_shape or given.dtype != tensor["dtype"]:
        raise ValueError(
            f"Expected input '{name}' to have the shape {tuple(expected)} and the dtype "
            f"{np.dtype(tensor['dtype']).name}. Received: {given.shape}, {given.dtype.name}"
        )
    if -1 in signature:
        interpreter.resize_tensor_input(tensor["index"], (batch, *given.shape[1:]), strict=True)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Return the latency of one call on random inputs, and the memory that the file takes."""
    before = _memory()
    interpreter = load(request)
    rng = np.random.default_rng(0)
    for tensor in interpreter.get_input_details():
        interpreter.set_tensor(tensor["index"], _random(tensor["shape"], tensor["dtype"], rng))
    for _ in range(INVOKES_BEFORE_WEIGHING):
        interpreter.invoke()
    after = _memory()
    return {
        **_latency(interpreter.invoke, request["threads"], request["seconds"]),
        "heap_bytes": _growth(before, after, "RssAnon"),
        "peak_bytes": _growth(before, after, "VmHWM"),
    }


def _random(shape: np.ndarray, dtype: type, rng: np.random.Generator) -> np.ndarray:
    """Return an input for timing. Axes that the file leaves open have the size 1."""
    kind: np.dtype[Any] = np.dtype(dtype)
    if kind.kind == "f":
        return rng.random(shape).astype(kind)
    if kind in (np.int32, np.int64, np.uint32, np.uint64):
        # They are usually indices into a table, whose length is unknown.
        return rng.integers(0, 2, shape).astype(kind)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
    return np.zeros(shape, kind)


def _latency(invoke: Callable[[], None], threads: int, seconds: float) -> dict[str, Any]:
    """Time blocks of calls.

    One thread is timed by the CPU time of the process, which other processes on the machine disturb
    least; the CPU time of several threads would hide what they gain.

    Args:
        invoke: The call.
        threads: Number of threads that it may use.
        seconds: Wall time for all of it; at least `MIN_BLOCKS` blocks of one call are timed in any
            case.
    """
    clock = time.process_time_ns if threads == 1 else time.perf_counter_ns
    end = time.perf_counter() + seconds
    warm = end - (1 - WARMUP) * seconds
    gc.disable()
    calls, start = 0, clock()
    while calls == 0 or time.perf_counter() < warm:
        invoke()
        calls += 1
    repetitions = max(1, round(BLOCK_NS * calls / max(1, clock() - start)))
    blocks: list[float] = []
    while len(blocks) < MIN_BLOCKS or time.perf_counter() < end:
        start = clock()
        for _ in range(repetitions):
            invoke()
        blocks.append((clock() - start) / repetitions / 1000)
    return {
        "clock": "cpu" if threads == 1 else "wall",
        "median_us": float(np.median(blocks)),
        "p90_us": float(np.percentile(blocks, 90)),
    }


def _memory() -> dict[str, int]:
    """Return this process's memory in bytes; empty where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            lines = [line.split() for line in status]
    except FileNotFoundError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def _growth(before: dict[str, int], after: dict[str, int], field: str) -> int | None:
    return after[field] - before[field] if field in before and field in after else None


TASKS = {"run": run, "measure": measure}


def main(answers: TextIO) -> None:
    """Answer one request.

    Args:
        answers: Where the answer is written to.
    """
    request = json.load(sys.stdin)
    # A crash is an answer, too, and needs no core dump on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If the parent was killed, nothing else ends a process whose file hangs.
    signal.setitimer(signal.ITIMER_REAL, request["seconds_to_live"])
    try:
        answer = TASKS[request["task"]](request)
    # Whatever the runtime raises is the answer.
    except Exception as error:
        answer = {"error": str(error) or type(error).__name__}
    json.dump(answer, answers)


if __name__ == "__main__":
    # What native code writes to standard output must not get into the answer.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as standard_output:
        os.dup2(2, 1)
        main(standard_output)
