"""What `switch` and `strip` keep of a model beside its weights, and what of a model inside it."""

import logging

import keras
import numpy as np
import pytest
from kinds_of_models import REGISTER, Block, ChainModel, Tower, X, classes_inside, turned_off
from small import CLASSES, INPUTS, compiled, network

from keras_switcher import SwitchedModel, strip, switch
from keras_switcher.layers import switched_layers
from keras_switcher.nesting import walk

TWO = 2.0


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


def test_a_lambda_is_copied_with_its_function():
    def times(x, factor, training):
        return x * factor * TWO

    inputs = keras.Input((INPUTS,))
    options = {"arguments": {"factor": 3.0}, "output_shape": (INPUTS,), "dtype": "float64"}
    options.update(activity_regularizer="l2", autocast=False)
    x = keras.layers.Lambda(times, name="times", **options)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(x))
    switched = switch(model)
    stripped = strip(switched)
    for copy in (switched, stripped):
        np.testing.assert_array_equal(copy(X), model(X))
        features = keras.Model(copy.input, copy.get_layer("times").output)
        np.testing.assert_allclose(features(X), 3 * TWO * X)
        assert features.output.dtype == "float64"
        assert copy.get_layer("times").autocast is False
        np.testing.assert_allclose(sum(copy.losses), sum(model.losses))
    switched.trainable = False
    assert model.get_layer("times").trainable


class OwnLambda(keras.layers.Lambda):
    """One whose `__init__` is not known."""


def test_a_subclass_of_lambda_is_used_as_it_is():
    times = OwnLambda(lambda x: x * TWO)
    model = keras.Sequential([keras.Input((INPUTS,)), times, keras.layers.Dense(CLASSES)])
    np.testing.assert_array_equal(strip(switch(model))(X), model(X))


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


class Doubled(keras.Model):
    """A graph whose class computes something else."""

    def call(self, inputs):
        return 2 * super().call(inputs)


class DoubledSwitched(SwitchedModel):
    call = Doubled.call


