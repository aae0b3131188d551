"""The model card: what was exported, how well it does, and how to use it, in Markdown."""

import re
from collections.abc import Mapping
from typing import Any

from keras_switcher.display import percent

from .artifacts import values_taken
from .convert import is_classifier, output_names
from .display import change, megabytes, microseconds, threads
from .metadata import LABELS_FILE
from .source import Source

# Entries of a run's summary, with their labels.
_FACTS = {
    "dataset": "Data set",
    "dataset_source": "Data",
    "train_examples": "Training examples",
    "epochs": "Epochs",
    "seed": "Seed",
    "granularity": "Granularity of the switches",
    "target_sparsity": "Target sparsity",
}


def model_card(source: Source, content: Mapping[str, Any]) -> str:
    """Return the model card.

    Args:
        source: What was exported.
        content: The content of `export.json`.
    """
    parts = [
        f"# {_plain(source.name)}",
        (
            "A sparse network of keras_switcher: a switcher network turned connections off while "
            "the network learned."
            if source.summary
            else "Exported from a Keras file by keras_switcher."
        )
        + " `model_sparse.tflite` stores the weights that are not zero, or blocks with one; what "
        "the other files are for, the table says.",
        _facts(source, content),
        "## Files",
        _files(content),
        _notes(content),
        "## Layers",
        _layers(content),
        "## Use",
        _use(source, content),
        "## Limits",
        _limits(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(source: Source, content: Mapping[str, Any]) -> str:
    rows = [
        f"- {label}: {_plain(source.summary[name])}"
        for name, label in _FACTS.items()
        if source.summary.get(name) is not None
    ]
    rows.append(f"- Parameters before: {content['parameters']:,}")
    if "fc_sparsity" in source.summary:
        share = sum(row["connections"] for row in source.summary["layers"]) / content["parameters"]
        rows.append(
            f"- Sparsity of the dense layers: {percent(source.summary['fc_sparsity'])}; they are "
            f"{percent(share)} of the model"
        )
        rows.append(f"- Sparsity of the model: {percent(source.summary['model_sparsity'])}")
    examples = content["examples"]
    rows.append(f"- Verified on {examples['count']:,} examples: {_plain(examples['source'])}")
    if content["keras_accuracy"] is not None:
        rows.append(f"- Accuracy of the Keras model on these: {percent(content['keras_accuracy'])}")
    return "\n".join(rows)


def _plain(text: Any) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*<>\[\]|&])", r"\\\1", " ".join(str(text).split()))


def _files(content: Mapping[str, Any]) -> str:
    head = (
        "| file | for | bytes | gzipped | accuracy | largest difference | latency | memory | "
        "runtime |\n|---|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| `{entry['file']}` | {entry['purpose']} | {entry['bytes']:,} | {entry['gzip_bytes']:,} "
        f"| {percent(entry['accuracy'])} | {entry['max_difference']:.2g} "
        f"| {microseconds((entry['latency_us'] or {}).get('default'))} "
        f"| {megabytes(entry['heap_bytes'])} | >= {entry['runtime']} |"
        for entry in content["artifacts"]
        if not entry["problems"]
    ]
    return "\n".join([head, *rows])


def _notes(content: Mapping[str, Any]) -> str:
    measured = [entry for entry in content["artifacts"] if entry["latency_us"]]
    notes = [
        "Largest difference: of any output from the Keras model's, on the examples above, with and "
        "without XNNPACK. Runtime: the oldest TensorFlow Lite that has the operators of the file; "
        "LiteRT, whose versions start again at 1.0, is newer than TensorFlow Lite 2.17."
    ]
    if measured:
        machine = content["machine"]
        where = f"{machine['machine']}, {machine['system']}, {machine['cores']} cores"
        notes.append(
            f"Latency: median time of a call of batch {content['batch']}, {threads(content)}, with "
            f"XNNPACK, on the machine that exported ({where}), which is no phone. Memory: what a "
            "process grows by."
        )
    return " ".join(notes)


def _layers(content: Mapping[str, Any]) -> str:
    fields = ("inputs", "units", "parameters", "nonzeros")
    head = "| layer | inputs | units | weights | not zero |\n|---|---|---|---|---|"
    rows = []
    for layer in content["layers"]:
        cells = [change(layer["before"][field], layer["after"][field]) for field in fields]
        rows.append(f"| `{layer['name']}` | {' | '.join(cells)} |")
    return "\n".join([head, *rows])


def _use(source: Source, content: Mapping[str, Any]) -> str:
    lines = []
    # As the file's signature has them, from which some APIs number them.
    for tensor in sorted(source.model.inputs, key=lambda tensor: tensor.name):
        shape = ", ".join(str(size) for size in (content["batch"], *tensor.shape[1:]))
        lines.append(
            f"- Input `{tensor.name}`: {tensor.dtype}, ({shape}), values "
            f"{values_taken(source, tensor.name)}."
        )
    named = zip(output_names(source.model), source.model.outputs, strict=True)
    for name, tensor in sorted(named, key=lambda output: output[0]):
        shape = ", ".join(str(size) for size in (content["batch"], *tensor.shape[1:]))
        lines.append(f"- Output `{name}`: {tensor.dtype}, ({shape}).")
    if is_classifier(source.model):
        known = content["keras_accuracy"] is not None or source.examples.class_names
        lines.append(
            f"- Names of the classes{'' if known else ', if it is a classifier'}: in the file "
            f"itself, as `{LABELS_FILE}` (`unzip -p model_sparse.tflite {LABELS_FILE}`)."
        )
    return "\n".join(lines)


def _limits(content: Mapping[str, Any]) -> str:
    limits = [
        "- GPU and NPU delegates refuse sparse tensors: give them `model_compact.tflite`.",
        "- The files were run by LiteRT's interpreter on the machine that exported them, and on "
        "no phone.",
    ]
    if content["keras_accuracy"] is None:
        limits.append(
            "- No labelled examples were at hand, or the model is no classifier: what these files "
            "get right is not known."
        )
    return "\n".join(limits)
