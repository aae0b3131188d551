"""What compaction must not touch: layers that mix features, borders, and bad input."""

import keras
import numpy as np
import pytest
from compacting import batch, compacted_like, dense_chain, edit, gathers, inputs, sparsify, units
from keras import layers, ops

from export.compact import compact
from export.errors import ExportError
from keras_switcher import switch

MIXING = {
    "softmax": lambda: layers.Softmax(),
    "activation": lambda: layers.Activation("softmax"),
    "own function": lambda: layers.Activation(lambda x: x - ops.mean(x, axis=-1, keepdims=True)),
    "layer normalisation": lambda: layers.LayerNormalization(),
    "unit normalisation": lambda: layers.UnitNormalization(),
    "lambda": lambda: layers.Lambda(lambda x: ops.flip(x, axis=-1)),
    "nested": lambda: keras.Sequential([keras.Input((6,)), layers.Dense(6, "relu")]),
    "training": lambda: lambda x: layers.BatchNormalization()(x, training=True),
    "operation": lambda: lambda x: ops.cumsum(x, axis=-1),
    "another batch axis": lambda: (
        lambda x: layers.Reshape((6,))(layers.BatchNormalization(axis=1)(layers.Reshape((6, 1))(x)))
    ),
    "vector rescaling": lambda: layers.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
}


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_layer_whose_activation_has_weights_keeps_its_units(kind):
    given = keras.Input((5, 4, 2))
    if kind == "dense":
        x = layers.Dense(6, activation=layers.PReLU(), name="hidden")(layers.Flatten()(given))
    else:
        x = layers.Conv2D(6, 3, activation=layers.PReLU(shared_axes=[1, 2]), name="hidden")(given)
        x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(6, "relu", name="next")(x)
    model = keras.Model(given, layers.Dense(3, name="out")(x))
    model(np.zeros((1, 5, 4, 2)))
    sparsify(model, density=1.0)
    edit(model, "hidden", "kernel", np.s_[..., 2])
    edit(model, "next", "kernel", np.s_[:, 4])
    model.get_layer("hidden").activation.alpha.assign_sub([0.5, -2.0, 1.0, 0.0, 3.0, 0.1])
    compacted = compacted_like(model)
    if kind == "dense":
        assert units(compacted)["hidden"] == 6
    # The layers around it are compacted.
    assert compacted.model.get_layer("next").units < 6
    before, after = (each.get_layer("hidden") for each in (model, compacted.model))
    assert len(after.weights) == 3
    assert after.activation is not before.activation


@pytest.mark.parametrize("mixing", MIXING.values(), ids=MIXING.keys())
def test_layer_that_mixes_features_gets_all_of_them(mixing):
    given = keras.Input((8,))
    x = layers.Dense(6, "relu", name="hidden")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(mixing()(x)))
    sparsify(model, density=1.0)
    edit(model, "hidden", "kernel", np.s_[:, 2])
    edit(model, "hidden", "bias", 2, 0.75)
    edit(model, "out", "kernel", np.s_[[1, 4], :])
    compacted = compacted_like(model)
    assert units(compacted)["hidden"] == 6


def test_units_of_a_softmax_layer_stay():
    model = dense_chain(6, 5, 4, activation="softmax")
    edit(model, "dense1", "kernel", np.s_[:, 1])
    edit(model, "dense2", "kernel", np.s_[2, :])
    compacted = compacted_like(model)
    assert units(compacted) == {"dense1": 5, "dense2": 4}
    assert gathers(compacted.model) == []


def test_dense_layer_behind_an_unknown_vector_reads_a_gather_of_it():
    given = keras.Input((8,))
    model = keras.Model(given, layers.Dense(3, name="out")(layers.LayerNormalization()(given)))
    edit(model, "out", "kernel", np.s_[[1, 4], :])
    compacted = compacted_like(model)
    assert inputs(compacted)["out"] == 6
    np.testing.assert_array_equal(gathers(compacted.model), [[0, 2, 3, 5, 6, 7]])


def test_dropout_in_training_mode_is_no_identity():
    given = keras.Input((8,))
    x = layers.Dense(6, name="hidden")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(layers.Dropout(0.5)(x, training=True)))
    edit(model, "hidden", "kernel", ...)
    edit(model, "hidden", "bias", ..., 1.0)
    compacted = compact(model)
    assert units(compacted)["hidden"] == 6
    np.testing.assert_array_equal(
        compacted.model.get_layer("out").get_weights()[0], model.get_layer("out").get_weights()[0]
    )


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_pooling_over_other_axes_is_left_alone(data_format):
    given = keras.Input((6, 4, 8))
    x = layers.Dense(6, name="hidden")(given)
    x = layers.GlobalAveragePooling2D(data_format=data_format)(x)
    model = keras.Model(given, layers.Dense(3, name="out")(x))
    edit(model, "hidden", "kernel", np.s_[:, 2])
    edit(model, "hidden", "bias", ..., 0.75)
    assert units(compacted_like(model))["hidden"] == (5 if data_format == "channels_last" else 6)


