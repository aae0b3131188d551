"""The peers of PQuantML, each on a few images."""

import keras
import numpy as np
import pytest
from compare_work import sparsity, work

from keras_switcher.compare.method import MODEL_FILE, registry
from keras_switcher.compare.methods.pquant import _epochs
from keras_switcher.runs import RunError

FLAGS = ("--epochs", "24", "--warmup", "0.1", "--settle", "0.25", "--lr", "0.003")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    kept = {}

    def of(name):
        if name not in kept:
            task = work(tmp_path_factory.mktemp(name) / "cell", *FLAGS, target=0.7)
            task.keeps_models = True
            kept[name] = (registry.get(name)().train(task), task)
        return kept[name]

    return of


@pytest.mark.parametrize("name", ["pquant-dst", "pquant-pdp"])
def test_what_is_kept_has_the_accuracy_and_the_connections_that_are_told(name, trained):
    result, task = trained(name)
    model = keras.models.load_model(task.folder / MODEL_FILE)
    right = model.predict(task.data.x_test, verbose=0).argmax(axis=-1) == task.data.y_test
    assert right.mean() == pytest.approx(result.test_accuracy, abs=1e-6)
    assert right.mean() > 0.4
    for row in result.layers:
        assert (np.array(model.get_layer(row["name"]).kernel) != 0).sum() == row["on"]
    assert result.remaining_parameters < result.parameters


def test_pdp_prunes_every_layer_to_the_target(trained):
    result, _ = trained("pquant-pdp")
    for row in result.layers:
        assert 1 - row["on"] / row["connections"] == pytest.approx(0.7, abs=0.01)


def test_the_penalty_of_dst_is_steered_to_the_target(trained):
    result, _ = trained("pquant-dst")
    assert sparsity(result.layers) == pytest.approx(0.7, abs=0.15)


def test_the_phases_are_those_of_the_recipe(tmp_path):
    assert _epochs(work(tmp_path, *FLAGS)) == (2, 16, 6)
    assert _epochs(work(tmp_path, "--epochs", "1")) == (0, 1, 0)


def test_a_network_that_is_no_chain_of_layers_is_refused(tmp_path):
    task = work(tmp_path, "--model", "resnet18", "--width", "0.05")
    with pytest.raises(RunError, match="chain of layers"):
        registry.get("pquant-pdp")().train(task)
