"""What `python -m export` shows: the layers before and after, and the files side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from keras_switcher.display import percent, say

# `benchmark` imports this module, too, and does without TensorFlow.
if TYPE_CHECKING:
    from .compact import Compacted


def show_compaction(console: Console, compacted: "Compacted") -> None:
    """Show every layer with weights before and after compacting."""
    table = Table(title="Compacted", title_justify="left")
    table.add_column("layer")
    for column in ("inputs", "units", "weights", "not zero"):
        table.add_column(column, justify="right")
    for layer in compacted.layers:
        table.add_row(
            escape(layer.name),
            *(
                change(getattr(layer.before, field), getattr(layer.after, field))
                for field in ("inputs", "units", "parameters", "nonzeros")
            ),
        )
    console.print(table)


def show_artifacts(console: Console, content: Mapping[str, Any]) -> None:
    """Show the files and, beside them, the one that the converter itself makes of the zeros."""
    # Without lines between the columns, it fits a terminal of 80.
    table = Table(
        title="Files: model_....tflite",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("file", no_wrap=True)
    entries = [*content["artifacts"], *content.get("peers", [])]
    measured = any(entry["latency_us"] for entry in entries)
    columns = ["bytes", "gzipped", "accuracy", *(["latency", "no XNNPACK", "memory"] * measured)]
    for column in columns:
        table.add_column(column, justify="right")
    for entry in entries:
        latency = entry["latency_us"] or {}
        cells = (
            _short_name(entry) + (" [bold red]failed[/]" if entry["problems"] else ""),
            f"{entry['bytes']:,}",
            f"{entry['gzip_bytes']:,}",
            percent(entry["accuracy"]),
            microseconds(latency.get("default")),
            microseconds(latency.get("no_delegate")),
            megabytes(entry["heap_bytes"]),
        )
        table.add_row(*cells[: len(table.columns)])
    console.print(table)
    if content.get("keras_accuracy") is not None:
        say(console, f"Accuracy of the Keras model: {percent(content['keras_accuracy'])}.")
    if measured:
        say(console, f"Latency: median of a call on this machine, {threads(content)}.")
    if content.get("peers"):
        say(console, "'converter': what TensorFlow's EXPERIMENTAL_SPARSITY makes of the zeros.")


def _short_name(entry: Mapping[str, Any]) -> str:
    return "converter" if entry["kind"] == "experimental_sparsity" else str(entry["kind"])


def threads(content: Mapping[str, Any]) -> str:
    """Return, as text, the number of threads of the latencies that stand for the files."""
    count = content["threads"]
    return "one thread" if count == 1 else f"{count} threads"


def microseconds(time: float | None) -> str:
    """Return a time in microseconds as text."""
    return "-" if time is None else f"{time:,.1f} us" if time < 1000 else f"{time:,.0f} us"


def megabytes(count: int | None) -> str:
    """Return a number of bytes of memory as text."""
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


def change(before: int, after: int) -> str:
    """Return a number before and after as text; once if it did not change."""
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"
