"""The flags of `python -m export`. Nothing here imports TensorFlow, so they answer at once."""

import dataclasses
import os
import typing
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from keras_switcher.checks import (
    AMOUNT,
    COUNT,
    FLAG,
    INNER_SHARE,
    SHARE,
    WAIT,
    Check,
    ConfigError,
    check_flags,
    one_of,
    or_none,
)

from .storage import Thresholds

_path = PrimitiveConstructorSpec[Path](
    nargs=1,
    metavar="PATH",
    instance_from_str=lambda args: Path(os.path.expanduser(args[0])),
    is_instance=lambda value: isinstance(value, Path),
    str_from_instance=lambda value: [str(value)],
)
_Path = Annotated[Path, _path]
_Goal = Literal["balanced", "size", "latency"]
_Quantization = Literal["dynamic", "int8", "none"]


class _Checked:
    """Options that are valid, or raise a `ConfigError` when they are made."""

    def __post_init__(self) -> None:
        for name in _PATHS:
            if isinstance(path := getattr(self, name, None), str):
                # The class is frozen.
                object.__setattr__(self, name, Path(path))
        load = getattr(self, "load", None)
        if isinstance(load, (tuple, list)) and all(map(_is_path, load)):
            object.__setattr__(self, "load", tuple(Path(path).expanduser() for path in load))
        _check(self)


@dataclasses.dataclass(frozen=True)
class ExportOptions(_Checked):
    """What to export, and how.

    Raises:
        ConfigError: If a value is wrong.
    """

    source: tyro.conf.Positional[_Path]
    """Folder of a finished run of train.py, or a .keras file."""
    out: _Path | None = None
    """Where the files go; none means RUN/export, or <name>-export beside a .keras file."""
    optimize: _Goal = "balanced"
    """What to optimise for: latency takes the fastest way to store each layer; balanced takes the
    smallest of those that are about as fast as a dense layer, or faster; size takes the smallest of
    all, even if it is slower."""
    quantize: _Quantization = "dynamic"
    """Quantisation of model_int8.tflite: dynamic has int8 weights; int8 also has int8 activations,
    whose ranges are read from training examples; none leaves the file out."""
    float16: bool = False
    """Also write model_float16.tflite: half the bytes of dense float32."""
    batch: int = 1
    """Number of examples in a call."""
    dataset: str | None = None
    """Data set to verify with, by name; none means the run's."""
    data_dir: _Path | None = None
    """Folder of TensorFlow Datasets; none means the run's, then TFDS_DATA_DIR."""
    load: tuple[_Path, ...] = ()
    """Python files to run first, which register the run's data set, or define layers of your own.
    Those of the run are not run unless named here."""
    examples: _Path | None = None
    """A .npz file to verify with instead of a data set: x_test and, if there are any, y_test and
    x_train, in the format of keras.datasets."""
    accuracy_drop: float = 0.003
    """How much accuracy a quantised file may lose, as a share: 0.003 is 0.3 points."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads to measure with."""
    timeout: float = 300.0
    """Seconds that the runtime has for a file before it counts as failed."""
    measure: bool = True
    """Measure latency and memory."""
    verbose: bool = False
    """Log more, and show the traceback of an error."""
    thresholds: Thresholds = dataclasses.field(default_factory=Thresholds)
    """From which sparsity on the kernel of each sparse storage is as fast as the dense one."""


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions(_Checked):
    """Which files to measure, and how.

    Raises:
        ConfigError: If a value is wrong.
    """

    files: tyro.conf.Positional[tuple[_Path, ...]]
    """TFLite files, from anywhere."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of threads to measure with."""
    processes: int = 3
    """Processes for each figure; the figure is that of the process that was disturbed least."""
    timeout: float = 300.0
    """Seconds that the runtime has for a file before it counts as failed."""
    json: _Path | None = None
    """Also write the figures into this file."""
    verbose: bool = False
    """Show the traceback of an error."""


@dataclasses.dataclass(frozen=True)
class ServeOptions(_Checked):
    """What to serve, and where.

    Raises:
        ConfigError: If a value is wrong.
    """

    run: tyro.conf.Positional[_Path]
    """Folder of an exported run, or of an export."""
    host: str = "127.0.0.1"
    """Name or address to listen on; 0.0.0.0 is every address of this machine, for a phone in the
    same network."""
    port: int | None = None
    """Port to listen on, or 0 for any that is free. Without it, 8640, or another if that one is
    taken."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which browsers may ask for the page, such as that of a proxy with a certificate;
    addresses, localhost and this machine's own name always are allowed."""
    bundle: _Path | None = None
    """Write the page as static files into this folder, for any web host, and serve nothing."""
    verbose: bool = False
    """Log every request, and show the traceback of an error."""


_PORT = or_none(Check("an integer from 0 to 65535", lambda value: 0 <= value <= 65535))
_THREADS = Check(
    "numbers of threads, integers >= 1",
    lambda value: (
        isinstance(value, (tuple, list)) and len(value) > 0 and all(map(COUNT.accepts, value))
    ),
)
_PATHS = ("source", "out", "data_dir", "examples", "run", "bundle", "json")


def _is_path(value: object) -> bool:
    return isinstance(value, (str, Path))


_PATH = Check("a path", lambda value: isinstance(value, Path))
_CHECKS = {
    **dict.fromkeys(("source", "run"), _PATH),
    **dict.fromkeys(("out", "data_dir", "examples", "bundle", "json"), or_none(_PATH)),
    **dict.fromkeys(("float16", "measure", "verbose"), FLAG),
    "load": Check(
        "paths of Python files",
        lambda value: isinstance(value, (tuple, list)) and all(map(_is_path, value)),
    ),
    "optimize": one_of(*typing.get_args(_Goal)),
    "quantize": one_of(*typing.get_args(_Quantization)),
    "batch": COUNT,
    "accuracy_drop": SHARE,
    "threads": _THREADS,
    "timeout": WAIT,
    "processes": COUNT,
    "port": _PORT,
}
_THRESHOLD_CHECKS = {
    **dict.fromkeys(("csr", "large_csr", "block4", "block16"), INNER_SHARE),
    **dict.fromkeys(("batched_csr", "batched_block4", "batched_block16"), INNER_SHARE),
    "large_bytes": COUNT,
    "joined_bytes": AMOUNT,
}


def _check(options: _Checked) -> None:
    check_flags(options, {n: check for n, check in _CHECKS.items() if hasattr(options, n)})
    if isinstance(options, ExportOptions):
        check_flags(options.thresholds, _THRESHOLD_CHECKS, "--thresholds.")
        if options.examples is not None and options.dataset is not None:
            raise ConfigError(
                "Expected one of --examples and --dataset. Received: "
                f"--examples {options.examples}, --dataset {options.dataset}"
            )
    elif isinstance(options, BenchmarkOptions) and not options.files:
        raise ConfigError("Expected at least one TFLite file. Received: none")
