"""Models of every kind that `switch` and `strip` take, and what tests do with them."""

import keras
import numpy as np
from small import CLASSES, INPUTS, separable

X, Y = separable(64)
REGISTER = keras.saving.register_keras_serializable("kinds_of_models")


@REGISTER
class Gated(keras.layers.Layer):
    """A layer with dense layers in an attribute, a list, a dictionary, and a weight of its own."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.project = keras.layers.Dense(units, "sigmoid", name="project")
        self.chain = [keras.layers.Dense(units, "relu", name="chain_0")]
        self.by_name = {"last": keras.layers.Dense(units, use_bias=False, name="last")}

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(self.units,), initializer="uniform")
        self.project.build(input_shape)
        self.chain[0].build(input_shape)
        self.by_name["last"].build((None, self.units))

    def call(self, inputs):
        x = inputs
        for layer in self.chain:
            x = layer(x)
        return self.scale * self.project(inputs) * self.by_name["last"](x)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@REGISTER
class Attentive(keras.layers.Layer):
    """A layer that makes a layer in its `build`, as the one of Keras inside it does, too."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.attention = keras.layers.MultiHeadAttention(2, 3)
        self.dense = keras.layers.Dense(units, "relu", name="dense")

    def build(self, input_shape):
        self.mixed = keras.layers.EinsumDense("abc,cd->abd", (None, 4))
        self.mixed.build(input_shape)
        shape = (*input_shape[:-1], 4)
        self.attention.build(shape, shape)
        self.dense.build(shape)

    def call(self, inputs):
        x = self.mixed(inputs)
        return self.dense(x + self.attention(x, x))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@REGISTER
class Reader(keras.Model):
    """A subclassed model with attention of its own, and inside a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.as_words = keras.layers.Reshape((INPUTS, 1))
        self.block = Attentive(5)
        self.attention = keras.layers.MultiHeadAttention(1, 2)
        self.flat = keras.layers.Flatten()
        self.last = keras.layers.Dense(CLASSES, name="last")

    def call(self, inputs):
        x = self.block(self.as_words(inputs))
        return self.last(self.flat(self.attention(x, x)))

    def get_config(self):
        return {"name": self.name}


@REGISTER
class Cell(keras.layers.Layer):
    """A recurrent cell with a dense layer in it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units
        self.dense = keras.layers.Dense(units, "tanh", name="of_cell")

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1] + self.units))

    def call(self, inputs, states):
        x = self.dense(keras.ops.concatenate([inputs, states[0]], -1))
        return x, [x]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@REGISTER
class Perceptron(keras.Model):
    """A subclassed model with layers of several kinds in attributes and a list."""

    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.blocks = [keras.layers.Dense(width, "relu"), keras.layers.BatchNormalization()]
        self.gated = Gated(8)
        self.inner = keras.Sequential([keras.layers.Dense(10, "tanh", name="inner_dense")])
        self.last = keras.layers.Dense(CLASSES, name="last_dense")

    def call(self, inputs, training=None):
        x = inputs
        for block in self.blocks:
            x = block(x)
        return self.last(self.inner(self.gated(x)))

    def get_config(self):
        return {"name": self.name, "width": self.width}


