"""The tables of the report: dense against sparse, the switched layers, every epoch."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from keras_switcher.report.connections import Connections
from keras_switcher.report.frame import table
from keras_switcher.report.wording import duration, percent, percent_or_dash, size


def comparison_table(summary: Mapping[str, Any]) -> str:
    """Return a table of the sparse network beside the dense one, which may not have been trained.

    Args:
        summary: The content of `summary.json`.
    """
    connections = sum(row["connections"] for row in summary["layers"])
    on = sum(row["on"] for row in summary["layers"])
    parameters = summary["parameters"]
    rows = (
        (
            "Test accuracy",
            percent_or_dash(summary["dense_test_accuracy"]),
            percent(summary["test_accuracy"]),
        ),
        ("Switched connections", f"{connections:,}", f"{on:,}"),
        ("Parameters", f"{parameters:,}", f"{parameters - connections + on:,}"),
        ("Weights, gzipped", size(summary["dense_gzip_bytes"]), size(summary["gzip_bytes"])),
        ("Training time", duration(summary["dense_seconds"]), duration(summary["seconds"])),
    )
    body = "\n".join(
        f'<tr><th scope="row">{label}</th><td>{dense}</td><td>{sparse}</td></tr>'
        for label, dense, sparse in rows
    )
    note = (
        '<p class="note">The sparse network\'s connections and parameters are those left on. '
        f"{_baseline(summary)} Training took {summary['switcher_parameters']:,} parameters more, "
        "those of the switcher networks.</p>"
    )
    return table(
        "Dense against sparse",
        '<tr><th scope="col"><span class="unseen">Figure</span></th><th scope="col">Dense</th>'
        '<th scope="col">Sparse</th></tr>',
        body,
        after=note,
    )


def _baseline(summary: Mapping[str, Any]) -> str:
    if summary["dense_test_accuracy"] is None:
        return "The dense network was not trained in this run."
    return "The dense one is the same network, trained without switches as many epochs."


def layer_table(summary: Mapping[str, Any], connections: Sequence[Connections]) -> str:
    """Return a table of the connections of each switched layer, and their sum.

    Args:
        summary: The content of `summary.json`.
        connections: The connections of each layer, in the order of the summary.
    """
    rows = summary["layers"]
    dead = [int(layer.dead.sum()) for layer in connections]
    body = "\n".join(
        f'<tr><th scope="row">{escape(row["name"])} <span class="shape">'
        f"{'×'.join(f'{int(length)}' for length in row['shape'])}</span></th>"
        f"{_counts(row['connections'], row['on'])}<td>{count:,}</td></tr>"
        for row, count in zip(rows, dead, strict=True)
    )
    total = _counts(sum(row["connections"] for row in rows), sum(row["on"] for row in rows))
    return table(
        "Switched layers",
        '<tr><th scope="col">Layer</th><th scope="col">Connec&shy;tions</th>'
        '<th scope="col">On</th><th scope="col">Sparsity</th><th scope="col">Dead units</th></tr>',
        body,
        foot=f'<tr><th scope="row">All</th>{total}<td>{sum(dead):,}</td></tr>',
        after='<p class="note">A unit is dead when none of its incoming or none of its outgoing '
        "connections is on; outgoing ones count where only switched layers read the unit.</p>",
    )


def _counts(connections: int, on: int) -> str:
    sparsity = 1 - on / max(1, connections)
    return (
        f"<td>{connections:,}</td><td>{on:,}</td><td>{percent(sparsity)}"
        f'<span class="bar" aria-hidden="true"><span style="width:{100 * sparsity:.2f}%"></span>'
        "</span></td>"
    )


def epoch_table(history: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of every epoch of a history with all its values.

    Args:
        history: One row per epoch, with `epoch`.
    """
    columns = [name for name in dict.fromkeys(n for row in history for n in row) if name != "epoch"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("epoch", *columns))
    body = "\n".join(
        f'<tr><th scope="row">{row["epoch"]}</th>'
        + "".join(f"<td>{escape(_plain(row.get(name)))}</td>" for name in columns)
        + "</tr>"
        for row in history
    )
    return table("Every epoch", f"<tr>{head}</tr>", body)


def _plain(value: str | float | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"
