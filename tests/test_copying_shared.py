"""What `switch` and `strip` do with layers that stand in several places of a model."""

import keras
import numpy as np
import pytest
from kinds_of_models import REGISTER, Block, Chain, ChainModel, X, turned_off
from small import CLASSES, INPUTS

from keras_switcher import SwitchedDense, SwitchedModel, strip, switch


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


def test_what_several_layers_share_stays_shared_though_it_is_not_switched():
    inputs = keras.Input((4, INPUTS))
    norm, shared = keras.layers.LayerNormalization(), keras.layers.Dense(INPUTS, name="shared")
    x = keras.layers.TimeDistributed(norm)(norm(inputs))
    x = keras.layers.TimeDistributed(shared)(keras.layers.TimeDistributed(shared)(x))
    wrapped = keras.layers.TimeDistributed(keras.layers.Dense(CLASSES, name="wrapped"))
    model = keras.Model(inputs, wrapped(x))
    switched = switch(model, layers="wrapped")
    assert len(switched.task_variables) == len(model.trainable_variables)
    assert strip(switched).count_params() == model.count_params()
    x = np.random.default_rng(0).normal(size=(3, 4, INPUTS)).astype("float32")
    np.testing.assert_allclose(switched(x), model(x), atol=1e-6)
    np.testing.assert_allclose(strip(switched)(x), model(x), atol=1e-6)


