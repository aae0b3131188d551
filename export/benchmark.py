"""`python -m export benchmark FILE...`: size, speed and memory of TFLite files on this machine."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_switcher.files import write_json

from . import runtime
from .display import megabytes, microseconds
from .errors import InvalidFile
from .figures import figures
from .flatbuffer import operators, read
from .options import BenchmarkOptions
from .validate import validate


def benchmark(options: BenchmarkOptions, console: Console) -> dict[str, Any]:
    """Measure files and show them side by side.

    Args:
        options: The command's options.
        console: Where to show the table.

    Returns:
        The content that `--json` writes.

    Raises:
        InvalidFile: If a file can't be read, is not a TFLite model, or could make the runtime read
            out of bounds.
        RuntimeFailure: If the runtime refuses a file, crashes or hangs.
        WriteError: If the JSON file can't be written.
    """
    read = {path: figures(_validated(path)) for path in options.files}
    configurations = [(n, delegate) for n in options.threads for delegate in (True, False)]
    with console.status("Measuring"):
        measured = runtime.measure(
            options.files,
            configurations=configurations,
            processes=options.processes,
            timeout=options.timeout,
        )
    entries = [
        {
            "file": str(path),
            "bytes": found.bytes,
            "gzip_bytes": found.gzip_bytes,
            "nonzeros": found.nonzeros,
            "weights": found.weights,
            "storage": {name: str(kind) for name, kind in found.storages.items()},
            "measurements": [
                {
                    "threads": one.latency.threads,
                    "delegate": one.latency.delegate,
                    "clock": one.latency.clock,
                    "median_us": round(one.latency.median_us, 2),
                    "p90_us": round(one.latency.p90_us, 2),
                    "heap_bytes": one.memory.heap_bytes,
                    "peak_bytes": one.memory.peak_bytes,
                }
                for one in measured[path]
            ],
        }
        for path, found in read.items()
    ]
    content = {"machine": machine(), "files": entries}
    _show(console, entries)
    if options.json is not None:
        write_json(options.json, content)
    return content


def machine() -> dict[str, Any]:
    """Return which machine latencies are measured on."""
    return {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}


def _validated(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidFile(f"Could not read {path}: {error.strerror}.") from error
    try:
        # What a converter may write is left to the process that runs it, all but sparse tensors.
        validate(content, trusted=operators(read(content)))
    except InvalidFile as error:
        raise InvalidFile(f"{path}: {error}") from error
    return content


def _show(console: Console, entries: list[dict[str, Any]]) -> None:
    # The names, which may be long, have a column that takes what is left of a terminal of 80.
    files = _table("Files", ("", "bytes", "gzipped", "not zero"))
    files.add_column("file", overflow="fold")
    times = _table("Calls", ("", "threads", "XNNPACK", "median", "90 %", "memory"))
    for number, entry in enumerate(entries, 1):
        files.add_row(
            str(number),
            f"{entry['bytes']:,}",
            f"{entry['gzip_bytes']:,}",
            f"{entry['nonzeros']:,}",
            escape(entry["file"]),
        )
        for one in entry["measurements"]:
            times.add_row(
                str(number),
                str(one["threads"]),
                "yes" if one["delegate"] else "no",
                microseconds(one["median_us"]),
                microseconds(one["p90_us"]),
                megabytes(one["heap_bytes"]),
            )
        times.add_section()
    console.print(files)
    console.print(times)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right")
    return table
