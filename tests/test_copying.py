"""What `switch` and `strip` keep of a model beside its weights, and what of a model inside it."""

import logging

import keras
import numpy as np
import pytest
from kinds_of_models import REGISTER, X, classes_inside, turned_off
from small import CLASSES, INPUTS, compiled, network

from keras_switcher import strip, switch
from keras_switcher.layers import switched_layers

TWO = 2.0


@REGISTER
class Tower(keras.layers.Layer):
    """A layer with dense and other layers in its attributes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.base = keras.Sequential([keras.layers.EinsumDense("ab,bc->ac", 7), self.norm()])
        self.dense = keras.layers.Dense(6)

    def norm(self):
        return keras.layers.BatchNormalization(name="norm")

    def build(self, input_shape):
        self.base.build(input_shape)
        self.dense.build((None, 7))

    def call(self, inputs):
        return self.dense(self.base(inputs))


@REGISTER
class Classifier(keras.Model):
    """A subclassed model around it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tower = Tower()
        self.last = keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.last(self.tower(inputs))


def subclassed():
    model = Classifier()
    model(X)
    return model, model.tower


def functional():
    inputs, tower = keras.Input((INPUTS,)), Tower()
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(tower(inputs))), tower


@pytest.mark.parametrize("make", [subclassed, functional])
@pytest.mark.parametrize("layers", [None, lambda layer: layer.units == CLASSES])
def test_what_is_frozen_inside_stays_frozen(make, layers):
    model, tower = make()
    tower.base.trainable = False
    expected = {tuple(v.shape) for v in model.trainable_variables}
    assert (INPUTS, 7) not in expected and (7, 6) in expected
    switched = switch(model, layers)
    assert {tuple(v.shape) for v in switched.task_variables} == expected
    assert {tuple(v.shape) for v in strip(switched).trainable_variables} == expected
    tower.base.trainable = True
    tower.base.layers[1].trainable = False
    assert len(switch(model, layers).task_variables) == len(model.trainable_variables) == 5


@pytest.mark.parametrize("kind", ["integers", "words", "text"])
def test_vocabularies_are_kept(kind):
    integers = keras.Input((4,), dtype="int64")
    words = keras.Input((4,), dtype="string")
    if kind == "integers":
        given, lookup = integers, keras.layers.IntegerLookup()
        data = np.array([[7, 8, 9, 7], [8, 8, 9, 1]])
    elif kind == "words":
        given, lookup = words, keras.layers.StringLookup()
        data = keras.ops.convert_to_tensor([["a", "b", "c", "a"], ["b", "d", "a", "a"]], "string")
    else:
        given, lookup = keras.Input((1,), dtype="string"), None
        lookup = keras.layers.TextVectorization(output_sequence_length=4)
        data = keras.ops.convert_to_tensor([["a sentence of words"], ["words of a kind"]], "string")
    lookup.adapt(data)
    x = keras.layers.Flatten()(keras.layers.Embedding(9, 5)(lookup(given)))
    model = keras.Model(given, keras.layers.Dense(3)(x))
    expected = model(data)
    switched = switch(model)
    np.testing.assert_array_equal(switched(data), expected)
    np.testing.assert_array_equal(strip(switched)(data), expected)


def test_a_lambda_is_used_as_it_is():
    layers = [keras.layers.Lambda(lambda x: x * TWO), keras.layers.Dense(CLASSES)]
    model = keras.Sequential([keras.Input((INPUTS,)), *layers])
    switched = switch(model)
    np.testing.assert_array_equal(switched(X), model(X))
    np.testing.assert_array_equal(strip(switched)(X), model(X))


class OwnLoss(keras.Model):
    """A graph with a loss of its own."""

    def compute_loss(self, *args, **kwargs):
        return 2 * keras.Model.compute_loss(self, *args, **kwargs)


class OwnCall(keras.Model):
    """A subclassed model with a loss of its own."""

    compute_loss = OwnLoss.compute_loss

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.last = keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.last(inputs)


def test_code_of_its_own_that_is_not_kept_is_named(caplog):
    inputs = keras.Input((INPUTS,))
    outputs = keras.layers.Dense(CLASSES)(inputs)
    switch(OwnLoss(inputs, outputs))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "does not use what OwnLoss has of its own: compute_loss." in record.message
    assert "made of the inputs and outputs" in record.message
    assert "There, a train_step has to return super().train_step(data)" in record.message
    caplog.clear()
    model = OwnCall()
    model(X)
    switch(model)
    assert "OwnCall has of its own: compute_loss." in caplog.text
    assert "with SwitchedDense layers in it" in caplog.text
    caplog.clear()
    for kind in (keras.Model, keras.Sequential):
        switch(kind(inputs, outputs) if kind is keras.Model else kind([inputs, *model.layers]))
    assert not caplog.records


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_switched_model_inside_another_is_stripped_too(is_compiled, depth):
    inner = network()
    if is_compiled:
        compiled(inner)
    turned_off(inner)
    model = inner
    for _ in range(depth):
        model = keras.Sequential([keras.Input((INPUTS,)), model, keras.layers.Softmax()])
    stripped = strip(model)
    assert not switched_layers(stripped)
    assert not any("keras_switcher" in cls.__module__ for cls in classes_inside(stripped))
    assert "keras_switcher" not in stripped.to_json()
    assert not any("alternation" in v.path for v in stripped.variables)
    np.testing.assert_allclose(stripped(X), model(X), rtol=1e-6, atol=1e-6)


def test_a_layer_that_two_models_inside_share_stays_one():
    shared = keras.layers.Dense(8, "relu")
    inner = [
        keras.Sequential([keras.Input((INPUTS,)), shared, keras.layers.Dense(CLASSES)])
        for _ in range(2)
    ]
    inputs = keras.Input((INPUTS,))
    model = keras.Model(inputs, keras.layers.Add()([part(inputs) for part in inner]))
    switched = switch(model)
    assert len(switched.switched_layers()) == 3
    assert len(strip(switched).weights) == len(model.weights) == 6
    np.testing.assert_array_equal(strip(switched)(X), model(X))


@REGISTER
class Nameless(keras.layers.Layer):
    """A layer whose configuration leaves its name out."""

    def call(self, inputs):
        return 2 * inputs

    def get_config(self):
        return {}


def test_a_layer_whose_configuration_has_no_name_keeps_it():
    inputs = keras.Input((INPUTS,))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(Nameless(name="mine")(inputs)))
    names = [layer.name for layer in model.layers]
    assert [layer.name for layer in switch(model).layers] == names
    assert [layer.name for layer in strip(switch(model)).layers] == names
