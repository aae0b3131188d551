import keras
import numpy as np
import pytest
from keras import layers, ops
from report_runs import sparse_model

import keras_switcher
from keras_switcher.layers import SwitchedDense
from keras_switcher.report.connections import connections_of


def switched(inputs, outputs, masks):
    """Return the connections of each layer of a graph, after setting masks, by the layer's name."""
    model = keras.Model(inputs, outputs)
    for name, mask in masks.items():
        model.get_layer(name).switches.assign(np.asarray(mask, "float32"))
    return {layer.name: layer for layer in connections_of(model)}


def test_masks_and_dead_units_of_a_chain():
    inputs = keras.Input((3,))
    x = SwitchedDense(4, activation="relu", name="first")(inputs)
    outputs = SwitchedDense(2, name="last")(layers.Dropout(0.1)(layers.ReLU()(x)))
    first = [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0.25, 0]]
    last = [[1, 1], [1, 0], [0, 0], [0, 1]]
    found = switched(inputs, outputs, {"first": first, "last": last})

    assert list(found) == ["first", "last"]
    np.testing.assert_array_equal(found["first"].mask, np.asarray(first) > 0)
    assert found["first"].without_input.tolist() == [False, True, False, False]
    assert found["first"].unread.tolist() == [False, False, True, False]
    assert found["first"].dead.tolist() == [False, True, True, False]
    assert found["last"].unread is None
    assert found["last"].dead.tolist() == [False, False]


@pytest.mark.parametrize(
    ("granularity", "whole"), [("unit", True), ("connection", False), ("block4", False)]
)
def test_granularity_tells_whole_units(granularity, whole):
    hidden = connections_of(sparse_model(granularity=granularity))[0]
    assert hidden.mask.shape == (20, 8)
    assert hidden.whole_units == whole


def test_a_unit_is_read_if_any_of_several_readers_reads_it():
    inputs = keras.Input((1,))
    x = SwitchedDense(3, name="first")(inputs)
    outputs = [SwitchedDense(1, name="a")(x), SwitchedDense(1, name="b")(x)]
    found = switched(inputs, outputs, {"a": [[1], [0], [0]], "b": [[0], [0], [1]]})
    assert found["first"].unread.tolist() == [False, True, False]


@pytest.mark.parametrize(
    "other",
    [
        lambda x: layers.Dense(1)(x),
        lambda x: ops.relu(x),
        lambda x: SwitchedDense(1)(layers.Activation("softmax")(x)),
        lambda x: layers.Flatten()(x),
        lambda x: layers.Add()([x, x]),
        lambda x: keras.Sequential([keras.Input((3,)), layers.Dense(1)])(x),
        lambda x: x,
    ],
    ids=["dense", "bare operation", "softmax", "flatten", "residual", "nested model", "output"],
)
def test_what_else_reads_units_makes_readers_unknown(other):
    inputs = keras.Input((1,))
    x = SwitchedDense(3, name="first")(inputs)
    outputs = [SwitchedDense(1, name="last")(x), other(x)]
    found = switched(inputs, outputs, {"last": [[1], [0], [0]]})
    assert found["first"].unread is None
    assert found["first"].dead.tolist() == [False, False, False]


def test_softmax_of_its_own_makes_readers_unknown():
    inputs = keras.Input((1,))
    x = SwitchedDense(3, activation="softmax", name="first")(inputs)
    found = switched(inputs, SwitchedDense(1, name="last")(x), {"last": [[1], [0], [0]]})
    assert found["first"].unread is None


def test_shared_reader_makes_readers_unknown():
    inputs = keras.Input((3,))
    shared = SwitchedDense(3, name="shared")
    x = SwitchedDense(3, name="first")(inputs)
    outputs = SwitchedDense(1, name="last")(layers.Add()([shared(x), shared(inputs)]))
    assert switched(inputs, outputs, {})["first"].unread is None


def test_layer_called_twice_has_no_image_and_unknown_readers():
    inputs = keras.Input((2, 2, 1))
    first = SwitchedDense(4, name="first")
    x = first(layers.Flatten()(inputs))
    found = switched(inputs, SwitchedDense(1, name="last")(first(x)), {})
    assert (found["first"].image_shape, found["first"].unread) == (None, None)


def test_nested_models_may_repeat_a_name():
    def block(units):
        inputs = keras.Input((2,))
        return keras.Model(inputs, layers.Dense(units, name="dense")(inputs))

    inputs = keras.Input((2,))
    model = keras_switcher.switch(keras.Model(inputs, block(3)(block(2)(inputs))))
    assert [(layer.name, layer.mask.shape) for layer in connections_of(model)] == [
        ("dense", (2, 2)),
        ("dense", (2, 3)),
    ]


@pytest.mark.parametrize(
    ("shape", "before", "expected"),
    [
        ((5, 4, 1), [layers.Rescaling(2.0), layers.Flatten()], (5, 4, 1)),
        ((5, 4, 3), [layers.Flatten(), layers.Dropout(0.5)], (5, 4, 3)),
        ((5, 4), [layers.Flatten()], (5, 4, 1)),
        ((20,), [layers.Reshape((5, 4, 1)), layers.Flatten()], None),
        ((5, 4, 1), [layers.Permute((2, 1, 3)), layers.Flatten()], None),
        ((5, 4, 1), [layers.MaxPooling2D(2), layers.Flatten()], None),
        ((5, 4), [], None),
        ((None, 4), [], None),
    ],
)
def test_only_pixels_of_the_input_make_an_image(shape, before, expected):
    x = inputs = keras.Input(shape)
    for layer in before:
        x = layer(x)
    found = switched(inputs, SwitchedDense(2, name="first")(x), {})
    assert found["first"].image_shape == expected


def test_later_layers_read_no_image():
    functional = connections_of(sparse_model())
    assert [layer.image_shape for layer in functional] == [(5, 4, 1), None]
    sequential = connections_of(sparse_model("sequential"))
    assert [layer.image_shape for layer in sequential] == [(5, 4, 1), None]


def test_of_a_subclassed_model_only_masks_are_known():
    found = {layer.name: layer for layer in connections_of(sparse_model("subclassed"))}
    assert {name: layer.mask.sum() for name, layer in found.items()} == {"hidden": 32, "logits": 5}
    assert all(layer.image_shape is None and layer.unread is None for layer in found.values())
