"""The examples of the docstrings that the site's API pages show."""

import importlib
import inspect
import re
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import pytest
import small

import keras_switcher
import keras_switcher.compare
import keras_switcher.networks
from export.compact import compact
from keras_switcher.tuning import SwitcherHyperModel, objective

API = Path(__file__).parent.parent / "docs" / "api"


def shown():
    """Return the docstrings that the pages show, by the name of what they document."""
    found = {}
    for page in sorted(API.glob("*.md")):
        for block in re.split(r"^::: ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            module = importlib.import_module(block.split()[0])
            listed = re.search(r"members: \[(.*)\]", block)
            names = listed[1].split(", ") if listed else list(vars(module))
            for name in names:
                item = getattr(module, name)
                # A constant has the docstring of its class.
                if not (inspect.isclass(item) or inspect.isroutine(item)):
                    continue
                if listed or inspect.getmodule(item) is module:
                    for member in [item, *(vars(item).values() if inspect.isclass(item) else ())]:
                        if isinstance(text := getattr(member, "__doc__", None), str):
                            found[f"{name}: {text.splitlines()[0]}"] = inspect.cleandoc(text)
    return found


EXAMPLES = {
    name: inspect.cleandoc(example[1])
    for name, text in shown().items()
    if (example := re.search(r"```python\n(.*?)```", text, re.DOTALL))
}


def test_there_are_examples():
    named = {name.split(":")[0] for name in EXAMPLES}
    expected = {"switch", "strip", "SwitchedDense", "SwitchedModel", "Switcher", "build"}
    assert expected | {"Method", "SwitcherHyperModel", "compact"} <= named


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = small.separable(64, inputs=784)
    plain = keras.Sequential(
        [keras.Input((784,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(10)]
    )
    given = {
        **vars(keras_switcher),
        **{"keras": keras, "keras_switcher": keras_switcher, "np": np, "Path": Path},
        **{"model": plain, "sparse": keras_switcher.switch(plain)},
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **{"x": x, "y": y, "x_train": x, "y_train": y, "x_validation": x, "y_validation": y},
        **{"keras_tuner": keras_tuner, "objective": objective},
        **{"SwitcherHyperModel": SwitcherHyperModel, "build": keras_switcher.models.build},
        "compact": compact,
    }
    if name.startswith("SwitcherHyperModel"):
        plain.compile("adam", given["loss"], metrics=["accuracy"])
        given["build"] = lambda hp: plain
    code = EXAMPLES[name].replace("epochs=20", "epochs=1").replace("max_epochs=9", "max_epochs=1")
    exec(compile(code, name, "exec"), given)
