"""Mutate TFLite files and run those that the validator accepts: no runtime may crash on one.

Half of the mutations change a field of the object model, and all kinds of fields equally often:
segments, indices, versions, shapes, types, options, quantisation, buffers, the inputs and outputs
of operators. The other half flips bits, overwrites bytes, cuts or moves pieces of the file. A file
that the validator accepts runs in another process, with and without delegates. Death by a signal,
more than 4 GiB of memory or more than ten seconds count as a crash; an error that the runtime
raises does not.

    python benchmarks/fuzz_validator.py *.tflite --count 100000 --seed 7 --keep crashes
"""

import argparse
import dataclasses
import functools
import pickle
import select
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from export.errors import InvalidFile  # noqa: E402
from export.flatbuffer import IDENTIFIER, read  # noqa: E402
from export.validate import validate  # noqa: E402

SECONDS = 10.0
_INTEGERS = (-1, 0, 1, 2, 3, 4, 8, 12, 16, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, -(2**31))
_FLOATS = (0.0, -1.0, 1e-38, 1e-12, 1e12, 3e38, float("nan"), float("inf"))


@dataclasses.dataclass
class Outcome:
    """What became of mutated files.

    Args:
        rejected: How many the validator refused.
        ran: How many it accepted and the runtime ran.
        refused: How many it accepted and the runtime refused with an error.
        crashes: Those that it accepted and that crashed the runtime.
    """

    rejected: int = 0
    ran: int = 0
    refused: int = 0
    crashes: list[bytes] = dataclasses.field(default_factory=list)


