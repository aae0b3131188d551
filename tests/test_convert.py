import copy

import keras
import numpy as np
import pytest
from kinds_of_models import (
    KINDS,
    REGISTER,
    X,
    Y,
    classes_inside,
    given,
    made,
    results,
    turned_off,
)
from small import CLASSES, INPUTS, arrays, assert_identical, compiled

from keras_switcher import SwitchedDense, SwitchedModel, strip, switch


@pytest.mark.parametrize("kind", KINDS)
def test_switched_model_predicts_the_same_to_the_bit(kind):
    model = made(kind)
    switched = switch(model)
    assert isinstance(switched, SwitchedModel)
    assert len(switched.switched_layers()) == KINDS[kind][1]
    assert keras.layers.Dense not in classes_inside(switched)
    assert switched.name == model.name
    assert switched.sparsity == 0.0
    assert_identical(results(switched, kind), results(model, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_switched_model_keeps_all_weights_and_the_names_of_its_layers(kind):
    model = made(kind)
    switched = switch(model)
    trainable, task = arrays(model.trainable_variables), arrays(switched.task_variables)
    assert sorted(map(np.sum, trainable)) == sorted(map(np.sum, task))
    dense = [layer for layer in model._flatten_layers() if type(layer) is keras.layers.Dense]
    names = {layer.name for layer in switched.switched_layers()}
    assert names == {layer.name for layer in dense}
    for layer in switched.switched_layers():
        (original,) = [other for other in dense if other.name == layer.name]
        np.testing.assert_array_equal(layer.kernel, original.kernel)
        assert layer.activation is original.activation


@pytest.mark.parametrize("kind", ["sequential", "nested", "subclassed"])
def test_original_model_stays_as_it_is_while_the_switched_one_learns(kind):
    model = made(kind)
    model.compile("sgd", loss="mse")
    model.fit(X, np.eye(CLASSES)[Y], verbose=0)
    optimizer, before = model.optimizer, arrays(model.weights)
    switched = compiled(switch(model))
    switched.fit(X, Y, epochs=2, verbose=0)
    assert not np.array_equal(switched.task_variables[0], before[0])
    assert model.compiled and model.optimizer is optimizer
    assert_identical(arrays(model.weights), before)
    assert SwitchedDense not in classes_inside(model)


@pytest.mark.parametrize(
    "kind", ["custom_layer", "attention", "wrapped", "model_in_graph", "subclassed_with_models"]
)
def test_a_saved_model_comes_back_with_all_of_its_switches(kind, tmp_path):
    switched = compiled(switch(made(kind)), loss="mse", metrics=None)
    before = turned_off(switched)
    before.save(tmp_path / "model.keras")
    after = keras.models.load_model(tmp_path / "model.keras")
    assert len(after.switched_layers()) == KINDS[kind][1]
    assert after.sparsity == before.sparsity
    assert_identical(arrays(after.weights), arrays(before.weights))
    for model in (after, strip(after)):
        for own, other in zip(results(model, kind), results(before, kind), strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-5)


@REGISTER
class Own(SwitchedModel):
    """A user's own, of the inputs and outputs of a switched model."""


def test_a_subclass_of_a_graph_comes_back_with_the_switches_inside_its_layers(tmp_path):
    switched = switch(made("custom_layer"))
    before = turned_off(compiled(Own(switched.input, switched.output, name="mine")))
    before.save(tmp_path / "model.keras")
    for after in (keras.models.load_model(tmp_path / "model.keras"), copy.deepcopy(before)):
        assert isinstance(after, Own) and after.name == "mine"
        assert after.sparsity == before.sparsity
        assert_identical(arrays(after.weights), arrays(before.weights))


def test_a_layer_around_a_switched_one_that_comes_back_by_itself_is_left_alone():
    layer = keras.layers.TimeDistributed(SwitchedDense(3))
    inputs = keras.Input((4, 3))
    model = SwitchedModel(inputs, layer(inputs))
    again = SwitchedModel.from_config(model.get_config())
    assert len(again.switched_layers()) == 1
    assert [type(la) for la in again.layers] == [type(la) for la in model.layers]


@pytest.mark.parametrize("kind", KINDS)
def test_switched_model_hits_its_target(kind):
    model = made(kind)
    switched = compiled(switch(model), loss="mse", metrics=None, target_sparsity=0.5)
    y = {"label": np.eye(CLASSES)[Y], "size": Y} if kind == "shared" else np.eye(CLASSES)[Y]
    switched.fit(given(kind), y, epochs=4, verbose=0)
    assert switched.sparsity == pytest.approx(0.5, abs=0.005)


def test_a_block_made_in_other_precision_computes_in_it_in_the_copy():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = made("custom_layer")
    finally:
        keras.config.set_dtype_policy("float32")
    switched = switch(model, "top")
    for copy_of in (switched, strip(switched)):
        gated = copy_of.get_layer("gated")
        assert gated.project.compute_dtype == gated.chain[0].compute_dtype == "float16"
    assert_identical(results(strip(switched), "custom_layer"), results(model, "custom_layer"))


def test_options_reach_each_switched_layer():
    switched = switch(made("nested"), switcher="connection", gate="relu_tanh", granularity="block4")
    for layer in switched.switched_layers():
        config = layer.get_config()
        assert config["gate"] == "relu_tanh" and config["granularity"] == "block4"
        assert config["switcher"]["class_name"] == "ConnectionSwitcher"
    switchers = [layer.switcher for layer in switched.switched_layers()]
    assert len({id(s) for s in switchers}) == len(switchers)


def test_regularizers_constraints_and_trainable_stay_with_the_layer():
    inputs = keras.Input((INPUTS,))
    dense = keras.layers.Dense(
        CLASSES, kernel_regularizer=keras.regularizers.L2(0.1), bias_constraint="non_neg", name="d"
    )
    model = keras.Model(inputs, dense(inputs))
    dense.trainable = False
    (layer,) = switch(model).switched_layers()
    assert float(layer.kernel_regularizer.l2) == pytest.approx(0.1)
    assert isinstance(layer.bias_constraint, keras.constraints.NonNeg)
    assert layer.trainable is False


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("first", {"first"}),
        (["first"], {"first"}),
        (("first", "second"), {"first", "second"}),
        (lambda layer: layer.units == CLASSES, {"second"}),
        (None, {"first", "second"}),
    ],
)
def test_layers_are_chosen_by_name_names_or_predicate(choice, expected):
    model = made("sequential")
    switched = switch(model, choice)
    assert {layer.name for layer in switched.switched_layers()} == expected
    assert_identical(results(switched, "sequential"), results(model, "sequential"))


