"""Small runs for the tests of the report, made without training, and a reader of pages."""

from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import keras
import numpy as np

import keras_switcher
from keras_switcher.config import from_values
from keras_switcher.layers import switched_layers
from keras_switcher.metrics import layer_table
from keras_switcher.report.page import FinishedRun

_COLUMNS = "epoch phase loss accuracy sparsity val_loss val_accuracy learning_rate seconds".split()
HISTORY = [
    dict(zip(_COLUMNS, values, strict=True))
    for values in (
        (1, "warmup", 2.25, 0.25, 0.0, 2.0, 0.3, 0.001, 1.5),
        (2, "alternate", 1.5, 0.5, 0.4, 1.25, 0.55, 0.001, 1.0),
        (3, "alternate", 1.0, 0.625, 0.7, 0.9, 0.65, 0.001, 1.0),
        (4, "settle", 0.75, 0.75, 0.75, 0.8, 0.7, 0.0005, 0.75),
    )
]


@keras.saving.register_keras_serializable("test_report")
class Subclassed(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.flatten = keras.layers.Flatten()
        self.hidden = keras.layers.Dense(8, activation="relu", name="hidden")
        self.logits = keras.layers.Dense(3, name="logits")

    def call(self, inputs: Any) -> Any:
        return self.logits(self.hidden(self.flatten(inputs)))


def plain_model(kind: str) -> keras.Model:
    """Return a built model of images of 5 x 4 pixels with a hidden layer of 8 units."""
    if kind == "subclassed":
        model = Subclassed()
        model(np.zeros((1, 5, 4, 1)))
        return model
    layers = [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Flatten(),
        keras.layers.Dense(8, activation="relu", name="hidden"),
        keras.layers.Dense(3, name="logits"),
    ]
    inputs = keras.Input((5, 4, 1))
    if kind == "sequential":
        return keras.Sequential([inputs, *layers])
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def sparse_model(kind: str = "functional", granularity: str = "connection") -> keras.Model:
    """Return a switched model; each fifth of its switches is on."""
    model = keras_switcher.switch(plain_model(kind), granularity=granularity)
    for layer in switched_layers(model):
        on = np.arange(np.prod(layer.switches.shape)) % 5 == 0
        layer.switches.assign(on.reshape(layer.switches.shape).astype("float32"))
    return model


def finished_run(
    model: keras.Model,
    summary: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = HISTORY,
) -> FinishedRun:
    """Return a run whose summary, but for the values given, has those of a model."""
    layers = layer_table(model)
    connections = sum(row["connections"] for row in layers)
    off = connections - sum(row["on"] for row in layers)
    content = {
        "model": "tiny",
        "dataset": "dots",
        "dataset_source": "tfds dots/1.0.0",
        "train_examples": 50000,
        "validation_examples": 4000,
        "test_examples": 10000,
        "epochs": 4,
        "seed": 7,
        "target_sparsity": 0.8,
        "granularity": "connection",
        "validation_accuracy": 0.7125,
        "test_accuracy": 0.9123,
        "dense_test_accuracy": 0.9371,
        "fc_sparsity": off / connections,
        "model_sparsity": off / (connections + 11),
        "parameters": connections + 11,
        "switcher_parameters": 54321,
        "gzip_bytes": 1234,
        "dense_gzip_bytes": 98765,
        "seconds": 4.25,
        "dense_seconds": 125.0,
        "layers": layers,
        **(summary or {}),
    }
    return FinishedRun(from_values(config or {}), content, history, model)


class Page(HTMLParser):
    """Reads a page: its elements, its text, and whether each opened element is closed."""

    void = {"meta", "img", "br", "link", "input", "hr", "wbr"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs), tuple(self.open)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("th", "td"):
            self.cells[-1].append("")
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)
            if {"th", "td"} & set(self.open):
                self.cells[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def row(self, name: str) -> list[str]:
        """Return the cells of the first table row that starts with a name."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.cells]
        return next(row for row in rows if row and row[0].startswith(name))