@pytest.mark.parametrize(
    ("bias", "padding", "size", "left"),
    [
        (0.75, "same", 3, 6),
        (0.75, "valid", 3, 5),
        (0.75, "same", 1, 5),
        (-0.75, "same", 3, 5),
    ],
)
def test_constant_ends_at_a_padded_border_unless_it_is_zero(bias, padding, size, left):
    given = keras.Input((7, 5, 2))
    x = layers.Conv2D(6, 3, activation="relu", name="first")(given)
    x = layers.Conv2D(4, size, padding=padding, strides=2, name="second")(x)
    model = keras.Model(given, x)
    edit(model, "first", "kernel", np.s_[..., 2])
    edit(model, "first", "bias", 2, bias)
    assert units(compacted_like(model)) == {"first": left, "second": 4}


@pytest.mark.parametrize(("bias", "left"), [(0.75, 6), (-0.75, 5)])
def test_constant_ends_at_zero_padding_unless_it_is_zero(bias, left):
    given = keras.Input((7, 5, 2))
    x = layers.Conv2D(6, 3, activation="relu", name="first")(given)
    x = layers.Conv2D(4, 3, name="second")(layers.ZeroPadding2D(1)(x))
    model = keras.Model(given, x)
    edit(model, "first", "kernel", np.s_[..., 2])
    edit(model, "first", "bias", 2, bias)
    assert units(compacted_like(model)) == {"first": left, "second": 4}


@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
def test_one_dimensional_convolutions(padding):
    given = keras.Input((9, 2))
    x = layers.Conv1D(6, 3, activation="relu", name="first")(given)
    x = layers.Conv1D(4, 3, padding=padding, name="second")(layers.MaxPooling1D(2)(x))
    model = keras.Model(given, layers.GlobalMaxPooling1D()(x))
    edit(model, "first", "kernel", np.s_[..., 2])
    edit(model, "first", "bias", 2, 0.75)
    assert units(compacted_like(model))["first"] == (5 if padding == "valid" else 6)


def test_grouped_and_transposed_convolutions_are_left_alone():
    given = keras.Input((6, 5, 4))
    x = layers.Conv2D(6, 1, name="first")(given)
    x = layers.Conv2D(6, 3, groups=3, name="grouped")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, name="transposed")(x)
    model = sparsify(keras.Model(given, layers.Conv2D(2, 1, name="last")(x)))
    assert list(units(compacted_like(model)).values()) == [6, 6, 4, 2]


def test_merges_that_repeat_features_are_left_alone():
    given = keras.Input((8,))
    x = layers.Dense(6, name="wide")(given)
    gate = layers.Dense(1, "sigmoid", name="gate")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(layers.Multiply()([x, gate])))
    edit(model, "out", "kernel", np.s_[[0, 1], :])
    assert units(compacted_like(model)) == {"wide": 6, "gate": 1, "out": 3}


def test_concatenation_of_positions_is_left_alone():
    given = keras.Input((5, 8))
    x, y = (layers.Dense(6, name=name)(given) for name in ("one", "two"))
    model = keras.Model(given, layers.Dense(3, name="out")(layers.Concatenate(axis=1)([x, y])))
    edit(model, "out", "kernel", np.s_[[0, 1], :])
    assert units(compacted_like(model)) == {"one": 6, "two": 6, "out": 3}


def test_sequences_with_masks_and_several_outputs():
    given = keras.Input((7,), dtype="int32")
    x = layers.Embedding(5, 6, mask_zero=True)(given)
    x, state, _ = layers.LSTM(5, return_sequences=True, return_state=True)(x)
    x = layers.Bidirectional(layers.GRU(4))(x)
    x = layers.Dense(6, "relu", name="hidden")(layers.Concatenate()([x, state]))
    model = sparsify(keras.Model(given, layers.Dense(2, name="out")(x)))
    edit(model, "out", "kernel", ..., 0.5)
    edit(model, "out", "kernel", np.s_[3, :])
    assert units(compacted_like(model))["hidden"] < 6


def test_attention_over_positions():
    given = keras.Input((7, 6))
    x = layers.Dense(8, name="hidden")(given)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D()(layers.Dense(6, "gelu", name="mixed")(x))
    model = sparsify(keras.Model(given, layers.Dense(2, name="out")(x)))
    edit(model, "out", "kernel", ..., 0.5)
    edit(model, "out", "kernel", np.s_[3, :])
    compacted = compacted_like(model)
    assert units(compacted)["hidden"] == 8
    assert units(compacted)["mixed"] < 6