@REGISTER
class Normed(keras.layers.Layer):
    """Builds its dense layer alone, and tells its output's shape without a call."""

    def __init__(self, norm, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm
        self.dense = keras.layers.Dense(INPUTS)

    def build(self, input_shape):
        self.dense.build(input_shape)
        super().build(input_shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def call(self, inputs):
        return self.dense(self.norm(inputs))

    def get_config(self):
        return {**super().get_config(), "norm": keras.saving.serialize_keras_object(self.norm)}

    @classmethod
    def from_config(cls, config):
        norm = keras.saving.deserialize_keras_object(config.pop("norm"))
        return cls(norm, **config)


def prelu_of_dense(inputs):
    prelu = keras.layers.PReLU()
    x = keras.layers.Dense(INPUTS, activation=prelu, name="one")(inputs)
    return keras.layers.Dense(INPUTS, activation=prelu, name="two")(x)


def norm_of_blocks(inputs):
    norm = keras.layers.LayerNormalization()
    return Normed(norm, name="lower")(Normed(norm, name="upper")(inputs))


def norm_in_nested(inputs):
    inner = keras.Input((INPUTS,))
    return keras.Model(inner, norm_of_blocks(inner))(inputs)


@REGISTER
class Holder(keras.layers.Layer):
    """A layer around another."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


def dense_in_shared(inputs):
    block = Block()
    return block.first(Holder(block)(Holder(block)(inputs)))


@pytest.mark.parametrize("part", [prelu_of_dense, norm_of_blocks, norm_in_nested, dense_in_shared])
@pytest.mark.parametrize("layers", [None, "head"])
def test_what_is_shared_is_built_and_stays_shared(part, layers):
    inputs = keras.Input((INPUTS,))
    outputs = keras.layers.Dense(CLASSES, name="head")(part(inputs))
    model = keras.Model(inputs, outputs)
    # As any model that was trained: all its layers are built by a call.
    expected = model(X)
    switched = switch(model, layers=layers)
    np.testing.assert_allclose(switched(X), expected, atol=1e-5)
    plain = strip(switched)
    np.testing.assert_allclose(plain(X), expected, atol=1e-5)
    assert plain.count_params() == model.count_params()


ONES = {
    "dense": lambda: keras.layers.Dense(INPUTS, "relu"),
    "graph": lambda: keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(INPUTS)]),
}


@pytest.mark.parametrize("one", list(ONES))
@pytest.mark.parametrize("is_subclassed", [True, False])
@pytest.mark.parametrize("layers", [None, "last"])
def test_a_layer_given_twice_to_another_stays_one(one, is_subclassed, layers):
    shared = ONES[one]()
    inputs = keras.Input((INPUTS,))
    last = keras.layers.Dense(CLASSES, name="last")
    if is_subclassed:
        model = ChainModel(Chain(shared, shared), last)
        model(X)
    else:
        model = keras.Model(inputs, last(Chain(shared, shared)(inputs)))
    switched = switch(model, layers)
    np.testing.assert_array_equal(switched(X), model(X))
    assert len(switched.task_variables) == len(model.trainable_variables) == 4
    plain = strip(switched)
    np.testing.assert_array_equal(plain(X), model(X))
    assert len(plain.trainable_variables) == 4


def test_a_trained_layer_given_twice_is_stripped_and_saved_as_one(tmp_path):
    shared = SwitchedDense(INPUTS)
    inputs = keras.Input((INPUTS,))
    model = SwitchedModel(inputs, SwitchedDense(CLASSES)(Chain(shared, shared)(inputs)))
    turned_off(model)
    expected = model(X)
    np.testing.assert_array_equal(strip(model)(X), expected)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), expected)
    np.testing.assert_array_equal(strip(loaded)(X), expected)


def test_a_layer_put_in_two_places_after_init_is_refused():
    tied = ChainModel(keras.layers.Dense(INPUTS), keras.layers.Dense(INPUTS))
    first = keras.saving.serialize_keras_object(tied.first)
    second = keras.saving.serialize_keras_object(tied.second)
    tied.second = tied.first
    tied(X)
    tied.get_config = lambda: {"name": tied.name, "first": first, "second": second}
    with pytest.raises(ValueError, match="layer at 'second' of its copy.*none of the original's"):
        switch(tied)


@REGISTER
class Repeated(keras.layers.Layer):
    """Layers made from the configuration of one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        template = keras.saving.serialize_keras_object(keras.layers.Dense(INPUTS))
        made = keras.layers.Dense(INPUTS)
        self.all = [keras.saving.deserialize_keras_object(template) for _ in range(2)]
        for _ in range(3):
            config = keras.saving.serialize_keras_object(made)
            self.all.append(keras.saving.deserialize_keras_object(config))

    def call(self, inputs):
        for layer in self.all:
            inputs = layer(inputs)
        return inputs


@REGISTER
class Limited(keras.layers.Layer):
    """A layer whose configuration has objects that are made for it alone."""

    def __init__(self, first=None, second=None, **kwargs):
        super().__init__(**kwargs)
        deserialized = keras.saving.deserialize_keras_object
        self.limits = [0.1 if x is None else float(deserialized(x).l2) for x in (first, second)]
        self.dense = keras.layers.Dense(INPUTS)

    def call(self, inputs):
        return self.dense(inputs) * self.limits[0] + self.limits[1]

    def get_config(self):
        # At one address, as objects made for a moment may be.
        made = keras.regularizers.L2(self.limits[0])
        first = keras.saving.serialize_keras_object(made)
        made.l2 = self.limits[1]
        second = keras.saving.serialize_keras_object(made)
        return {**super().get_config(), "first": first, "second": second}


@pytest.mark.parametrize("layers", [None, "last"])
def test_what_only_looks_shared_is_not(layers):
    inputs = keras.Input((INPUTS,))
    limited = Limited()
    limited.limits = [0.25, 0.5]
    x = Repeated()(limited(inputs))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="last")(x))
    switched = switch(model, layers)
    np.testing.assert_array_equal(switched(X), model(X))
    assert len(switched.task_variables) == len(model.trainable_variables) == 14
    np.testing.assert_array_equal(strip(switched)(X), model(X))


def test_what_no_file_can_hold_is_warned_of(caplog):
    inputs = keras.Input((INPUTS,))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(norm_of_blocks(inputs)))
    model(X)
    switch(model)
    assert "not load, a model whose layer stands in several other layers" in caplog.text
    caplog.clear()
    switch(keras.Sequential([keras.Input((INPUTS,)), Block(), keras.layers.Dense(CLASSES)]))
    assert not caplog.records
