import keras
import numpy as np
import pytest
from keras import layers, ops
from small import compiled

from keras_switcher import SwitchedDense, SwitchedModel, features, models, switch
from keras_switcher.layers import switched_layers


def split(model):
    """Cut a model below its first switched layers."""
    return features.split(model, lambda layer: bool(switched_layers(layer)))


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def vary(model, seed=0):
    """Turn some connections off, and move what starts at zero."""
    rng = np.random.default_rng(seed)
    for layer in switched_layers(model):
        layer.switches.assign(rng.integers(0, 2, layer.switches.shape))
    for weight in model.trainable_weights:
        weight.assign_add(0.1 * rng.normal(size=weight.shape))


def assert_same(parts, model, inputs, **call):
    """Assert that head(trunk(x)) is model(x), and that the trunk is free of switches."""
    vary(model)
    whole = model(inputs, **call)
    halves = parts.head(parts.trunk(inputs, **call), **call)
    keras.tree.map_structure(np.testing.assert_array_equal, whole, halves)
    assert switched_layers(parts.trunk) == []
    below = {id(w) for w in parts.trunk.weights}
    assert below.isdisjoint(id(w) for layer in switched_layers(model) for w in layer.weights)
    assert {id(w) for w in parts.head.weights} <= {id(w) for w in model.weights}


def names(model):
    return [layer.name for layer in model.layers]


def test_convolutional_model_is_cut_below_its_first_dense_layer():
    model = switch(models.build("lenet", (16, 16, 1), 4, width=0.1))
    parts = split(model)
    assert names(parts.trunk) == ["image", *names(model)[1:7]]
    assert [name for name in names(parts.head) if name in ("dense1", "logits")] == [
        "dense1",
        "logits",
    ]
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1)).astype("uint8")
    assert_same(parts, model, images)
    # One tensor, not a list of one, of which Keras would warn.
    assert isinstance(parts.trunk.output, keras.KerasTensor)
    assert isinstance(parts.head.input, keras.KerasTensor)


def test_state_below_the_cut_is_shared_with_the_model():
    inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(3, 3)(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, SwitchedDense(2)(x))
    parts = split(model)
    normalization = model.layers[2]
    before = np.array(normalization.moving_mean)
    parts.trunk(values(4, 8, 8, 2), training=True)
    assert not np.array_equal(before, normalization.moving_mean)
    assert_same(parts, model, values(4, 8, 8, 2))
    assert_same(parts, model, values(4, 8, 8, 2), training=False)


def two_branches(outputs):
    """Two inputs, one of which reaches a switched layer without a layer between."""
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    hidden = layers.Dense(5, "relu")(a)
    first = SwitchedDense(2)(layers.Concatenate()([hidden, b]))
    second = SwitchedDense(3)(b)
    return keras.Model([a, b], outputs(first, second, hidden))


@pytest.mark.parametrize(
    "outputs",
    [
        lambda first, second, hidden: [first, second],
        lambda first, second, hidden: {"z": first, "b": second},
        lambda first, second, hidden: [layers.Add()([hidden[:, :2], first]), second],
    ],
    ids=["list", "dictionary", "around the switched layer"],
)
def test_two_inputs_and_outputs(outputs):
    model = two_branches(outputs)
    assert_same(split(model), model, [values(2, 4), values(2, 3, seed=1)])


def test_inputs_may_come_as_a_dictionary():
    model = two_branches(lambda first, second, hidden: [first, second])
    assert_same(split(model), model, {"a": values(2, 4), "b": values(2, 3, seed=1)})


@pytest.mark.parametrize("kind", ["list", "dictionary"])
def test_output_that_no_switched_layer_feeds(kind):
    def outputs(first, second, hidden):
        extra = layers.Dense(2, name="extra")(hidden)
        return [first, extra] if kind == "list" else {"first": first, "extra": extra}

    model = two_branches(outputs)
    parts = split(model)
    assert "extra" in names(parts.trunk)
    assert_same(parts, model, [values(2, 4), values(2, 3, seed=1)])


