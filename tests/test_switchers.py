import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tensorflow.python.eager import context

from keras_switcher import (
    ConnectionSwitcher,
    FreeSwitcher,
    OrthogonalSwitcher,
    SwitchedDense,
    Switcher,
    UnitSwitcher,
    switch,
    switchers,
)
from keras_switcher.granularity import get as get_granularity
from keras_switcher.switchers import orthonormal

KINDS = {"unit": UnitSwitcher, "connection": ConnectionSwitcher}
GRANULARITIES = ["connection", "block4", "block16", "unit"]


class RankedByWeight(Switcher):
    """The example of the class docstring."""

    def build(self, kernel_shape):
        self.factor = self.add_weight(shape=(kernel_shape[0], 1), initializer="ones")

    def call(self, kernel):
        return self.factor * ops.abs(kernel)


@pytest.fixture(autouse=True)
def registered():
    """`RankedByWeight` under a name, for the tests of this file."""
    return switchers.register("test-rank")(RankedByWeight)


def kernel(*shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype("float32")
    return values / np.sqrt(np.mean(values**2))


def with_weights(switcher, seed=1):
    """Give a built switcher weights of which each changes the logits."""
    rng = np.random.default_rng(seed)
    switcher.set_weights([rng.normal(size=w.shape).astype("float32") for w in switcher.weights])
    return switcher


def built(switcher, shape, granularity="connection"):
    switcher.granularity = get_granularity(granularity)
    switcher.build(shape)
    return with_weights(switcher)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_unit_switcher_returns_a_logit_for_each_switch(granularity):
    switcher = built(UnitSwitcher(hidden=(8,)), (18, 5), granularity)
    logits = switcher(kernel(18, 5))
    assert tuple(logits.shape) == get_granularity(granularity).shape((18, 5))
    assert logits.dtype == tf.float32


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_connection_switcher_returns_a_logit_for_each_connection(granularity):
    switcher = built(ConnectionSwitcher(hidden=(8,)), (18, 5), granularity)
    assert tuple(switcher(kernel(18, 5)).shape) == (18, 5)


@pytest.mark.parametrize(
    ("switcher", "shapes"),
    [
        (UnitSwitcher(hidden=(6,)), [(6, 18), (6, 1), (5, 6), (5, 1), (1, 7)]),
        (UnitSwitcher(hidden=(6,), magnitude=None), [(6, 18), (6, 1), (5, 6), (5, 1)]),
        (UnitSwitcher(hidden=(), magnitude=None), [(5, 18), (5, 1)]),
        (
            UnitSwitcher(hidden=(6, 3), normalization="layer", magnitude=None),
            [(6, 18), (6, 1), (6, 1), (3, 6), (3, 1), (3, 1), (5, 3), (5, 1)],
        ),
        (ConnectionSwitcher(hidden=(6,)), [(6, 4), (6, 1), (1, 6), (1, 1)]),
        (ConnectionSwitcher(hidden=()), [(1, 4), (1, 1)]),
        (OrthogonalSwitcher(), [(5, 18), (5, 1), (1, 7)]),
        (OrthogonalSwitcher(magnitude=None), [(5, 18), (5, 1)]),
        (FreeSwitcher(), [(5, 7)]),
    ],
)
def test_depth_widths_and_normalization_set_the_weights(switcher, shapes):
    switcher.granularity = get_granularity("block4")
    switcher.build((18, 7))
    # The first is the offset of every switcher, which the layer adds.
    assert [tuple(w.shape) for w in switcher.weights] == [(), *shapes]
    assert switcher.count_params() == 1 + sum(int(np.prod(shape)) for shape in shapes)


def reference(columns, weights, hidden, activation, normalization):
    """The perceptron in float64."""
    weights = [w.astype("float64") for w in weights]
    x = columns.astype("float64")
    for _ in range(hidden):
        x = weights.pop(0) @ x + weights.pop(0)
        if normalization:
            x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) * weights.pop(0)
        x = activation(x)
    return weights.pop(0) @ x + weights.pop(0)


