"""The methods that are compared, each on a few images."""

import functools

import keras
import numpy as np
import pytest
from compare_work import normalised, sparsity, work
from keras import ops

import keras_switcher.compare.methods  # noqa: F401
from keras_switcher.compare.hard_concrete import (
    GateParameters,
    HardConcreteDense,
    HardConcreteModel,
)
from keras_switcher.compare.method import dense_layers, registry
from keras_switcher.compare.methods.dense import narrowed
from keras_switcher.compare.methods.l0 import GATE_RATE
from keras_switcher.compare.methods.without_network import erdos_renyi
from keras_switcher.compare.pruned import course, of_all_layers, uniform
from keras_switcher.files import RunError

SPARSE = [
    "switcher",
    "random",
    "magnitude-uniform",
    "magnitude-global",
    "magnitude-switcher",
    "l0",
    "free",
]


def numpy(values):
    return [np.array(ops.convert_to_numpy(value)) for value in values]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains each method once; returns its model, and what came of it."""
    kept, traces = {}, []

    def of(name):
        if name not in kept:
            folder = tmp_path_factory.mktemp(name) / "cell"
            method, task = registry.get(name)(), work(folder)
            models = []
            build = method.model
            method.model = lambda w: models.append(build(w)) or models[0]
            with pytest.MonkeyPatch.context() as patch:
                step = HardConcreteModel.train_step
                patch.setattr(
                    HardConcreteModel,
                    "train_step",
                    lambda model, data: (traces.append(name), step(model, data))[1],
                )
                kept[name] = (models, method.train(task), task)
        (model,), result, task = kept[name]
        return model, result, task

    of.traces = traces
    return of


@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_method_meets_the_target_to_within_a_connection_for_each_layer(name, trained):
    _, result, _ = trained(name)
    off_target = abs(sparsity(result.layers) - 0.9)
    assert off_target * sum(row["connections"] for row in result.layers) <= 3
    assert all(row["on"] > 0 for row in result.layers)


def test_all_start_from_the_same_weights(tmp_path):
    def kernels(method):
        model = registry.get(method)().model(work(tmp_path))
        return numpy(la.kernel for la in model.layers if isinstance(la, keras.layers.Dense))

    dense = kernels("dense")
    for name in SPARSE:
        for own, expected in zip(kernels(name), dense, strict=True):
            np.testing.assert_array_equal(own, expected, err_msg=name)


@pytest.mark.parametrize("name", SPARSE)
def test_what_is_counted_is_what_predicts(name, trained):
    model, result, task = trained(name)
    images = task.data.x_test[:50]
    before = model.predict(images, verbose=0)
    weights = model.get_weights()
    for layer in model.switched_layers():
        kernel = np.array(layer.kernel)
        off = np.broadcast_to(np.array(layer.switches) == 0, kernel.shape)
        assert off.sum() == kernel.size - {r["name"]: r["on"] for r in result.layers}[layer.name]
        # What is off has no part in it, whatever its weight.
        layer.kernel.assign(np.where(off, 1e3, kernel))
    np.testing.assert_array_equal(model.predict(images, verbose=0), before)
    for layer in model.switched_layers():
        layer.switches.assign(np.zeros_like(layer.switches))
    assert np.abs(model.predict(images, verbose=0) - before).max() > 1e-3
    model.set_weights(weights)


def test_uniform_magnitude_keeps_the_largest_of_each_layer():
    random = np.random.default_rng(0)
    kernels = [random.normal(size=(20, 10)) * scale for scale in (1.0, 50.0)]
    for kernel, (scores, least) in zip(kernels, uniform(kernels, 0.25), strict=True):
        on = np.array(scores >= least)
        assert on.sum() == 50
        assert np.abs(kernel)[on].min() > np.abs(kernel)[~on].max()


def test_global_magnitude_keeps_the_largest_of_all_layers():
    random = np.random.default_rng(0)
    kernels = [random.normal(size=(20, 10)) * scale for scale in (1.0, 50.0)]
    first, second = (np.array(z >= least) for z, least in of_all_layers(kernels, 0.25))
    assert first.sum() + second.sum() == 100
    assert second.sum() > 90


@pytest.mark.parametrize("name", ["magnitude-uniform", "magnitude-global"])
def test_magnitude_pruning_ends_with_the_largest_weights_at_the_time_it_settles(name, tmp_path):
    model = registry.get(name)().model(work(tmp_path))
    model.settle()
    layers = model.switched_layers()
    sizes = [np.abs(kernel) for kernel in numpy(layer.kernel for layer in layers)]
    on = [np.array(layer.switches) > 0 for layer in layers]
    groups = zip(sizes, on, strict=True)
    if name == "magnitude-global":
        groups = [(np.concatenate([a.ravel() for a in arrays])) for arrays in (sizes, on)]
        groups = [tuple(groups)]
    for size, kept in groups:
        assert size[kept].min() >= size[~kept].max()


def test_a_random_mask_is_there_before_training_and_stays(tmp_path, trained):
    fresh = registry.get("random")().model(work(tmp_path))
    model, _, _ = trained("random")
    for before, after in zip(fresh.switched_layers(), model.switched_layers(), strict=True):
        np.testing.assert_array_equal(before.switches, after.switches)
    other = registry.get("random")().model(work(tmp_path, "--seed", "1"))
    assert (
        np.array(other.switched_layers()[0].switches) != fresh.switched_layers()[0].switches
    ).any()


def test_erdos_renyi_densities_add_up_and_favour_small_layers():
    shapes = [(784, 300), (300, 100), (100, 10)]
    densities = erdos_renyi(shapes, 0.05)
    sizes = np.array([a * b for a, b in shapes])
    assert densities @ sizes / sizes.sum() == pytest.approx(0.05)
    assert densities[0] < densities[1] < densities[2]
    assert densities[0] / densities[1] == pytest.approx((1084 / 235200) / (400 / 30000))
    assert max(erdos_renyi(shapes, 0.5)) == 1.0


def test_free_switches_learn_and_read_no_weight(trained):
    model, _, _ = trained("free")
    layer = model.switched_layers()[0]
    logits = np.array(layer.switcher(layer.kernel))
    np.testing.assert_array_equal(layer.switcher(0 * layer.kernel), logits)
    fresh = registry.get("free")().model(trained("free")[2]).switched_layers()[0]
    assert np.abs(np.array(fresh.switcher(fresh.kernel)) - logits).max() > 0


@pytest.mark.parametrize("share", [0.3, 0.1, 0.02])
def test_a_small_dense_network_has_as_many_parameters_as_are_wanted(share, tmp_path):
    network = work(tmp_path).start().network
    wanted = share * network.count_params()
    small = narrowed(network, wanted, 4)
    found = small.count_params()
    assert found <= wanted
    # One more unit in each layer would be too many.
    widest = max(row["shape"][0] + row["shape"][1] for row in dense_layers(small))
    assert found + 2 * widest > wanted
    assert small.output_shape == network.output_shape
    assert all(row["shape"][1] >= 4 for row in dense_layers(small)[1:])


def test_a_network_without_a_dense_hidden_layer_has_no_small_form(tmp_path):
    flags = ("--model", "resnet18", "--width", "0.05")
    with pytest.raises(RunError, match="which has none."):
        registry.get("small-dense")().model(work(tmp_path, *flags))


def test_a_small_dense_network_keeps_the_convolutions(tmp_path):
    network = work(tmp_path, "--model", "lenet").start().network
    small = narrowed(network, 2000, 10)
    for old, new in zip(network.layers, small.layers, strict=True):
        if isinstance(old, keras.layers.Conv2D):
            np.testing.assert_array_equal(old.kernel, new.kernel)


def test_a_small_dense_network_normalises_as_the_whole_one_does():
    network = normalised()
    small = narrowed(network, 0.5 * network.count_params(), 3)
    assert small.get_layer("hidden").units < 20
    given = np.random.default_rng(1).integers(0, 256, (20, 6))
    own, other = (model.layers[0](given) for model in (network, small))
    np.testing.assert_allclose(own, other, atol=1e-5)


def test_a_sparsity_that_leaves_too_little_for_a_small_network_is_refused(tmp_path):
    for target, fits in ((0.95, True), (0.99, False)):
        task = work(tmp_path, target=target)
        check = functools.partial(registry.get("small-dense")().check, task.config, task.start())
        if fits:
            check()
            continue
        with pytest.raises(RunError, match=r"leaves at least 91\d parameters.*Received: 0.99"):
            check()


def test_hard_concrete_gates_have_the_distribution_of_the_paper():
    layer = HardConcreteDense(200, switcher=GateParameters(-1.0))
    layer.build((None, 300))
    gates = np.array(layer.sampled_gates())
    assert gates.min() == 0 and gates.max() == 1
    assert (gates > 0).mean() == pytest.approx(float(layer.expected_on()) / gates.size, abs=0.01)
    assert (np.array(layer.sampled_gates()) != gates).any()
    inputs = np.ones((1, 300), "float32")
    layer.refresh()
    np.testing.assert_array_equal(layer(inputs), layer(inputs))
    assert not np.array_equal(layer(inputs, training=True), layer(inputs, training=True))
    layer.frozen.assign(1.0)
    np.testing.assert_array_equal(layer(inputs, training=True), layer(inputs))


def test_the_gates_of_l0_learn_by_the_loss(trained):
    model, _, task = trained("l0")
    fresh = registry.get("l0")().model(task)
    before, after = (numpy([m.switched_layers()[0].switcher.values])[0] for m in (fresh, model))
    assert np.abs(after - before).mean() > 1e-3


def test_the_multiplier_of_l0_rises_while_too_many_gates_are_on_and_is_then_0_again(tmp_path):
    task = work(tmp_path)
    model = registry.get("l0")().model(task)
    images, labels = task.data.x_train[:32], task.data.y_train[:32]
    model.alternation_state.plan.assign((0, 1, 1000))
    multipliers = []
    for _ in range(3):
        model.train_on_batch(images, labels)
        multipliers.append(float(model.alternation_state.multiplier))
    # In the first step the target is still dense.
    assert multipliers[0] == 0.0
    assert 0 < multipliers[1] < multipliers[2]
    for layer in model.switched_layers():
        layer.switcher.values.assign(0 * layer.switcher.values - 9.0)
    model.train_on_batch(images, labels)
    assert float(model.alternation_state.multiplier) == 0.0


def test_the_multiplier_of_l0_rises_faster_in_a_short_training(tmp_path):
    # Half of the steps, of which an epoch has 8, alternate.
    for epochs, rate in ((2, 1.0), (500, 0.5), (5000, 0.1)):
        task = work(tmp_path / str(epochs), "--epochs", str(epochs), "--warmup", "0.1")
        assert task.steps_per_epoch == 8
        assert registry.get("l0")().model(task).multiplier_rate == pytest.approx(rate)


def test_l0_is_at_its_target_before_it_settles(tmp_path):
    task = work(tmp_path, "--target-sparsity", "0.99", "--width", "0.3")
    model = registry.get("l0")().model(task)
    images, labels = task.data.x_train[:64], task.data.y_train[:64]
    model.alternation_state.plan.assign((0, 600, 10_000))
    for _ in range(1000):
        model.train_on_batch(images, labels)
    # Little is left for settling to cut at once.
    assert 0.008 < 1 - model.sparsity < 0.03


def test_the_step_of_l0_is_traced_once(trained):
    trained("l0")
    assert trained.traces == ["l0"]


def test_the_gates_of_l0_begin_with_a_step_as_long_as_their_rate(tmp_path):
    task = work(tmp_path)
    model = registry.get("l0")().model(task)
    batch = task.data.x_train[:32], task.data.y_train[:32]
    model.alternation_state.plan.assign((8, 9, 1000))
    gates = [layer.switcher.values for layer in model.switched_layers()]
    fresh = numpy(gates)
    for _ in range(8):
        model.train_on_batch(*batch)
    for before, after in zip(fresh, numpy(gates), strict=True):
        np.testing.assert_array_equal(after, before)
    model.train_on_batch(*batch)
    moved = max(np.abs(a - b).max() for a, b in zip(fresh, numpy(gates), strict=True))
    assert moved == pytest.approx(GATE_RATE, rel=0.01)


@pytest.mark.parametrize("limit", [300, 3000])
def test_the_last_update_of_tfmot_meets_its_final_sparsity(limit, tmp_path):
    begin, end, every = course(work(tmp_path, "--limit", str(limit)))
    assert begin < end
    assert (end - begin) % every == 0
    assert (end - begin) // every >= 10 or every == 1


def test_small_dense_networks_are_trained_and_counted(tmp_path):
    task = work(tmp_path)
    result = registry.get("small-dense")().train(task)
    assert 0 < result.test_accuracy < 1
    assert result.parameters == task.parameters
    # To within a unit of each layer.
    assert sparsity(result.layers) == pytest.approx(0.9, abs=0.02)
    connections = sum(row["connections"] for row in result.layers)
    assert result.remaining_parameters == pytest.approx(
        task.parameters - 0.9 * connections, rel=0.15
    )


def test_a_cell_that_was_stopped_goes_on_from_its_last_epoch(tmp_path, trained):
    _, whole, _ = trained("magnitude-global")
    task = work(tmp_path)

    class Stop(Exception):
        pass

    def stop():
        if (tmp_path / "history.csv").exists():
            raise Stop

    task.stop.check = stop
    with pytest.raises(Stop):
        registry.get("magnitude-global")().train(task)
    # With the seconds that it took: an epoch that was trained again would have others.
    before = (tmp_path / "history.csv").read_text().splitlines()
    again = registry.get("magnitude-global")().train(work(tmp_path))
    assert again.layers == whole.layers
    assert again.test_accuracy == whole.test_accuracy
    after = (tmp_path / "history.csv").read_text().splitlines()
    assert (len(before), len(after)) == (2, 3)
    assert after[:2] == before
