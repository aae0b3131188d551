"""Run a .tflite file on seeded pixels, and compare the outputs of two machines.

`arm_check.sh` runs this file on both sides, so it needs nothing but numpy and ai_edge_litert.

    python benchmarks/arm_run.py run model_sparse.tflite x86.npy --delegate no
    python benchmarks/arm_run.py compare model_sparse.tflite x86.npy arm.npy
"""

import argparse
import platform
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

EXAMPLES = 20

# Largest difference allowed, as a share of the largest output. A float file differs by the order in
# which sums are taken. An int8 file rounds on the way: a value that is rounded the other way is off
# by one step of its tensor, and full int8 rounds the output to steps, too.
FLOAT_TOLERANCE = 1e-5
INT8_TOLERANCE = 0.02


def load(file: Path, delegate: bool = True) -> Interpreter:
    """Return an interpreter on one thread, with or without its default delegate (XNNPACK)."""
    kind = OpResolverType.BUILTIN if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(str(file), num_threads=1, experimental_op_resolver_type=kind)


def only(details: list[dict], what: str, file: Path) -> dict:
    """Return the one tensor of a list of inputs or outputs, and refuse any other number."""
    if len(details) != 1:
        raise SystemExit(f"{file}: expected one {what}. Received: {len(details)}")
    return details[0]


def pixels(shape: tuple[int, ...]) -> np.ndarray:
    """Return 20 inputs of whole numbers 0..255: from all noise to 95 % background of value 0."""
    random = np.random.default_rng(0)
    values = random.integers(0, 256, (EXAMPLES, *shape))
    background = np.linspace(0, 0.95, EXAMPLES).reshape(-1, *[1] * len(shape))
    return values * (random.random(values.shape) >= background)


def run(file: Path, out: Path, delegate: bool) -> None:
    """Write the outputs of the seeded inputs, float64 of shape (20, values), as a .npy file."""
    interpreter = load(file, delegate)
    interpreter.allocate_tensors()
    source = only(interpreter.get_input_details(), "input", file)
    sink = only(interpreter.get_output_details(), "output", file)
    # An input of type int8 holds the pixel minus 128; float32 and uint8 hold it as it is.
    shift = 128 if source["dtype"] == np.int8 else 0
    results = []
    for example in pixels(tuple(source["shape"])):
        interpreter.set_tensor(source["index"], (example - shift).astype(source["dtype"]))
        interpreter.invoke()
        results.append(interpreter.get_tensor(sink["index"]).reshape(-1).astype(np.float64))
    np.save(out, np.stack(results))


def compare(file: Path, expected: np.ndarray, received: np.ndarray) -> bool:
    """Print largest difference, limit and share of equal classes; return whether all is well."""
    int8 = any(tensor["dtype"] == np.int8 for tensor in load(file).get_tensor_details())
    limit = (INT8_TOLERANCE if int8 else FLOAT_TOLERANCE) * np.abs(expected).max()
    finite = bool(np.isfinite(expected).all() and np.isfinite(received).all())
    difference = np.abs(expected - received).max()
    same = np.mean(expected.argmax(1) == received.argmax(1))
    well = finite and bool(difference <= limit)
    print(f"{difference:9.1e} {limit:9.1e} {same:8.0%}  {'ok' if well else 'DIFFERS'}")
    return well


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("versions", help="print the versions of Python, numpy and LiteRT")
    runs = commands.add_parser("run", help="run a file and write its outputs")
    runs.add_argument("file", type=Path)
    runs.add_argument("out", type=Path)
    runs.add_argument("--delegate", choices=["yes", "no"], default="yes")
    compares = commands.add_parser("compare", help="compare the outputs of two machines")
    compares.add_argument("file", type=Path)
    compares.add_argument("expected", type=Path)
    compares.add_argument("received", type=Path)
    args = parser.parse_args()
    if args.command == "versions":
        from importlib.metadata import version

        print(
            f"{platform.machine()}: Python {platform.python_version()}, numpy {np.__version__}, "
            f"ai-edge-litert {version('ai-edge-litert')}"
        )
    elif args.command == "run":
        run(args.file, args.out, args.delegate == "yes")
    elif not compare(args.file, np.load(args.expected), np.load(args.received)):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
