"""The report of a run: one HTML file with its figures, curves, mask pictures and settings."""

import csv
import dataclasses
import importlib.resources
import json
import math
import os
import platform
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import yaml
from keras import layers

import keras_switcher
from keras_switcher import pictures
from keras_switcher.layers import SwitchedDense, switched_layers
from keras_switcher.metrics import layer_table

REPORT = "report.html"

# What summary.json must have for a report; more may be in it.
_FIGURES: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "dataset": str,
    "dataset_source": str,
    "train_examples": int,
    "test_examples": int,
    "epochs": int,
    "seed": int,
    "target_sparsity": (int, float, type(None)),
    "granularity": str,
    "test_accuracy": (int, float),
    "fc_sparsity": (int, float),
    "model_sparsity": (int, float),
    "parameters": int,
    "seconds": (int, float),
    "layers": list,
}
_ROW = {"name": str, "shape": list, "connections": int, "on": int}
# Layers that leave each pixel in its place, and layers that leave each unit in its place.
_PIXELWISE = (
    layers.Rescaling,
    layers.Normalization,
    layers.Flatten,
    layers.Reshape,
    layers.Dropout,
    layers.GaussianNoise,
)
_UNITWISE = (layers.Dropout, layers.Activation, layers.ReLU, layers.LeakyReLU)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a run left in its folder."""

    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    model: keras.Model


@dataclasses.dataclass(frozen=True)
class _Connections:
    """Which connections of a switched layer are on, and what that leaves of its units.

    Args:
        mask: Whether each connection is on, boolean of shape (inputs, units).
        image_shape: Height, width and channels if the inputs are the pixels of the model's input.
        no_input: Per unit, whether none of its incoming connections is on.
        no_output: The same of its outgoing connections; `None` if they can't be told.
    """

    mask: np.ndarray
    image_shape: tuple[int, int, int] | None
    no_input: np.ndarray
    no_output: np.ndarray | None

    @property
    def whole_units(self) -> bool:
        """Whether each unit's incoming connections are all on or all off."""
        return bool((self.mask == self.mask[0]).all())

    @property
    def dead(self) -> np.ndarray:
        """Per unit, whether no input reaches an output through it."""
        return self.no_input if self.no_output is None else self.no_input | self.no_output


def write_report(run_dir: Path) -> Path:
    """Write the report of a run into its folder.

    Reads `config.yaml`, `summary.json`, `history.csv` and `model.keras`, and writes `report.html`,
    which needs no other file and no network. A report that is there is replaced, at once or not
    at all.

    Args:
        run_dir: The run's folder.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If one of them is damaged, or they are not of the same run.

    Example:

    ```python
    write_report(Path("runs/lenet-mnist"))
    ```
    """
    run_dir = Path(run_dir)
    page = _page(_read_run(run_dir))
    path = run_dir / REPORT
    unfinished = run_dir / f".{REPORT}.{os.getpid()}"
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _read_run(run_dir: Path) -> _Run:
    paths = {
        name: run_dir / name
        for name in ("config.yaml", "summary.json", "history.csv", "model.keras")
    }
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"No {', '.join(missing)} in '{run_dir}'. A finished run of train.py leaves these "
            "files: finish an interrupted one with --resume, or name the folder of another run."
        )
    run = _Run(
        config=_read_config(paths["config.yaml"]),
        summary=_read_summary(paths["summary.json"]),
        history=_read_history(paths["history.csv"]),
        model=_read_model(paths["model.keras"]),
    )
    ours = [{key: row[key] for key in _ROW} for row in run.summary["layers"]]
    if ours != layer_table(run.model):
        raise ValueError(
            f"summary.json and model.keras in '{run_dir}' are not of the same run: their switched "
            "layers differ. Train again into a new folder."
        )
    return run