class Runtime:
    """The process that runs files, restarted after one has killed it."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def survives(self, content: bytes) -> bool | None:
        """Return `True` if a file ran, `False` if it was refused, or `None` if it was deadly."""
        if self.process is None:
            worker = Path(__file__).with_name("litert_worker.py")
            self.process = subprocess.Popen(
                [sys.executable, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        assert self.process.stdin and self.process.stdout
        answer = b""
        try:
            self.process.stdin.write(struct.pack("<I", len(content)) + content)
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], SECONDS)[0]:
                answer = self.process.stdout.read(1)
        except BrokenPipeError:
            pass
        if not answer:
            self.close()
            return None
        return answer == b"k"

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def fuzz(files: Sequence[bytes], count: int, seed: int = 0, keep: Path | None = None) -> Outcome:
    """Mutate files, validate each mutant, and run the accepted ones.

    Args:
        files: Valid files.
        count: How many mutants to make.
        seed: Seed of the random choices.
        keep: A folder for those that crash the runtime, each written at once.
    """
    random = np.random.default_rng(seed)
    outcome = Outcome()
    runtime = Runtime()
    try:
        for number in range(count):
            source = files[number % len(files)]
            mutant = (mutated_model if random.random() < 0.5 else mutated_bytes)(source, random)
            try:
                validate(mutant)
            except InvalidFile:
                outcome.rejected += 1
                continue
            survived = runtime.survives(mutant)
            if survived is None:
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{seed}-{len(outcome.crashes)}.tflite").write_bytes(mutant)
                outcome.crashes.append(mutant)
            elif survived:
                outcome.ran += 1
            else:
                outcome.refused += 1
    finally:
        runtime.close()
    return outcome


def mutated_bytes(content: bytes, random: np.random.Generator) -> bytes:
    """Return a file with a few bits or bytes changed, or a piece cut, copied or dropped."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        place = int(random.integers(len(data)))
        kind = random.integers(6)
        if kind == 0:
            data[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            data[place] = int(random.integers(256))
        elif kind == 2:
            # Aligned words are lengths, offsets and numbers.
            place = min(place & ~3, len(data) - 4)
            data[place : place + 4] = struct.pack("<i", int(random.choice(_INTEGERS)))
        elif kind == 3:
            source = int(random.integers(len(data)))
            length = int(random.integers(1, 9))
            data[place : place + length] = data[source : source + length]
        elif kind == 4 and random.random() < 0.3:
            del data[place:]
            data.extend(b"\0" * 8)
        elif kind == 5 and random.random() < 0.3:
            del data[place : place + int(random.integers(1, 9))]
    return bytes(data)


def mutated_model(content: bytes, random: np.random.Generator) -> bytes:
    """Return a file with one to three fields of its object model changed."""
    while True:
        model = pickle.loads(_pickled(content))
        for _ in range(random.integers(1, 4)):
            _mutate(model, random)
        builder = flatbuffers.Builder(2 * len(content))
        try:
            builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
        # A number that its field can't hold can't be written: mutate again.
        except (TypeError, ValueError, AttributeError, struct.error, OverflowError):
            continue
        return bytes(builder.Output())


@functools.cache
def _pickled(content: bytes) -> bytes:
    """Return the pickled object model of a file, as unpickling is far faster than reading."""
    return pickle.dumps(read(content))


def _mutate(model: schema.ModelT, random: np.random.Generator) -> None:
    places: dict[str, list[Any]] = {}
    _collect(model, places)
    # By name first, as otherwise only fields that occur often would ever be changed.
    name = sorted(places)[random.integers(len(places))]
    owner = places[name][random.integers(len(places[name]))]
    value = getattr(owner, name)
    if random.random() < 0.2:
        # A value that is right elsewhere is the most likely to be accepted.
        other = places[name][random.integers(len(places[name]))]
        setattr(owner, name, getattr(other, name))
    else:
        setattr(owner, name, _changed(value, random))


def _collect(item: Any, places: dict[str, list[Any]]) -> None:
    """Note each object by the names of its fields."""
    for name, value in vars(item).items():
        places.setdefault(name, []).append(item)
        children = value if isinstance(value, list) else [value]
        for child in children:
            if hasattr(child, "Pack"):
                _collect(child, places)


def _changed(value: Any, random: np.random.Generator) -> Any:
    if isinstance(value, bool | np.bool_):
        return not value
    if isinstance(value, int | np.integer):
        return int(_number(int(value), random))
    if isinstance(value, float):
        return float(random.choice([*_FLOATS, value * 1e6, value / 1e6]))
    if isinstance(value, bytes):
        return [value + b"x", b"", None][random.integers(3)]
    if isinstance(value, np.ndarray):
        return _changed_array(value, random)
    if isinstance(value, list) and value:
        return _changed_list(value, random)
    if value is None and random.random() < 0.5:
        return np.asarray(random.integers(-1, 4, random.integers(1, 5)), np.int32)
    return None


def _number(value: int, random: np.random.Generator) -> int:
    near = (value + 1, value - 1, value * 2, value // 2, -value)
    return int(random.choice(near) if random.random() < 0.5 else random.choice(_INTEGERS))


def _changed_array(array: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    array = array.copy()
    kind = random.integers(7)
    if kind < 3 and len(array):
        place = random.integers(len(array))
        if array.dtype.kind == "f":
            array[place] = random.choice([*_FLOATS, array[place] * 1e6, array[place] / 1e6])
        else:
            limits = np.iinfo(array.dtype)
            number = _number(int(array[place]), random)
            array[place] = min(max(number, limits.min), limits.max)
    elif kind == 3:
        return array[: random.integers(len(array) + 1)]
    elif kind == 4:
        return np.concatenate([array, array[: random.integers(1, 5)]])
    elif kind == 5:
        random.shuffle(array)
    else:
        return None if random.random() < 0.3 else np.sort(array)
    return array


def _changed_list(items: list[Any], random: np.random.Generator) -> list[Any]:
    items = list(items)
    place = int(random.integers(len(items)))
    other = int(random.integers(len(items)))
    kind = random.integers(3)
    if kind == 0:
        del items[place]
    elif kind == 1:
        items[place], items[other] = items[other], items[place]
    else:
        items.insert(place, items[other])
    return items


def main() -> None:
    """Fuzz the files of the command line and write what crashes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", help="valid TFLite files, small ones")
    parser.add_argument("--count", type=int, default=100_000, help="mutants to make")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that crash the runtime")
    args = parser.parse_args()
    outcome = fuzz([path.read_bytes() for path in args.files], args.count, args.seed, args.keep)
    print(
        f"{args.count} mutants: {outcome.rejected} rejected, {outcome.ran} ran, "
        f"{outcome.refused} refused by the runtime, {len(outcome.crashes)} crashed it"
    )
    sys.exit(bool(outcome.crashes))


if __name__ == "__main__":
    main()
