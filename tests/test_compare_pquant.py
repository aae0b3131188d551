"""The peers of PQuantML, each on a few images."""

import keras
import numpy as np
import pquant
import pytest
from compare_work import normalised, sparsity, work
from keras import ops

from keras_switcher.compare.method import registry
from keras_switcher.compare.methods.pquant_dst import _odds
from keras_switcher.compare.pquantml import phases, with_layers_of_pquant
from keras_switcher.files import RunError
from keras_switcher.networks import Start, compiled_dense
from keras_switcher.runs import MODEL_FILE

FLAGS = ("--epochs", "24", "--warmup", "0.1", "--settle", "0.25", "--lr", "0.003")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    kept = {}

    def of(name):
        if name not in kept:
            task = work(tmp_path_factory.mktemp(name) / "cell", *FLAGS, target=0.7)
            task.keeps_models = True
            method, seen = registry.get(name)(), []
            if name == "pquant-dst":
                method._adapt = watched(method._adapt, seen)
            kept[name] = (method.train(task), task, seen)
        return kept[name]

    return of


def watched(steer, seen):
    """Steers the penalty, and keeps the density before it, and by what the penalty rises."""

    def adapt(layers, parameters, work):
        masks = [ops.convert_to_numpy(layer.pruning_layer.mask).ravel() for layer in layers]
        before = float(parameters.alpha)
        steer(layers, parameters, work)
        seen.append((np.concatenate(masks).mean(), float(parameters.alpha) / before))

    return adapt


def test_a_layer_with_a_constraint_is_refused(tmp_path):
    config = work(tmp_path).config
    dense = keras.layers.Dense(3, kernel_constraint="non_neg", name="bounded")
    network = keras.Sequential([keras.Input((4,)), dense])
    with pytest.raises(RunError, match=r"without constraints.*'bounded'"):
        registry.get("pquant-dst")().check(config, Start(network, True, None))


def test_a_dense_layer_inside_a_model_of_the_network_is_refused(tmp_path):
    config = work(tmp_path).config
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="deep")])
    network = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2)])
    with pytest.raises(RunError, match=r"layers of the network itself.*'deep'"):
        registry.get("pquant-dst")().check(config, Start(network, True, None))


def test_a_normalisation_computes_as_it_did():
    network = normalised()
    copy, _ = with_layers_of_pquant(network, pquant.dst_config())
    given = np.random.default_rng(1).integers(0, 256, (20, 6))
    own, other = (model.layers[0](given) for model in (network, copy))
    np.testing.assert_allclose(own, other, atol=1e-5)


@pytest.mark.parametrize("name", ["pquant-dst", "pquant-pdp", "pquant-pdp-uniform"])
def test_what_is_kept_has_the_accuracy_and_the_connections_that_are_told(name, trained):
    result, task, _ = trained(name)
    model = keras.models.load_model(task.folder / MODEL_FILE)
    right = model.predict(task.data.x_test, verbose=0).argmax(axis=-1) == task.data.y_test
    assert right.mean() == pytest.approx(result.test_accuracy, abs=1e-6)
    assert right.mean() > 0.4
    for row in result.layers:
        assert (np.array(model.get_layer(row["name"]).kernel) != 0).sum() == row["on"]
    assert result.remaining_parameters < result.parameters


def test_pdp_ends_at_the_target_with_most_of_the_output_layer(trained):
    result, _, _ = trained("pquant-pdp")
    assert sparsity(result.layers) == pytest.approx(0.7, abs=0.01)
    densities = [row["on"] / row["connections"] for row in result.layers]
    assert densities[-1] > 2 * densities[0]


def test_uniform_pdp_ends_at_the_target_in_every_layer(trained):
    result, _, _ = trained("pquant-pdp-uniform")
    for row in result.layers:
        # Of the smallest layer's connections, one more or less.
        assert row["on"] == pytest.approx(0.3 * row["connections"], abs=2), row["name"]


def test_dst_ends_at_the_target(trained):
    result, _, _ = trained("pquant-dst")
    connections = sum(row["connections"] for row in result.layers)
    assert sparsity(result.layers) == pytest.approx(0.7, abs=2 / connections)