@pytest.mark.parametrize("normalization", [None, "layer"])
@pytest.mark.parametrize("hidden", [(), (6,), (6, 3)])
@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_unit_switcher_is_a_perceptron_over_each_units_weights(hidden, name, normalization):
    switcher = UnitSwitcher(hidden, name, normalization, magnitude=None)
    built(switcher, (9, 4), "block4")
    activation = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0)}[name]
    values = kernel(9, 4)
    expected = reference(values, switcher.get_weights()[1:], len(hidden), activation, normalization)
    np.testing.assert_allclose(switcher(values), expected, rtol=1e-4, atol=1e-4)


def test_unit_switcher_adds_the_magnitudes_of_each_group_by_a_factor_of_each_unit():
    switcher = UnitSwitcher(hidden=(3,), magnitude=2.0)
    switcher.granularity = get_granularity("block4")
    switcher.build((6, 2))
    assert switcher.get_weights()[-1].tolist() == [[2.0, 2.0]]
    with_weights(switcher)
    values, (*perceptron, factor) = kernel(6, 2), switcher.get_weights()[1:]
    sizes = np.stack([np.abs(values[:4]).mean(axis=0), np.abs(values[4:]).mean(axis=0)])
    expected = reference(values, perceptron, 1, lambda x: np.maximum(x, 0), None)
    expected += factor * (sizes - 1)
    np.testing.assert_allclose(switcher(values), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", [(18, 5), (18, 18), (5, 18)])
def test_orthogonal_switcher_is_linear_in_the_orthonormal_kernel(shape, granularity):
    switcher = built(OrthogonalSwitcher(), shape, granularity)
    values, (matrix, bias, factor) = kernel(*shape), switcher.get_weights()[1:]
    sizes = np.asarray(switcher.granularity.pool(np.abs(values), shape))
    expected = matrix @ np.asarray(orthonormal(values)) + bias + factor * (sizes - 1)
    logits = switcher(values)
    assert tuple(logits.shape) == switcher.granularity.shape(shape)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(18, 5), (5, 18)])
def test_orthonormal_kernel_has_orthogonal_units_or_inputs(shape):
    found = np.asarray(orthonormal(kernel(*shape)))
    assert found.shape == shape
    products = found.T @ found if shape[0] > shape[1] else found @ found.T
    np.testing.assert_allclose(products / 18, np.eye(5), atol=1e-3)


def test_orthonormal_kernel_keeps_what_its_units_span():
    values = kernel(18, 5)
    found = np.asarray(orthonormal(values))
    # Each unit is the rest of its own weights, less what the units before have in common with them.
    for unit in range(5):
        before = found[:, :unit]
        rest = values[:, unit] - before @ (before.T @ values[:, unit]) / 18
        expected = rest / np.sqrt(np.mean(rest**2))
        np.testing.assert_allclose(found[:, unit], expected, atol=1e-2)


@pytest.mark.parametrize("shape", [(18, 5), (5, 5), (5, 18)])
def test_orthonormal_kernel_is_finite_where_weights_depend_on_each_other(shape):
    assert not np.asarray(orthonormal(np.zeros(shape, "float32"))).any()
    alike = np.ones(shape, "float32")
    found = np.asarray(orthonormal(alike))
    assert np.isfinite(found).all() and np.abs(found).max() < 1.01


def test_orthonormal_kernel_of_numbers_that_are_not_finite_raises_no_error():
    values = kernel(6, 3)
    values[2, 1] = np.nan
    assert np.isnan(np.asarray(orthonormal(values))).any()


def test_a_step_of_the_orthogonal_switcher_moves_each_logit_by_its_own_gradient():
    values, gradient = kernel(18, 5), kernel(18, 5, seed=3)

    def moved(switcher):
        built(switcher, (18, 5))
        before, weight = np.asarray(switcher(values)), switcher.weights[1]  # after the offset
        with tf.GradientTape() as tape:
            tape.watch(weight.value)
            objective = ops.sum(ops.multiply(gradient, switcher(values)))
        weight.assign_sub(tape.gradient(objective, weight.value))
        return np.asarray(switcher(values)) - before

    free = moved(FreeSwitcher())
    np.testing.assert_allclose(free, -gradient, rtol=1e-5)
    orthogonal = moved(OrthogonalSwitcher(magnitude=None))
    np.testing.assert_allclose(orthogonal / 18, free, rtol=1e-2, atol=1e-2)
    unit = moved(UnitSwitcher(hidden=(), magnitude=None))
    assert np.abs(unit / 18 - free).max() > 0.2


