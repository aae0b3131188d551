"""The page of the report: its content, section by section."""

import dataclasses
import platform
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_switcher
from keras_switcher.config import Config, to_yaml
from keras_switcher.programs import resuming_command
from keras_switcher.report.connections import Connections, connections_of
from keras_switcher.report.curves import training_figures
from keras_switcher.report.frame import cards, document, not_full, section
from keras_switcher.report.masks import density_figure, pixel_figures, units_figure
from keras_switcher.report.tables import comparison_table, epoch_table, layer_table
from keras_switcher.report.wording import counted, difference, percent
from keras_switcher.runs import CONFIG_FILE


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run has come to.

    Args:
        config: Its configuration.
        summary: The content of `summary.json`.
        history: One row per epoch: `epoch`, `phase` and the figures that Keras logs.
        model: The switched model.
    """

    config: Config
    summary: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    model: keras.Model


def page(run: FinishedRun) -> str:
    """Return the report of a run.

    Args:
        run: The run.

    Returns:
        A whole HTML document, which loads nothing else; the same input gives the same text.
    """
    summary = run.summary
    connections = connections_of(run.model)
    compared = f'<div class="card">{comparison_table(summary)}</div>'
    layers = f'<div class="card">{layer_table(summary, connections)}</div>'
    return document(
        heading=f"{summary['model']} on {summary['dataset']}",
        kind="sparse training report",
        lead=_lead(run),
        notice=_notice(run),
        main=f"""{_headline(summary)}
{section("training", "Training", _training(run))}
<div class="pair">
{section("comparison", "Dense against sparse", compared)}
{section("layers", "Switched layers", layers)}
</div>
{section("masks", "Masks", _masks(connections))}
{section("again", "The same run again", _again(run.config))}""",
    )


def _lead(run: FinishedRun) -> str:
    summary, start = run.summary, run.config.network.init_from
    origin = ""
    if start is not None:
        origin = f" Started from the trained weights of {start}"
        if run.config.network.freeze_trunk:
            origin += ", of which only the dense layers, and what follows them, went on learning"
        origin += "."
    return escape(
        f"{summary['train_examples']:,} training, {summary['validation_examples']:,} validation "
        f"and {summary['test_examples']:,} test examples; source: {summary['dataset_source']}. "
        f"Granularity {summary['granularity']}, {counted(summary['epochs'], 'epoch')}, "
        f"seed {summary['seed']}.{origin}"
    )


def _notice(run: FinishedRun) -> str:
    """Return a notice if the run did not use the whole data set."""
    examples = run.summary["train_examples"] + run.summary["validation_examples"]
    return not_full(run.summary["dataset_source"], run.config.data.limit, examples, "run")


def _headline(summary: Mapping[str, Any]) -> str:
    accuracy, sparsity, target = (
        summary[name] for name in ("test_accuracy", "fc_sparsity", "target_sparsity")
    )
    dense = summary["dense_test_accuracy"]
    parameters = summary["parameters"]
    left = parameters - sum(row["connections"] - row["on"] for row in summary["layers"])
    switched = sum(row["connections"] for row in summary["layers"])
    rows = (
        (
            "Test accuracy",
            percent(accuracy),
            f"on {counted(summary['test_examples'], 'test example')}"
            if dense is None
            else f"{difference(accuracy, dense)} the dense network ({percent(dense)})",
        ),
        (
            "FC sparsity",
            percent(sparsity),
            "of the switched connections; no target was set"
            if target is None
            else f"{difference(sparsity, target)} the target ({percent(target)})",
        ),
        (
            "Model sparsity",
            percent(summary["model_sparsity"]),
            f"of all parameters, of which {percent(switched / parameters)} can be switched off",
        ),
        (
            "Parameters left",
            f"{left:,}",
            f"of {parameters:,}: {parameters / max(1, left):.1f} times fewer",
        ),
    )
    return cards(rows)


def _training(run: FinishedRun) -> str:
    summary = run.summary
    figures = "\n".join(training_figures(run.history, summary["target_sparsity"]))
    return f"""<div class="curves">
{figures}
</div>
<p class="note">Validation accuracy after the last epoch: \
{percent(summary["validation_accuracy"])}, on \
{counted(summary["validation_examples"], "example")} that are neither trained on nor in the test. \
The test examples are read only after training.</p>
<details><summary>Every epoch as a table</summary>
{epoch_table(run.history)}</details>"""


def _masks(connections: Sequence[Connections]) -> str:
    parts: list[str] = []
    for layer in connections:
        wide = ""
        if layer.whole_units:
            picture = units_figure(layer.mask[0])
        elif layer.image_shape and not any('class="pixels"' in part for part in parts):
            wide, picture = " wide", pixel_figures(layer.mask, layer.image_shape)
        else:
            picture = density_figure(layer.mask)
        parts.append(
            f'<article class="card{wide}"><h3>{escape(layer.name)}</h3>\n'
            f'<p class="muted">{_units_text(layer)}</p>\n{picture}</article>'
        )
    return '<div class="masks">\n' + "\n".join(parts) + "\n</div>"


def _units_text(layer: Connections) -> str:
    incoming = layer.mask.sum(axis=0)
    inputs, units = layer.mask.shape
    if layer.whole_units:
        on = int((incoming > 0).sum())
        text = f"{counted(units, 'unit')}; {on:,} of them read all {inputs:,} inputs."
    else:
        text = (
            f"{counted(units, 'unit')}; the median reads {int(np.median(incoming)):,} of "
            f"{inputs:,} inputs (range {int(incoming.min()):,} to {int(incoming.max()):,})."
        )
    if layer.without_input.any():
        text += f" {counted(int(layer.without_input.sum()), 'unit')} without an input."
    if layer.unread is not None and layer.unread.any():
        text += f" {counted(int(layer.unread.sum()), 'unit')} without a reader."
    return text


def _again(config: Config) -> str:
    versions = ", ".join(
        f"{name} {version}"
        for name, version in (
            ("keras_switcher", keras_switcher.__version__),
            ("Keras", keras.version()),
            ("TensorFlow", tf.__version__),
            ("NumPy", np.__version__),
            ("Python", platform.python_version()),
        )
    )
    launched = config.execution.strategy == "multiworker"
    *python, script = shlex.split(resuming_command())
    script = Path(script).name
    if launched:
        # The launcher knows train.py, also where there is no such file.
        program = f"python -m keras_switcher.launch --workers N {script if python else 'train.py'}"
    else:
        program = f"python {script}" if python else script
    return f"""<pre tabindex="0"><code>{escape(program)} \\
  --config RUN/{CONFIG_FILE} \\
  --run-dir NEW</code></pre>
<p><code>RUN</code> is this run's folder, <code>NEW</code> the folder of the new one\
{", <code>N</code> the number of workers" if launched else ""}. Software \
when this report was written: {escape(versions)}.</p>
<details><summary>The whole configuration: {CONFIG_FILE}</summary>
<pre tabindex="0"><code>{escape(to_yaml(config))}</code></pre></details>"""