def test_the_penalty_of_dst_rises_while_the_network_will_be_too_dense_and_falls_below(trained):
    _, task, seen = trained("pquant-dst")
    _, pruning, _ = phases(task)
    # At the end, the target is met.
    assert len(seen) == pruning - 1
    earlier = seen[0][0]
    for density, change in seen:
        assert 0.49 < change < 2.01
        ahead = _odds(density) * (_odds(density) / _odds(earlier)) ** 2
        assert (change > 1) == (ahead > _odds(0.3))
        earlier = density
    assert {change > 1 for _, change in seen} == {False, True}
    assert seen[-1][0] == pytest.approx(0.3, abs=0.1)


def test_a_short_training_by_dst_is_nearer_its_target_when_it_has_to_meet_it(tmp_path, monkeypatch):
    flags = ("--epochs", "8", "--settle", "0.25", "--batch-size", "2", "--lr", "0.01")
    last = []
    # Twice in each epoch, which has 135 batches, and once.
    for batches, times in ((50, 2), (200, 1)):
        monkeypatch.setattr("keras_switcher.compare.methods.pquant_dst._LEAST_BATCHES", batches)
        method, seen = registry.get("pquant-dst")(), []
        method._adapt = watched(method._adapt, seen)
        task = work(tmp_path / str(times) / "cell", *flags, target=0.95)
        method.train(task)
        assert len(seen) == times * phases(task)[1] - 1
        last.append(seen[-1][0])
    assert abs(last[0] - 0.05) < 0.5 * abs(last[1] - 0.05)


def test_convolutions_and_a_frozen_trunk_are_kept(tmp_path):
    name = "pquant-dst"
    whole = work(tmp_path / "whole", "--model", "lenet", "--epochs", "4", target=0.5)
    whole.keeps_models = True
    registry.get(name)().train(whole)
    trained = str(whole.folder / MODEL_FILE)
    start = ("--model", "lenet", "--init-from", trained, "--freeze-trunk")
    images = ("--dataset", "mnist5k", "--limit", "300", "--epochs", "4")
    task = work(tmp_path / "head", target=0.5, base=(*start, *images))
    task.keeps_models = True
    task.data = task.start().trunk.features(task.images, tmp_path, with_test=True)
    result = registry.get(name)().train(task)
    before, after = (
        keras.models.load_model(folder / MODEL_FILE) for folder in (whole.folder, task.folder)
    )
    for layer in before.layers:
        changed = any(
            bool(ops.any(ops.not_equal(old, new)))
            for old, new in zip(layer.weights, after.get_layer(layer.name).weights, strict=True)
        )
        assert changed == isinstance(layer, keras.layers.Dense), layer.name
    right = after.predict(task.images.x_test, verbose=0).argmax(axis=-1) == task.images.y_test
    assert right.mean() == pytest.approx(result.test_accuracy, abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "target", "message"),
    [(("--precision", "mixed_float16"), 0.5, "float32"), ((), 0.0, "above 0")],
)
def test_what_the_package_can_not_do_is_told(flags, target, message, tmp_path):
    task = work(tmp_path, *flags, target=target)
    with pytest.raises(RunError, match=message):
        registry.get("pquant-pdp")().check(task.config, task.start())


def test_the_phases_are_those_of_the_recipe(tmp_path):
    assert phases(work(tmp_path, *FLAGS)) == (2, 16, 6)
    assert phases(work(tmp_path, "--epochs", "1")) == (0, 1, 0)


def test_weight_decay_leaves_what_is_trained_besides_the_weights(tmp_path):
    task = work(tmp_path, "--weight-decay", "0.1")
    start = task.start()
    threshold = keras.Variable([1.0], name="threshold")
    kernel = start.learned.get_layer("dense1").kernel
    before = np.array(ops.convert_to_numpy(kernel))
    model = compiled_dense(task.config, task.data, start, start.learned, undecayed=[threshold])
    model.optimizer._apply_weight_decay([threshold, kernel])
    assert ops.convert_to_numpy(threshold) == 1.0
    assert (abs(ops.convert_to_numpy(kernel)) < abs(before))[before != 0].all()