@REGISTER
class Nest(keras.Model):
    """A subclassed model that holds a graph, which holds a Sequential, which holds a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        inputs = keras.Input((INPUTS,))
        x = keras.layers.Dense(10, "relu", name="in_graph")(inputs)
        stack = [keras.Input((10,)), Gated(6), keras.layers.Dense(5, name="in_stack")]
        self.encoder = keras.Model(inputs, keras.Sequential(stack, name="stack")(x) * 2.0)
        self.heads = [keras.layers.Dense(CLASSES, name="head")]

    def call(self, inputs):
        return self.heads[0](self.encoder(inputs))

    def get_config(self):
        return {"name": self.name}


def sequential():
    return keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Dense(16, "relu", name="first"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(CLASSES, name="second"),
        ]
    )


def sequential_without_input():
    model = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dense(CLASSES)])
    model(X)
    return model


def shared():
    one, two = keras.Input((INPUTS,), name="one"), keras.Input((INPUTS,), name="two")
    dense = keras.layers.Dense(10, "relu", name="shared")
    x = keras.layers.Concatenate()([dense(one), dense(two), one])
    outputs = {
        "label": keras.layers.Dense(CLASSES, name="label")(x),
        "size": keras.layers.Dense(1, use_bias=False, name="size")(x),
    }
    return keras.Model([one, two], outputs)


def subclassed_with_models():
    model = Nest(name="nest")
    model(X)
    return model


def nested():
    inside = keras.Input((10,))
    x = keras.layers.Dense(8, "relu", name="inside")(inside)
    inner = keras.Model(inside, keras.layers.Add()([x, x]), name="inner")
    inputs = keras.Input((INPUTS,))
    x = keras.layers.Dense(10, "relu", name="outside")(inputs)
    x = keras.layers.Concatenate()([inner(x), inner(x * 2.0)])
    stack = keras.Sequential([keras.layers.Dense(6, name="stacked")], name="stack")
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="top")(stack(x)))


def custom_layer():
    inputs = keras.Input((INPUTS,))
    x = Gated(9, name="gated")(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="top")(x))


def attention():
    inputs = keras.Input((INPUTS,))
    x = Attentive(5, name="block")(keras.layers.Reshape((INPUTS, 1))(inputs))
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="top")(x))


def wrapped():
    return keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Reshape((4, 3)),
            keras.layers.TimeDistributed(Gated(5)),
            keras.layers.RNN(Cell(6)),
            keras.layers.Dense(CLASSES, name="top"),
        ]
    )


def model_in_graph():
    inputs = keras.Input((INPUTS,))
    return keras.Model(
        inputs, keras.layers.Dense(CLASSES, name="top")(Perceptron(name="in")(inputs))
    )


def subclassed_with_attention():
    model = Reader(name="reader")
    model(X)
    return model


def subclassed():
    model = Perceptron(name="perceptron")
    model(X)
    return model


KINDS = {
    "sequential": (sequential, 2),
    "sequential_without_input": (sequential_without_input, 2),
    "shared": (shared, 3),
    "nested": (nested, 4),
    "custom_layer": (custom_layer, 4),
    "attention": (attention, 2),
    "wrapped": (wrapped, 5),
    "model_in_graph": (model_in_graph, 7),
    "subclassed": (subclassed, 6),
    "subclassed_with_models": (subclassed_with_models, 6),
    "subclassed_with_attention": (subclassed_with_attention, 2),
}

OWN_CLASSES = (Gated, Attentive, Cell, Perceptron, Reader, Nest)


def made(kind):
    keras.utils.set_random_seed(0)
    model = KINDS[kind][0]()
    # Neither zeros in the biases nor the initial moving averages.
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0.1, 1.0, weight.shape) * np.where(weight.numpy() < 0, -1, 1))
    return model


def given(kind):
    return [X, X[::-1].copy()] if kind == "shared" else X


def results(model, kind):
    return keras.tree.flatten(model.predict(given(kind), verbose=0))


def turned_off(model, share=0.6, scaling=False):
    """Turn random switches off; in between, the gate may scale."""
    rng = np.random.default_rng(1)
    for layer in model.switched_layers():
        on = rng.uniform(size=layer.switches.shape)
        layer.switches.assign(np.where(on < share, 0.0, on if scaling else 1.0))
    return model


def classes_inside(model):
    return {type(layer) for layer in model._flatten_layers()}


@REGISTER
class Block(keras.layers.Layer):
    """Two dense layers of one shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(INPUTS, name="first")
        self.second = keras.layers.Dense(INPUTS, name="second")

    def call(self, inputs):
        return self.second(keras.ops.tanh(self.first(inputs)))


class Pair:
    """Two layers one after another, which its caller makes."""

    def __init__(self, first, second, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = first, second

    def call(self, inputs):
        return self.second(self.first(inputs))

    def get_config(self):
        parts = {"first": self.first, "second": self.second}
        parts = {n: keras.saving.serialize_keras_object(part) for n, part in parts.items()}
        return {**super().get_config(), **parts}

    @classmethod
    def from_config(cls, config):
        parts = {n: keras.saving.deserialize_keras_object(config.pop(n)) for n in PARTS}
        return cls(**parts, **config)


@REGISTER
class Chain(Pair, keras.layers.Layer):
    """The two as a layer."""


@REGISTER
class ChainModel(Pair, keras.Model):
    """The two as a model."""


PARTS = ("first", "second")


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
