"""The recipes, and networks trained by them at a tiny width on made images."""

import keras
import numpy as np
import pytest

from keras_switcher import data
from keras_switcher.flags import RECIPES, recipe, resolve
from keras_switcher.models import MODELS
from keras_switcher.networks import new_start, switched_model
from keras_switcher.training import train

SHAPES = {"mnist": ((28, 28, 1), 10), "cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100)}
PAPER = ("lenet", "resnet18", "resnet34", "vgg16", "mobilenet")


def made(name):
    """Images of a few classes, a bright square in the place of the class."""
    shape, classes = SHAPES[name]
    rng = np.random.default_rng(0)
    labels = np.arange(240) % classes
    images = rng.integers(0, 100, (240, *shape)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[
            2 * (label % 10) : 2 * (label % 10) + 6, 2 * (label // 10) : 6 + 2 * (label // 10)
        ] = 250
    return data.Examples("made", images, labels, images[:100], labels[:100], classes)


@pytest.fixture
def made_data(monkeypatch):
    for name in SHAPES:
        monkeypatch.setitem(data.DATASETS._items, name, lambda data_dir, name=name: made(name))


def test_every_model_has_a_recipe_for_every_data_set():
    found = {path.stem for path in RECIPES.glob("*.yaml")}
    assert found == {f"{m}_{d}" for m in MODELS.names() for d in data.DATASETS.names()}


@pytest.mark.parametrize("name", PAPER[1:])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_networks_train_on_cifar_as_usual(name, dataset):
    options = recipe(name, dataset)
    assert options["optimizer"] == "sgd"
    assert options["momentum"] == 0.9
    assert options["lr_schedule"] == "cosine"
    assert options["augmentation"] == "crop_flip"
    assert options.get("label_smoothing", 0) == (0.1 if dataset == "cifar100" else 0)
    # What a loss with 5e-4 / 2 * |w|**2 in it does, in the limit of many steps.
    assert options["weight_decay"] * (1 - options["momentum"]) == pytest.approx(5e-4)


def configuration(name, dataset, *flags):
    width = {"lenet": 0.2, "vgg16": 0.04}.get(name, 0.07)
    small = ["-b", "40", "--no-dense-baseline", "--no-deterministic", "--target-sparsity", "0.8"]
    pair = ["--model", name, "--dataset", dataset, "--width", str(width), "--epochs", "1"]
    return resolve([*pair, *small, *flags])


@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        # Those that the next test does not train: each network, and images of each kind.
        *(("lenet", "cifar10"), ("resnet18", "cifar100"), ("resnet34", "mnist")),
        *(("vgg16", "cifar100"), ("mobilenet", "cifar10")),
    ],
)
def test_the_recipe_of_a_pair_makes_a_network_for_its_images(name, dataset, made_data):
    config = configuration(name, dataset)
    examples = data.load(dataset)
    model = switched_model(config, examples, new_start(config, examples))
    assert model(examples.x_test[:2] / 255).shape == (2, SHAPES[dataset][1])
    assert model.switched_layers()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dataset"),
    [
        ("mobilenet", "mnist"),
        *(
            pytest.param(*pair, marks=pytest.mark.endurance)
            for pair in (("lenet", "cifar100"), ("vgg16", "mnist"), ("resnet18", "cifar10"))
        ),
    ],
)
def test_pair_runs_to_the_end(name, dataset, made_data, tmp_path):
    config = configuration(name, dataset, "--run-dir", str(tmp_path / "run"))
    summary = train(config)

    assert (summary["model"], summary["dataset"]) == (name, dataset)
    assert summary["fc_sparsity"] == pytest.approx(0.8, abs=0.005)
    stripped = keras.saving.load_model(tmp_path / "run" / "stripped.keras")
    kernels = {
        layer.name: np.asarray(layer.kernel)
        for layer in stripped.layers
        if isinstance(layer, keras.layers.Dense)
    }
    assert {layer["name"]: layer["on"] for layer in summary["layers"]} == {
        layer: np.count_nonzero(kernel) for layer, kernel in kernels.items()
    }
    # Without a graph, which takes longer to make than the images to run.
    logits = np.asarray(stripped(made(dataset).x_test))
    assert logits.shape == (100, SHAPES[dataset][1])
    accuracy = (logits.argmax(axis=1) == made(dataset).y_test).mean()
    assert summary["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