def test_adapted_normalisation_keeps_its_statistics():
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(10 * np.random.default_rng(0).random((50, 6)).astype("float32"))
    model = keras.Sequential([keras.Input((6,)), normalization, layers.Dense(2, name="out")])
    edit(model, "out", "kernel", np.s_[3, :])
    assert inputs(compacted_like(model))["out"] == 5


def test_nested_models_are_copied_whole():
    inner_given = keras.Input((6,))
    inner_x = layers.Dense(5, "relu", name="inner")(inner_given)
    inner = keras.Model(inner_given, layers.Dense(4, name="inner_out")(inner_x), name="nested")
    given = keras.Input((8,))
    x = inner(layers.Dense(6, "relu", name="hidden")(given))
    model = sparsify(keras.Model(given, layers.Dense(3, name="out")(x)))
    edit(model, "out", "kernel", ..., 0.5)
    edit(model, "out", "kernel", np.s_[1, :])
    compacted = compacted_like(model)
    assert units(compacted) == {"hidden": 6, "nested": 4, "out": 3}
    assert inputs(compacted)["out"] == 3
    given = batch(model)
    compacted.model.get_layer("nested").get_layer("inner").kernel.assign_add(np.ones((6, 5)))
    assert not np.array_equal(model(given), compacted.model(given))


@keras.saving.register_keras_serializable("test_compact")
class Doubled(layers.Dense):
    """A dense layer with code of its own."""

    def call(self, inputs):
        return super().call(inputs) + ops.mean(inputs)


def test_subclass_of_a_known_layer_is_left_alone():
    given = keras.Input((8,))
    x = layers.Dense(6, "relu", name="hidden")(given)
    x = Doubled(5, "relu", name="doubled")(x)
    model = keras.Model(given, layers.Dense(3, name="out")(x))
    edit(model, "doubled", "kernel", np.s_[2, :])
    edit(model, "hidden", "kernel", np.s_[:, 3])
    edit(model, "doubled", "kernel", np.s_[:, 1])
    assert units(compacted_like(model)) == {"hidden": 6, "doubled": 5, "out": 3}


class Opaque(layers.Layer):
    """A layer that can't be made from its configuration."""

    def __init__(self, function, weights, **kwargs):
        super().__init__(**kwargs)
        self.function = function
        if weights:
            self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, inputs):
        return self.function(inputs)


class Subclassed(keras.Model):
    """A model that is no graph."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


def test_layer_that_cannot_be_copied_is_refused():
    given = keras.Input((8,))
    x = Opaque(ops.sin, True, name="opaque")(given)
    model = keras.Model(given, layers.Dense(3)(x))
    with pytest.raises(ExportError, match="layer 'opaque' can't be copied.*Received: a Opaque"):
        compact(model)


def test_layer_without_weights_that_cannot_be_copied_is_used_again():
    given = keras.Input((8,))
    x = layers.Dense(6, lambda x: x - ops.mean(x, axis=-1, keepdims=True), name="hidden")(given)
    x = Opaque(ops.sin, False, name="opaque")(x)
    model = sparsify(keras.Model(given, layers.Dense(3, name="out")(x)))
    assert units(compacted_like(model))["hidden"] == 6


def test_vocabulary_is_kept():
    given = keras.Input((4,), dtype="int64")
    lookup = layers.IntegerLookup(name="lookup")
    data = np.array([[7, 8, 9, 8], [8, 9, 1, 7]])
    lookup.adapt(data)
    x = layers.Flatten()(layers.Embedding(6, 2)(lookup(given)))
    model = keras.Model(given, layers.Dense(3)(x))
    np.testing.assert_array_equal(compact(model).model(data), model(data))


def test_other_things_than_built_graphs_are_refused():
    with pytest.raises(TypeError, match="expects a keras.Model. Received: 'model.keras'"):
        compact("model.keras")
    with pytest.raises(ValueError, match="not built.*Received: an unbuilt Sequential"):
        compact(keras.Sequential([layers.Dense(3)]))
    subclassed = Subclassed()
    with pytest.raises(ValueError, match="not built"):
        compact(subclassed)
    subclassed(np.zeros((1, 4), "float32"))
    with pytest.raises(ExportError, match="can't be compacted.*Received: a Subclassed"):
        compact(subclassed)
    with pytest.raises(ExportError, match=r"strip it first.*\['dense1', 'dense2'\]"):
        compact(switch(dense_chain(6, 5, 4)))


@pytest.mark.parametrize(
    ("group", "error"), [(0, ValueError), (-4, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_group_is_refused(group, error):
    with pytest.raises(error, match=f"`group`.*Received: group={group}"):
        compact(dense_chain(6, 5, 4), group)