def test_a_graph_that_computes_something_else_is_refused():
    inputs = keras.Input((INPUTS,))
    outputs = keras.layers.Dense(CLASSES)(inputs)
    doubled = Doubled(inputs, outputs, name="doubled")
    with pytest.raises(ValueError, match="Can't copy 'doubled', a Doubled, .* a `call` of its own"):
        switch(doubled)
    with pytest.raises(ValueError, match="Can't copy 'doubled'"):
        switch(keras.Sequential([inputs, doubled]))

    class Around(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = Doubled(inputs, outputs, name="doubled")

        def call(self, inputs):
            return self.inner(inputs)

    around = Around()
    around(X)
    with pytest.raises(ValueError, match="Can't copy 'doubled'"):
        switch(around)
    plain = switch(keras.Model(inputs, outputs))
    with pytest.raises(ValueError, match="Can't copy 'own', a DoubledSwitched"):
        strip(DoubledSwitched(plain.input, plain.output, name="own"))


def test_a_graph_that_computes_something_else_and_stays_as_it_is_keeps_that():
    inputs = keras.Input((INPUTS,))
    doubled = Doubled(inputs, keras.layers.Dense(INPUTS, name="inner")(inputs))
    model = keras.Sequential([inputs, doubled, keras.layers.Dense(CLASSES, name="last")])
    switched = switch(model, layers="last")
    np.testing.assert_allclose(switched(X), model(X), atol=1e-6)
    np.testing.assert_allclose(strip(switched)(X), model(X), atol=1e-6)


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


class Blocks(keras.Model):
    """A subclassed model that builds itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block()
        self.last = keras.layers.Dense(CLASSES, name="last")
        self(np.zeros((1, INPUTS), "float32"))

    def call(self, inputs):
        return self.last(self.block(inputs))


def in_graph():
    inputs = keras.Input((INPUTS,))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="last")(Block()(inputs)))


@pytest.mark.parametrize("made", [in_graph, Blocks])
def test_weights_stay_in_the_order_of_the_layers(made, tmp_path):
    model = made()
    switched = switch(model, layers=["first"])
    plain = strip(switched)
    shapes = [tuple(v.shape) for v in model.weights]
    assert [tuple(v.shape) for v in plain.weights] == shapes
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(plain(X), model(X), atol=1e-6)
    # And those of a file.
    another = made()
    another.save_weights(tmp_path / "another.weights.h5")
    switched.load_weights(tmp_path / "another.weights.h5")
    np.testing.assert_allclose(switched(X), another(X), atol=1e-6)


@pytest.mark.parametrize("made", [in_graph, Blocks])
def test_layers_that_are_switched_already_stay_so(made):
    once = switch(made(), layers="first")
    layer = once.switched_layers()[0]
    layer.switches.assign(np.random.default_rng(0).random(layer.switches.shape) < 0.5)
    for name in ("second", "last"):
        twice = switch(once, layers=name)
        assert {la.name for la in twice.switched_layers()} == {"first", name}
        np.testing.assert_allclose(twice(X), once(X), atol=1e-6)
        plain = strip(twice)
        np.testing.assert_allclose(plain(X), once(X), atol=1e-6)
        assert not any(type(la).__module__.startswith("keras_s") for _, la in walk(plain))
        assert not isinstance(plain, SwitchedModel)


def test_a_switched_subclassed_model_inside_a_graph_becomes_plain():
    inputs = keras.Input((INPUTS,))
    outer = keras.layers.Dense(CLASSES, name="outer")(switch(Blocks())(inputs))
    model = switch(keras.Model(inputs, outer), layers="outer")
    plain = strip(model)
    np.testing.assert_allclose(plain(X), model(X), atol=1e-6)
    assert not any(isinstance(la, SwitchedModel) for _, la in walk(plain))


class Halved(keras.regularizers.Regularizer):
    """Without a configuration."""

    def __call__(self, x):
        return keras.ops.sum(x**2) / 2


def test_functions_that_are_not_registered_go_along():
    layer = keras.layers.Dense(8, lambda x: keras.ops.sin(x), kernel_regularizer=Halved())
    model = keras.Sequential([keras.Input((INPUTS,)), layer, keras.layers.Dense(CLASSES)])
    switched = switch(model)
    np.testing.assert_array_equal(switched(X), model(X))
    np.testing.assert_array_equal(strip(switched)(X), model(X))
    assert strip(switched).layers[1].kernel_regularizer is layer.kernel_regularizer


def test_layers_are_chosen_by_themselves():
    model = in_graph()
    for chosen in (model.layers[-1], [model.layers[-1]]):
        assert [la.name for la in switch(model, layers=chosen).switched_layers()] == ["last"]
    with pytest.raises(ValueError, match="has no dense layer <Dense name=another"):
        switch(model, layers=keras.layers.Dense(3, name="another"))


@REGISTER
class HalvedModel(SwitchedModel):
    def call(self, inputs):
        return super().call(inputs) / 2


def test_a_saved_graph_with_a_call_of_its_own_comes_back(tmp_path):
    inputs = keras.Input((INPUTS,))
    plain = switch(keras.Model(inputs, keras.layers.Dense(CLASSES)(Tower()(inputs))))
    halved = HalvedModel(plain.input, plain.output)
    halved.save(tmp_path / "halved.keras")
    again = keras.models.load_model(tmp_path / "halved.keras")
    np.testing.assert_allclose(again(X), halved(X), atol=1e-6)
    assert len(again.switched_layers()) == len(halved.switched_layers())


def test_single_weights_that_are_frozen_stay_so():
    inputs = keras.Input((INPUTS,))
    norm = keras.layers.BatchNormalization()
    dense = keras.layers.Dense(CLASSES)
    model = keras.Model(inputs, dense(norm(keras.layers.Dense(6)(inputs))))
    dense.kernel.trainable = norm.beta.trainable = False
    switched = switch(model)
    shapes = sorted(tuple(v.shape) for v in model.trainable_variables)
    assert len(shapes) == 4
    assert sorted(tuple(v.shape) for v in switched.task_variables) == shapes
    assert sorted(tuple(v.shape) for v in strip(switched).trainable_variables) == shapes


@pytest.mark.parametrize("layers", [None, "last"])
def test_a_frozen_layer_inside_one_that_is_not_stays_so(layers):
    model = ChainModel(keras.layers.Dense(6), keras.layers.Dense(CLASSES, name="last"))
    model(X)
    model.second.trainable = False
    switched = switch(model, layers)
    assert len(switched.task_variables) == len(strip(switched).trainable_variables) == 2