def test_output_that_no_switched_layer_feeds_keeps_its_precision():
    inputs = keras.Input((4,))
    hidden = layers.Dense(3)(inputs)
    outputs = [SwitchedDense(2, dtype="float32")(hidden), layers.Dense(2, dtype="float32")(hidden)]
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Model(inputs, outputs)
        assert_same(split(model), model, values(2, 4))
    finally:
        keras.config.set_dtype_policy(before)


def test_model_with_an_output_that_no_switched_layer_feeds_trains():
    inputs = keras.Input((4,))
    hidden = layers.Dense(3)(inputs)
    outputs = {"main": SwitchedDense(1)(hidden), "extra": layers.Dense(2)(hidden)}
    model = SwitchedModel(inputs, outputs)
    compiled(model, loss={"main": "mse", "extra": "mse"}, metrics=None)
    before = [np.array(w) for w in model.trainable_weights]
    targets = {"main": np.ones((8, 1)), "extra": np.ones((8, 2))}
    model.fit(values(8, 4), targets, epochs=2, verbose=0)
    for old, new in zip(before, model.trainable_weights, strict=True):
        assert not np.array_equal(old, new)


def test_layer_called_twice_below_the_cut():
    shared = layers.Dense(5, "relu")
    a, b = keras.Input((4,)), keras.Input((4,))
    top = SwitchedDense(2)
    model = keras.Model([a, b], layers.Subtract()([top(shared(a)), top(shared(b))]))
    assert_same(split(model), model, [values(2, 4), values(2, 4, seed=1)])


def test_switched_layer_called_below_and_above_itself():
    shared = SwitchedDense(5, "relu")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(layers.Dense(5)(inputs))))
    parts = split(model)
    assert names(parts.trunk)[1:] == [model.layers[1].name]
    assert_same(parts, model, values(2, 4))


def test_layer_shared_between_trunk_and_head_is_not_cut():
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    model = SwitchedModel(inputs, SwitchedDense(1)(shared(SwitchedDense(4)(shared(inputs)))))
    assert split(model) is None
    compiled(model, loss="mse", metrics=None).fit(values(8, 4), np.ones((8, 1)), verbose=0)


def test_switched_layer_inside_a_model_inside_the_model():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(5), SwitchedDense(2)], name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Softmax()(inner(layers.Dense(6, name="below")(inputs))))
    parts = split(model)
    assert names(parts.trunk)[1:] == ["below"]
    assert_same(parts, model, values(2, 4))


def test_operations_without_a_layer():
    inputs = keras.Input((4,))
    hidden = layers.Dense(5)(inputs) * 2.0 + ops.ones((1, 5))
    model = keras.Model(inputs, SwitchedDense(5)(hidden) + hidden)
    assert_same(split(model), model, values(2, 4))


def test_sequential_model():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), SwitchedDense(2)])
    assert_same(split(model), model, values(2, 4))


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.top = layers.Dense(3), SwitchedDense(2)

    def call(self, inputs):
        return self.top(self.hidden(inputs))


def test_model_without_a_graph_has_no_split():
    model = OwnCall()
    model(values(2, 4))
    assert split(model) is None
    assert split(keras.Sequential([layers.Dense(3), SwitchedDense(2)])) is None


def test_nothing_below_the_first_switched_layer():
    inputs = keras.Input((4,))
    assert split(keras.Model(inputs, layers.Dense(2)(SwitchedDense(3)(inputs)))) is None


def test_nothing_switched():
    inputs = keras.Input((4,))
    assert split(keras.Model(inputs, layers.Dense(2)(layers.Dense(3)(inputs)))) is None


def test_features_with_a_mask_are_not_cut():
    inputs = keras.Input((5,), dtype="int32")
    x = SwitchedDense(3)(layers.Embedding(10, 4, mask_zero=True)(inputs))
    assert split(keras.Model(inputs, layers.GlobalAveragePooling1D()(x))) is None