@pytest.mark.parametrize("normalization", [None, "layer"])
def test_connection_switcher_sees_a_weight_its_size_and_its_size_in_row_and_column(normalization):
    switcher = built(ConnectionSwitcher((5,), "tanh", normalization), (4, 3))
    values = kernel(4, 3).astype("float64")
    by_input = np.abs(values) / np.sqrt((values**2).mean(axis=1, keepdims=True))
    by_unit = np.abs(values) / np.sqrt((values**2).mean(axis=0, keepdims=True))
    columns = np.stack([values, np.abs(values), by_input, by_unit]).reshape(4, -1)
    expected = reference(columns, switcher.get_weights()[1:], 1, np.tanh, normalization)
    logits = switcher(values.astype("float32"))
    np.testing.assert_allclose(logits, expected.reshape(4, 3), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_free_switcher_returns_its_own_logits_whatever_the_kernel(granularity):
    switcher = built(FreeSwitcher(), (18, 5), granularity)
    logits = switcher(kernel(18, 5))
    assert logits.dtype == tf.float32
    np.testing.assert_array_equal(logits, switcher.get_weights()[1])
    np.testing.assert_array_equal(logits, switcher(kernel(18, 5, seed=3)))


def test_free_logits_start_as_small_random_numbers_of_the_seed():
    def first(**options):
        switcher = FreeSwitcher(**options)
        switcher.build((60, 50))
        return switcher.get_weights()[1]

    assert first(seed=3).std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(first(seed=3), first(seed=3))
    assert (first(seed=3) != first(seed=4)).all()
    keras.utils.set_random_seed(5)
    drawn = first()
    assert (drawn != first()).all()
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(first(), drawn)


def test_connection_switcher_treats_equal_connections_alike_wherever_they_are():
    switcher = built(ConnectionSwitcher(), (6, 5))
    values, rows, columns = kernel(6, 5), [3, 1, 0, 5, 4, 2], [4, 0, 2, 1, 3]
    logits = np.asarray(switcher(values))
    shuffled = np.asarray(switcher(values[rows][:, columns]))
    np.testing.assert_allclose(shuffled, logits[rows][:, columns], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["unit", "orthogonal"])
def test_fresh_switcher_ranks_by_magnitude(name):
    keras.utils.set_random_seed(0)
    layer = SwitchedDense(20, switcher=name)
    layer.build((None, 50))
    sizes = np.abs(ops.convert_to_numpy(layer.kernel)).ravel()
    logits = np.asarray(layer.compute_logits()).ravel()
    assert np.corrcoef(sizes, logits)[0, 1] > 0.9


@pytest.mark.parametrize("cls", KINDS.values())
@pytest.mark.parametrize("hidden", [(0,), (-1,), (8, 2.5), ("8",), (True,), 64, None, "64"])
def test_widths_must_be_positive_integers(cls, hidden):
    with pytest.raises(ValueError) as error:
        cls(hidden=hidden)
    assert str(error.value) == (
        "Expected `hidden` to be a sequence of positive integers, such as (64,). "
        f"Received: hidden={hidden!r}"
    )


@pytest.mark.parametrize("cls", KINDS.values())
@pytest.mark.parametrize("normalization", ["batch", True, "LAYER"])
def test_unknown_normalization_is_refused(cls, normalization):
    with pytest.raises(ValueError, match=f"None or 'layer'.*normalization={normalization!r}$"):
        cls(normalization=normalization)


@pytest.mark.parametrize("cls", KINDS.values())
def test_unknown_activation_is_refused(cls):
    with pytest.raises(ValueError, match="activation function identifier: rleu"):
        cls(activation="rleu")


@pytest.mark.parametrize("cls", [UnitSwitcher, OrthogonalSwitcher])
@pytest.mark.parametrize("magnitude", [-1, float("nan"), float("inf"), "1", True])
def test_magnitude_must_be_a_number_not_below_zero(magnitude, cls):
    with pytest.raises(ValueError, match=f"`magnitude` >= 0, or None.*magnitude={magnitude!r}$"):
        cls(magnitude=magnitude)


@pytest.mark.parametrize(
    "switcher",
    [
        UnitSwitcher(),
        UnitSwitcher((5, 3), "tanh", "layer", magnitude=None),
        ConnectionSwitcher(),
        ConnectionSwitcher((5, 3), keras.activations.gelu, "layer", name="mine"),
        OrthogonalSwitcher(),
        OrthogonalSwitcher(magnitude=None, name="mine"),
        FreeSwitcher(seed=4),
    ],
)
def test_configuration_survives_serialisation(switcher):
    config = switcher.get_config()
    assert type(switcher).from_config(config).get_config() == config
    serialized = keras.saving.serialize_keras_object(switcher)
    revived = keras.saving.deserialize_keras_object(serialized)
    assert type(revived) is type(switcher)
    assert revived.get_config() == config
    assert serialized["registered_name"] == f"keras_switcher>{type(switcher).__name__}"


# get


@pytest.mark.parametrize(
    ("name", "cls"), [*KINDS.items(), ("orthogonal", OrthogonalSwitcher), ("free", FreeSwitcher)]
)
def test_get_by_name(name, cls):
    assert type(switchers.get(name)) is cls


def test_default_is_the_unit_switcher():
    assert switchers.get(None).get_config()["hidden"] == [64]
    assert type(switchers.get(None)) is UnitSwitcher


def test_get_copies_an_instance_without_its_name_and_weights():
    pattern = UnitSwitcher(hidden=(5,), activation="tanh", magnitude=None, name="mine")
    pattern.build((4, 3))
    copy = switchers.get(pattern)
    assert copy is not pattern
    assert not copy.built
    assert copy.name != "mine"
    assert {**copy.get_config(), "name": "mine"} == pattern.get_config()


def test_one_pattern_serves_many_layers():
    pattern = UnitSwitcher(hidden=(5,))
    first, second = (SwitchedDense(3, switcher=pattern) for _ in range(2))
    first.build((None, 4))
    second.build((None, 7))
    assert first.switcher is not second.switcher
    assert not pattern.built
    shared = {id(w) for w in first.switcher.weights} & {id(w) for w in second.switcher.weights}
    assert shared == set()


def test_get_takes_a_serialised_configuration():
    pattern = ConnectionSwitcher(hidden=(3,))
    copy = switchers.get(keras.saving.serialize_keras_object(pattern))
    assert type(copy) is ConnectionSwitcher
    assert copy.hidden == (3,)


def test_unknown_switcher_is_answered_with_the_nearest_and_all_names():
    with pytest.raises(ValueError) as error:
        switchers.get("units")
    assert "Unknown switcher 'units'. Did you mean 'unit'?" in str(error.value)
    assert "'connection'" in str(error.value)
    assert "@keras_switcher.switchers.register('name')" in str(error.value)


@pytest.mark.parametrize("wrong", [UnitSwitcher, 3, keras.layers.Dense(2), {"a": 1}, print])
def test_a_switcher_must_be_a_name_or_an_instance(wrong):
    with pytest.raises(TypeError, match=r"keras_switcher\.Switcher instance.*of type \w+\)$"):
        switchers.get(wrong)


# configured


class Passing(UnitSwitcher):
    """Passes on what it is given."""

    def __init__(self, power=1, **kwargs):
        super().__init__(**kwargs)


class Fixed(UnitSwitcher):
    """Takes nothing."""

    def __init__(self):
        super().__init__(hidden=(7,))


@pytest.mark.parametrize(
    ("cls", "hidden"),
    [
        (UnitSwitcher, (9,)),
        (ConnectionSwitcher, (9,)),
        (Passing, (9,)),
        (Fixed, (7,)),
        (OrthogonalSwitcher, None),
        (FreeSwitcher, None),
        (RankedByWeight, None),
    ],
)
def test_a_class_is_given_the_options_that_it_takes(cls, hidden, monkeypatch):
    monkeypatch.setitem(switchers.registry._items, "asked", cls)
    made = switchers.configured("asked", hidden=(9,), activation="tanh", normalization="layer")
    assert type(made) is cls
    assert getattr(made, "hidden", None) == hidden
    assert hidden != (9,) or (made.activation, made.normalization) == (
        keras.activations.tanh,
        "layer",
    )


def test_a_wrong_value_of_an_option_is_not_left_out():
    with pytest.raises(ValueError, match="positive integers"):
        switchers.configured("unit", hidden=(0,))


# A switcher of one's own


def test_own_switcher_is_registered_under_its_name():
    assert type(switchers.get("test-rank")) is RankedByWeight
    with pytest.raises(ValueError, match="'test-rank' is registered already"):
        switchers.register("test-rank")(UnitSwitcher)


def test_own_switcher_takes_no_class_name_by_which_files_know_another():
    own = type("UnitSwitcher", (UnitSwitcher,), {"__module__": "mine"})
    with pytest.raises(ValueError, match="another switcher of the class name 'UnitSwitcher'"):
        switchers.register("test-mine")(own)
    assert keras.saving.get_registered_object("keras_switcher>UnitSwitcher") is UnitSwitcher
    assert "test-mine" not in switchers.registry.names()


def test_widths_may_be_numbers_of_numpy():
    config = UnitSwitcher((np.int64(8), np.int32(4)), magnitude=np.float32(0.5)).get_config()
    assert json.loads(json.dumps(config)) == config
    assert (config["hidden"], config["magnitude"]) == ([8, 4], 0.5)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_own_switcher_works_in_a_layer(granularity):
    keras.utils.set_random_seed(0)
    layer = SwitchedDense(5, switcher="test-rank", granularity=granularity)
    layer.build((None, 18))
    sizes = np.abs(ops.convert_to_numpy(layer.kernel))
    expected = np.asarray(layer.granularity.pool(sizes, (18, 5)))
    logits = np.asarray(layer.compute_logits())
    assert logits.shape == expected.shape
    assert np.array_equal(np.argsort(logits.ravel()), np.argsort(expected.ravel()))


def test_own_switcher_survives_saving(tmp_path):
    inputs = keras.Input((6,))
    layer = SwitchedDense(4, switcher=RankedByWeight(), granularity="block4", name="ranked")
    model = keras.Model(inputs, layer(inputs))
    layer.switcher.factor.assign(np.arange(1, 7, dtype="float32")[:, None])
    layer.switches.assign(layer.gate(layer.compute_logits() + 1.0))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").get_layer("ranked")
    assert type(again.switcher) is RankedByWeight
    assert np.array_equal(again.switcher.factor, layer.switcher.factor)
    assert np.array_equal(again.compute_logits(), layer.compute_logits())
    assert np.array_equal(again.switches, layer.switches)


def test_a_step_makes_the_kernel_orthogonal_once():
    plain = keras.Sequential([keras.Input((18,)), keras.layers.Dense(5)])
    model = switch(plain, switcher="orthogonal")
    model.compile(loss="mse", target_sparsity=0.5)
    turn = tf.function(lambda: model.switcher_step([ops.ones((18, 5))]))
    with context.collect_graphs(optimized=True) as graphs:
        turn()
    operations = [
        node.op
        for graph in graphs
        for nodes in (graph.node, *(f.node_def for f in graph.library.function))
        for node in nodes
    ]
    assert operations.count("Cholesky") == 1


@pytest.mark.parametrize("jit", [False, True])
def test_orthogonal_switchers_train_in_a_model_that_survives_saving(jit, tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 20)).astype("float32")
    y = (x[:, :1] > x[:, 1:2]).astype("float32")
    # More inputs than units, and more units than inputs.
    plain = keras.Sequential(
        [keras.Input((20,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(24, "relu")]
        + [keras.layers.Dense(1, "sigmoid")]
    )
    model = switch(plain, switcher="orthogonal")
    model.compile("adam", "binary_crossentropy", target_sparsity=0.8, jit_compile=jit)
    before = [layer.switcher.get_weights() for layer in model.switched_layers()]
    model.fit(x, y, batch_size=8, epochs=6, verbose=0)
    assert model.sparsity == pytest.approx(0.8, abs=0.01)
    after = [layer.switcher.get_weights() for layer in model.switched_layers()]
    for old, new in zip(keras.tree.flatten(before), keras.tree.flatten(after), strict=True):
        assert np.isfinite(new).all() and (old != new).any()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {type(layer.switcher) for layer in loaded.switched_layers()} == {OrthogonalSwitcher}
    for one, other in zip(model.switched_layers(), loaded.switched_layers(), strict=True):
        np.testing.assert_array_equal(one.compute_logits(), other.compute_logits())