@pytest.mark.parametrize(
    ("kind", "name"), [("nested", "inside"), ("custom_layer", "last"), ("subclassed", "chain_0")]
)
def test_layer_deep_inside_is_chosen_by_its_name(kind, name):
    model = made(kind)
    switched = switch(model, name)
    assert [layer.name for layer in switched.switched_layers()] == [name]
    assert_identical(results(switched, kind), results(model, kind))
    assert_identical(results(strip(switched), kind), results(model, kind))


def test_units_of_the_output_are_not_switched_off():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(5, "relu", name="hidden")(inputs)
    x = keras.layers.Dense(4, "relu", name="deep")(x)
    classes = keras.layers.BatchNormalization()(keras.layers.Dense(3, name="classes")(x))
    classes = keras.layers.Softmax()(classes)
    other = keras.layers.Dense(2, name="other")(keras.layers.BatchNormalization()(x))
    model = keras.Model(inputs, [classes, other])

    def names(**options):
        return sorted(layer.name for layer in switch(model, **options).switched_layers())

    assert names(granularity="unit") == ["deep", "hidden"]
    assert names(granularity="block4") == ["classes", "deep", "hidden", "other"]
    assert names(granularity="unit", layers="other") == ["other"]


def test_outputs_of_a_nested_model_are_not_switched_off():
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5), inner])
    switched = switch(model, granularity="unit").switched_layers()
    assert sorted(tuple(layer.kernel.shape) for layer in switched) == [(5, 4), (6, 5)]


def test_a_model_with_nothing_but_outputs_can_not_be_switched_by_the_unit():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, name="only")])
    with pytest.raises(ValueError, match=r"only Dense layers.*output layers.*Received: \['only'\]"):
        switch(model, granularity="unit")


class OfIntegers(keras.Model):
    """A model whose own code takes integers alone, or booleans."""

    def __init__(self, dtypes=("int32",), **options):
        super().__init__(**options)
        self.dtypes = dtypes
        self.hidden, self.last = keras.layers.Dense(16, "relu"), keras.layers.Dense(4)

    def call(self, inputs):
        if keras.backend.standardize_dtype(inputs.dtype) not in self.dtypes:
            raise TypeError("not of this type")
        return self.last(self.hidden(keras.ops.cast(inputs, "float32")))

    def get_config(self):
        return {**super().get_config(), "dtypes": self.dtypes}


def test_a_subclassed_model_of_integers_is_switched_and_stripped():
    words = np.arange(24, dtype="int32").reshape(4, 6)
    model = OfIntegers()
    expected = model(words)
    switched = switch(model)
    np.testing.assert_array_equal(switched(words), expected)
    np.testing.assert_array_equal(strip(switched)(words), expected)

    flags = OfIntegers(dtypes=("bool",))
    flags(words > 3)
    with pytest.raises(ValueError, match=r"called on floats or on integers.*\(4, 6\)"):
        switch(flags)


class Sum(keras.layers.Layer):
    """The sum of its inputs, of which the second may be missing."""

    def call(self, first, second=None):
        return first if second is None else first + second


def test_an_input_stays_optional_or_sparse():
    inputs = [keras.Input((4,)), keras.Input((4,), optional=True, name="second")]
    nested = keras.Model(inputs, keras.layers.Dense(8)(Sum()(*inputs)))
    model = keras.Model(inputs, keras.layers.Dense(3)(nested(inputs)))
    given = [np.ones((2, 4), "float32"), None]
    switched = switch(model)
    np.testing.assert_array_equal(switched(given), model(given))
    np.testing.assert_array_equal(strip(switched)(given), model(given))

    words = keras.Input((4,), sparse=True)
    model = keras.Model({"words": words}, keras.layers.Dense(3)(keras.layers.Dense(8)(words)))
    assert switch(model).input["words"].sparse
    assert strip(switch(model)).input["words"].sparse
