"""What `switch` and `strip` keep of a model beside its weights, and what of a model inside it."""

import logging

import keras
import numpy as np
import pytest
from kinds_of_models import REGISTER, X, classes_inside, turned_off
from small import CLASSES, INPUTS, compiled, network

from keras_switcher import SwitchedDense, SwitchedModel, strip, switch
from keras_switcher.layers import switched_layers
from keras_switcher.nesting import walk

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


@REGISTER
class Block(keras.layers.Layer):
    """Two dense layers of one shape."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(INPUTS, name="first")
        self.second = keras.layers.Dense(INPUTS, name="second")

    def call(self, inputs):
        return self.second(keras.ops.tanh(self.first(inputs)))


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


def test_what_no_file_can_hold_is_warned_of(caplog):
    inputs = keras.Input((INPUTS,))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(norm_of_blocks(inputs)))
    model(X)
    switch(model)
    assert "not load, a model whose layer stands in several other layers" in caplog.text
    caplog.clear()
    switch(in_graph())
    assert not caplog.records


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