def _damaged(path: Path, reason: object) -> ValueError:
    return ValueError(
        f"'{path}' is damaged or not a file of train.py: {reason}. Restore it from a copy, or "
        "train again into a new folder."
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(config, dict):
        raise _damaged(path, f"expected a mapping of settings, found {type(config).__name__}")
    return config


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not isinstance(summary, dict):
        raise _damaged(path, f"expected an object, found {type(summary).__name__}")
    _check_types(path, "", summary, _FIGURES)
    for index, row in enumerate(summary["layers"]):
        if not isinstance(row, dict):
            raise _damaged(path, f"layers[{index}] is not an object")
        _check_types(path, f"layers[{index}].", row, _ROW)
    return summary


def _check_types(
    path: Path, prefix: str, values: Mapping[str, Any], types: Mapping[str, Any]
) -> None:
    for name, expected in types.items():
        if name not in values:
            raise _damaged(path, f"`{prefix}{name}` is missing")
        if not isinstance(values[name], expected):
            raise _damaged(path, f"`{prefix}{name}` can't be {values[name]!r}")


def _read_history(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        history = [
            {
                name: value if name == "phase" else _cell(name, value)
                for name, value in row.items()
                if name is not None and value
            }
            for row in rows
        ]
    except (csv.Error, UnicodeDecodeError, ValueError) as error:
        raise _damaged(path, error) from error
    if not history:
        raise _damaged(path, "it has no epoch")
    for number, row in enumerate(history, start=2):
        if "epoch" not in row:
            raise _damaged(path, f"line {number} has no `epoch`")
    return history


def _cell(name: str, value: str) -> float | int:
    return int(float(value)) if name == "epoch" else float(value)


def _read_model(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _connections(model: keras.Model) -> dict[str, _Connections]:
    """Return the connections of every switched layer, by the layer's name."""
    switched = switched_layers(model)
    masks = {id(layer): _mask(layer) for layer in switched}
    result = {}
    for layer in switched:
        mask = masks[id(layer)]
        readers = _readers(model, layer)
        no_output = None
        if readers:
            read = np.stack([masks[id(reader)].any(axis=1) for reader in readers])
            no_output = np.logical_not(read.any(axis=0))
        result[layer.name] = _Connections(
            mask, _image_shape(model, layer), np.logical_not(mask.any(axis=0)), no_output
        )
    return result


def _mask(layer: SwitchedDense) -> np.ndarray:
    switches = keras.ops.convert_to_numpy(layer.expanded_switches())
    return np.broadcast_to(switches > 0, tuple(layer.kernel.shape))


def _tensors(layer: keras.layers.Layer, which: str) -> list[Any]:
    """Return a layer's symbolic inputs or outputs: none if it stands in no graph, or twice."""
    try:
        return keras.tree.flatten(getattr(layer, which))
    except (AttributeError, ValueError):
        return []


def _image_shape(model: keras.Model, layer: SwitchedDense) -> tuple[int, int, int] | None:
    """Return the image's shape if the layer reads the pixels of the model's input directly."""
    tensors = _tensors(layer, "input")
    while len(tensors) == 1:
        if any(tensors[0] is tensor for tensor in _tensors(model, "inputs")):
            shape = tuple(tensors[0].shape[1:])
            shape = (*shape, 1) if len(shape) == 2 else shape
            return shape if len(shape) == 3 and math.prod(shape) == layer.kernel.shape[0] else None
        tensors = [
            tensor
            for other in model.layers
            if isinstance(other, _PIXELWISE)
            and any(tensors[0] is output for output in _tensors(other, "output"))
            for tensor in _tensors(other, "input")
        ]
    return None


def _readers(model: keras.Model, layer: SwitchedDense) -> list[SwitchedDense]:
    """Return the switched layers that alone read a layer's units; none if others do, too."""
    found: list[SwitchedDense] = []
    tensors = _tensors(layer, "output")
    while tensors:
        tensor = tensors.pop()
        if any(tensor is output for output in _tensors(model, "outputs")):
            return []
        for other in model.layers:
            if not any(tensor is read for read in _tensors(other, "input")):
                continue
            if isinstance(other, SwitchedDense):
                found.append(other)
            elif isinstance(other, _UNITWISE):
                tensors += _tensors(other, "output")
            else:
                return []
    return found


def _page(run: _Run) -> str:
    summary = run.summary
    title = escape(f"{summary['model']} on {summary['dataset']}")
    style = importlib.resources.files("keras_switcher").joinpath("report.css").read_text("utf-8")
    connections = _connections(run.model)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: sparse training report</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="lead">{_lead(summary)}</p>
{_notice(summary)}</header>
<main>
{_headline(summary)}
<section aria-labelledby="training">
<h2 id="training">Training</h2>
{_curves(run)}
</section>
<section aria-labelledby="layers">
<h2 id="layers">Switched layers</h2>
{_layers(summary, connections)}
</section>
<section aria-labelledby="masks">
<h2 id="masks">Masks</h2>
{_masks(connections)}
</section>
<section aria-labelledby="again">
<h2 id="again">The same run again</h2>
{_again(run.config)}
</section>
</main>
</body>
</html>
"""


def _lead(summary: Mapping[str, Any]) -> str:
    return escape(
        f"{summary['train_examples']:,} training and {summary['test_examples']:,} test images; "
        f"source: {summary['dataset_source']}. Granularity {summary['granularity']}, "
        f"{pictures.counted(summary['epochs'], 'epoch')}, seed {summary['seed']}."
    )


def _notice(summary: Mapping[str, Any]) -> str:
    if "embedded" not in summary["dataset_source"].lower():
        return ""
    return (
        '<p class="notice" role="note"><strong>Not the full data set.</strong> This run used '
        f"{escape(summary['dataset_source'])}, so its accuracy can't be compared with results on "
        f"all of {escape(summary['dataset'])}.</p>\n"
    )


def _headline(summary: Mapping[str, Any]) -> str:
    accuracy, sparsity, target = (
        summary[name] for name in ("test_accuracy", "fc_sparsity", "target_sparsity")
    )
    dense = summary.get("dense_test_accuracy")
    off = sum(row["connections"] - row["on"] for row in summary["layers"])
    parameters = summary["parameters"]
    remaining = parameters - off
    cards = (
        (
            "Test accuracy",
            pictures.percent(accuracy),
            f"on {summary['test_examples']:,} test images"
            if dense is None
            else f"{_difference(accuracy, dense)} the dense model ({pictures.percent(dense)})",
        ),
        (
            "FC sparsity",
            pictures.percent(sparsity),
            "of the switched connections; no target was set"
            if target is None
            else f"{_difference(sparsity, target)} the target ({pictures.percent(target)})",
        ),
        (
            "Model sparsity",
            pictures.percent(summary["model_sparsity"]),
            "of all parameters of the model",
        ),
        (
            "Parameters left",
            f"{remaining:,}",
            f"of {parameters:,} ({pictures.percent(remaining / max(1, parameters))})",
        ),
        (
            "Reduction",
            f"{parameters / max(1, remaining):.1f}×",
            "fewer parameters than the dense model",
        ),
        ("Time", _duration(summary["seconds"]), pictures.counted(summary["epochs"], "epoch")),
    )
    return (
        '<dl class="figures">\n'
        + "\n".join(
            f'<div class="card"><dt>{escape(label)}</dt><dd class="value">{escape(value)}</dd>'
            f'<dd class="aside">{escape(aside)}</dd></div>'
            for label, value, aside in cards
        )
        + "\n</dl>"
    )


def _curves(run: _Run) -> str:
    history, target = run.history, run.summary["target_sparsity"]
    plots = []
    for title, columns, keys in (
        ("Loss", ("loss", "val_loss"), ("training", "validation")),
        ("Accuracy", ("accuracy", "val_accuracy"), ("training", "validation")),
        ("FC sparsity", ("sparsity",), ("sparsity",)),
    ):
        present = [
            (column, key)
            for column, key in zip(columns, keys, strict=True)
            if any(column in row for row in history)
        ]
        if not present:
            continue
        percent = title != "Loss"
        alt = f"{title} over epochs {history[0]['epoch']} to {history[-1]['epoch']}: " + "; ".join(
            _course(key, [row.get(column) for row in history], percent) for column, key in present
        )
        with_target = target if title == "FC sparsity" else None
        if with_target is not None:
            alt += f"; target {pictures.percent(with_target)}"
        legend = "".join(
            f'<span class="key{" second" if index else ""}">{key}</span>'
            for index, (_, key) in enumerate(present)
            if len(columns) > 1
        )
        svg = pictures.curves(
            history,
            [column for column, _ in present],
            name=title.split()[-1].lower(),
            alt=f"{alt}.",
            percent=percent,
            target=with_target,
        )
        plots.append(
            f'<figure class="card"><figcaption><h3>{title}</h3>{legend}</figcaption>\n'
            f"{svg}</figure>"
        )
    return (
        '<div class="curves">\n'
        + "\n".join(plots)
        + "\n</div>\n<details><summary>Every epoch as a table</summary>\n"
        + _history_table(history)
        + "</details>"
    )


def _course(name: str, values: Iterable[float | None], percent: bool) -> str:
    known = [value for value in values if value is not None]
    first, last = (pictures.percent(v) if percent else f"{v:.4g}" for v in (known[0], known[-1]))
    return f"{name} from {first} to {last}"


def _history_table(history: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in history for name in row))
    columns.sort(key=lambda name: name != "epoch")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "\n".join(
        f'<tr><th scope="row">{row["epoch"]}</th>'
        + "".join(f"<td>{escape(_plain(row.get(name)))}</td>" for name in columns[1:])
        + "</tr>"
        for row in history
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Every epoch">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
    )


def _layers(summary: Mapping[str, Any], connections: Mapping[str, _Connections]) -> str:
    rows = summary["layers"]
    dead = [int(connections[row["name"]].dead.sum()) for row in rows]
    body = "\n".join(
        f'<tr><th scope="row">{escape(row["name"])} <span class="shape">'
        f"{'×'.join(str(int(size)) for size in row['shape'])}</span></th>"
        f"{_counts(row['connections'], row['on'])}<td>{count:,}</td></tr>"
        for row, count in zip(rows, dead, strict=True)
    )
    total = _counts(sum(row["connections"] for row in rows), sum(row["on"] for row in rows))
    training_only = ""
    if summary.get("switcher_parameters"):
        training_only = (
            f" The switcher networks have {int(summary['switcher_parameters']):,} parameters of "
            "their own, which only training needs."
        )
    return f"""<div class="card"><div class="scroll"><table class="layers">
<caption class="unseen">Connections of each switched layer</caption>
<thead><tr><th scope="col" rowspan="2">Layer</th>\
<th scope="colgroup" colspan="2">Connections</th><th scope="col" rowspan="2">Sparsity</th>\
<th scope="col" rowspan="2">Dead units</th></tr>
<tr class="second"><th scope="col">all</th><th scope="col">on</th></tr></thead>
<tbody>
{body}
</tbody>
<tfoot><tr><th scope="row">All</th>{total}<td>{sum(dead):,}</td></tr></tfoot>
</table></div>
<p class="note">A unit is dead when none of its incoming or none of its outgoing connections is \
on; outgoing ones count where only switched layers read the unit.{training_only}</p></div>"""


def _counts(connections: int, on: int) -> str:
    sparsity = 1 - on / max(1, connections)
    return (
        f"<td>{connections:,}</td><td>{on:,}</td><td>{pictures.percent(sparsity)}"
        f'<span class="bar" aria-hidden="true"><span style="width:{100 * sparsity:.2f}%"></span>'
        "</span></td>"
    )


def _masks(connections: Mapping[str, _Connections]) -> str:
    parts = []
    drawn_on_image = False
    for name, layer in connections.items():
        if layer.image_shape and not drawn_on_image and not layer.whole_units:
            drawn_on_image, kind = True, " wide"
            picture = pictures.pixel_figures(layer.mask, layer.image_shape)
        else:
            kind, picture = "", pictures.density_figure(layer.mask)
        parts.append(
            f'<article class="card{kind}"><h3>{escape(name)}</h3>\n'
            f'<p class="muted">{_units_text(layer)}</p>\n{picture}</article>'
        )
    return '<div class="masks">\n' + "\n".join(parts) + "\n</div>"


def _units_text(layer: _Connections) -> str:
    incoming = layer.mask.sum(axis=0)
    inputs, units = layer.mask.shape
    text = (
        f"{pictures.counted(units, 'unit')}; the median reads {int(np.median(incoming)):,} of "
        f"{inputs:,} inputs (range {int(incoming.min()):,} to {int(incoming.max()):,})."
    )
    if layer.no_input.any():
        text += f" {pictures.counted(int(layer.no_input.sum()), 'unit')} without an input."
    if layer.no_output is not None and layer.no_output.any():
        text += f" {pictures.counted(int(layer.no_output.sum()), 'unit')} without a reader."
    return text


def _again(config: Mapping[str, Any]) -> str:
    settings = "\n".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{escape(_plain(value))}</td></tr>'
        for name, value in _flat(config)
    )
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
    command = "python train.py --config config.yaml --run-dir NEW"
    return f"""<pre tabindex="0"><code>{command}</code></pre>
<p><code>config.yaml</code> lies in this run's folder; <code>NEW</code> is the folder to write, \
which must not exist yet.</p>
<p>Software: {escape(versions)}.</p>
<details><summary>The whole configuration</summary>
<div class="scroll"><table class="settings"><thead><tr><th scope="col">Setting</th>\
<th scope="col">Value</th></tr></thead>
<tbody>{settings}</tbody></table></div></details>"""


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested settings as rows, `alternation.warmup` for the one inside the other."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _difference(share: float, reference: float) -> str:
    points = round(100 * (share - reference), 2)
    if points == 0:
        return "the same as"
    return f"{abs(points):.2f} points {'above' if points > 0 else 'below'}"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}\N{NO-BREAK SPACE}min {rest:02d}\N{NO-BREAK SPACE}s"
    return f"{minutes // 60}\N{NO-BREAK SPACE}h {minutes % 60:02d}\N{NO-BREAK SPACE}min"
