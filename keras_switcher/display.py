"""The output of `train.py`: the configuration, the layers, dense against sparse."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from keras_switcher.config import Config
from keras_switcher.workers import Workers


def say(console: Console, text: str) -> None:
    """Print a text as it is: paths and messages of others may have what Rich takes for markup."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def show_config(console: Console, config: Config, path: Path) -> None:
    """Show the whole configuration, a line per group, and where the run writes."""
    table = Table.grid(padding=(0, 2))
    for group in dataclasses.fields(config):
        options = getattr(config, group.name)
        values = [
            f"{field.name}={_plain(getattr(options, field.name))}"
            for field in dataclasses.fields(options)
            if field.metadata["saved"]
        ]
        table.add_row(f"[bold]{group.name}[/]", escape("  ".join(values)))
    console.print(Panel(table, title="Configuration", title_align="left"))
    console.print(f"Run folder: [bold]{escape(str(path))}[/]", soft_wrap=True, highlight=False)


def show_workers(console: Console, workers: Workers) -> None:
    """Show which of several workers this one is."""
    role = "the chief, which writes the run's folder" if workers.is_chief else "the chief is 0"
    say(console, f"Worker {workers.index} of {workers.count}: {role}.")


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else str(value).lower()


def show_warning(console: Console, message: str) -> None:
    """Show a warning that one can't miss."""
    console.print(Panel(escape(message), title="Warning", border_style="bold yellow"))


def show_error(console: Console, message: str) -> None:
    """Show an error in one paragraph."""
    console.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True, highlight=False)


def show_layers(console: Console, summary: Mapping[str, Any]) -> None:
    """Show a row for every switched layer, and their sum."""
    table = Table(title="Switched layers", title_justify="left")
    table.add_column("layer")
    for column in ("shape", "connections", "on", "sparsity"):
        table.add_column(column, justify="right")
    for layer in summary["layers"]:
        table.add_row(
            escape(layer["name"]),
            " x ".join(map(str, layer["shape"])),
            f"{layer['connections']:,}",
            f"{layer['on']:,}",
            percent(1 - layer["on"] / layer["connections"]),
        )
    table.add_section()
    connections = sum(layer["connections"] for layer in summary["layers"])
    on = sum(layer["on"] for layer in summary["layers"])
    table.add_row(
        "all", "", f"{connections:,}", f"{on:,}", percent(summary["fc_sparsity"]), style="bold"
    )
    console.print(table)
    # In a convolutional network this share may be very small, and then its file can't shrink much.
    say(
        console,
        f"These are {percent(connections / summary['parameters'])} of the network's "
        f"{summary['parameters']:,} parameters, so the sparsity of the whole model is "
        f"{percent(summary['model_sparsity'])}.",
    )


def show_comparison(console: Console, summary: Mapping[str, Any]) -> None:
    """Show the sparse network against the dense one."""
    connections = sum(layer["connections"] for layer in summary["layers"])
    on = sum(layer["on"] for layer in summary["layers"])
    off = connections - on
    table = Table(title="Dense against sparse", title_justify="left")
    table.add_column("")
    table.add_column("dense", justify="right")
    table.add_column("sparse", justify="right", style="bold")
    table.add_row(
        "test accuracy",
        percent(summary["dense_test_accuracy"]),
        percent(summary["test_accuracy"]),
    )
    table.add_row("switched connections on", f"{connections:,}", f"{on:,}")
    table.add_row(
        "parameters",
        f"{summary['parameters']:,}",
        f"{summary['parameters'] - off:,}",
    )
    table.add_row(
        "weights, gzipped", _bytes(summary["dense_gzip_bytes"]), _bytes(summary["gzip_bytes"])
    )
    table.add_row("training", _seconds(summary["dense_seconds"]), _seconds(summary["seconds"]))
    console.print(table)


def percent(share: float | None) -> str:
    """Return a share as text."""
    return "-" if share is None else f"{100 * share:.2f} %"


def _bytes(number: int | None) -> str:
    return "-" if number is None else f"{number:,} bytes"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f} s"
