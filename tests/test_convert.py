import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from small import CLASSES, INPUTS, are_identical, arrays, assert_identical, compiled, separable

from keras_switcher import SwitchedDense, SwitchedModel, strip, switch

X, Y = separable(64)
REGISTER = keras.saving.register_keras_serializable("test_convert")


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
    "subclassed": (subclassed, 6),
    "subclassed_with_models": (subclassed_with_models, 6),
}


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


@pytest.mark.parametrize("kind", KINDS)
def test_switched_model_hits_its_target(kind):
    model = made(kind)
    switched = compiled(switch(model), loss="mse", metrics=None, target_sparsity=0.5)
    y = {"label": np.eye(CLASSES)[Y], "size": Y} if kind == "shared" else np.eye(CLASSES)[Y]
    switched.fit(given(kind), y, epochs=4, verbose=0)
    assert switched.sparsity == pytest.approx(0.5, abs=0.005)


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


def one_layer(layer):
    inputs = keras.Input((INPUTS,))
    return keras.Model(inputs, layer(inputs), name="small")


def test_model_without_dense_layers_is_refused():
    with pytest.raises(ValueError, match=r"no Dense layer to switch in model 'small'.*Rescaling"):
        switch(one_layer(keras.layers.Rescaling(2.0)))


def test_predicate_that_chooses_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no Dense layer to switch.*'first', 'second'"):
        switch(made("sequential"), lambda layer: False)


def test_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"named \['third'\].*\['first', 'second'\].*Received"):
        switch(made("sequential"), ["first", "third"])


@pytest.mark.parametrize("function", [switch, strip])
def test_unbuilt_model_is_refused(function):
    with pytest.raises(ValueError, match="is not built.*call it on a batch"):
        function(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="is not built.*an unbuilt Perceptron"):
        function(Perceptron())


@pytest.mark.parametrize("function", [switch, strip])
@pytest.mark.parametrize("thing", [keras.layers.Dense(3), "model", None])
def test_what_is_no_model_is_refused(function, thing):
    with pytest.raises(TypeError, match=r"expects a keras\.Model\. Received: .*of type"):
        function(thing)


@REGISTER
class Doubled(keras.layers.Dense):
    """A subclass of Dense whose code a switched layer would lose."""

    def call(self, inputs):
        return 2.0 * super().call(inputs)


def test_subclass_of_dense_is_refused_by_name_and_left_alone_otherwise():
    inputs = keras.Input((INPUTS,))
    x = Doubled(5, name="doubled")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="plain")(x))
    with pytest.raises(ValueError, match="'doubled'.*Doubled, a subclass of Dense"):
        switch(model, "doubled")
    assert [layer.name for layer in switch(model).switched_layers()] == ["plain"]


def test_layer_with_lora_is_refused():
    dense = keras.layers.Dense(5, name="adapted")
    model = one_layer(dense)
    dense.enable_lora(2)
    with pytest.raises(ValueError, match="'adapted'.*LoRA is enabled"):
        switch(model)


def test_quantised_layer_is_refused():
    dense = keras.layers.Dense(5, name="small_numbers")
    model = one_layer(dense)
    dense.quantize("int8")
    with pytest.raises(ValueError, match=r"'small_numbers'.*quantised \(int8\)"):
        switch(model)


def test_layer_that_is_switched_already_is_refused():
    switched = switch(made("sequential"), "first")
    with pytest.raises(ValueError, match="'first'.*switched already"):
        switch(switched, "first")
    again = switch(switched)
    assert {layer.name for layer in again.switched_layers()} == {"first", "second"}


@REGISTER
class InTuple(keras.Model):
    """Holds a layer where it can't be replaced."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pair = (keras.layers.Dense(5, name="in_tuple"), keras.layers.Dense(CLASSES))

    def call(self, inputs):
        return self.pair[1](self.pair[0](inputs))

    def get_config(self):
        return {}


def test_layer_in_a_tuple_is_refused():
    model = InTuple()
    model(X)
    with pytest.raises(ValueError, match="'in_tuple'.*tuple.*Hold it in a list"):
        switch(model, "in_tuple")


class NoConfig(keras.Model):
    """Can't make a copy of itself."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


def test_model_that_does_not_come_back_from_its_configuration_is_refused():
    model = NoConfig(4)
    model(X)
    with pytest.raises(ValueError, match="a NoConfig.*Implement get_config"):
        switch(model)


@REGISTER
class Late(keras.Model):
    """Creates its layer when it is built."""

    def build(self, input_shape):
        self.dense = keras.layers.Dense(4, name="late")
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {}


def test_layer_that_is_not_created_in_init_is_refused():
    model = Late()
    model(X)
    with pytest.raises(ValueError, match="'late' at 'dense'.*not created in __init__"):
        switch(model)


@pytest.mark.parametrize("scaling", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_stripped_model_is_plain_keras_and_predicts_the_same(kind, scaling):
    gate = "relu_tanh" if scaling else "step"
    switched = turned_off(switch(made(kind), gate=gate, granularity="block4"), scaling=scaling)
    before = arrays(switched.weights)
    stripped = strip(switched)
    assert not isinstance(stripped, SwitchedModel)
    assert not any("keras_switcher" in cls.__module__ for cls in classes_inside(stripped))
    assert "keras_switcher" not in stripped.to_json()
    assert_identical(arrays(switched.weights), before)
    for own, other in zip(results(stripped, kind), results(switched, kind), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-6)
    # Nothing but the masked kernels makes this so: all on, the predictions are others.
    assert not are_identical(results(stripped, kind), results(made(kind), kind))


@pytest.mark.parametrize("granularity", ["connection", "block4", "block16", "unit"])
def test_kernels_of_a_stripped_model_have_exact_zeros_where_connections_are_off(granularity):
    switched = turned_off(switch(made("sequential"), granularity=granularity))
    stripped = strip(switched)
    zeros = total = 0
    for layer in switched.switched_layers():
        kernel = np.array(stripped.get_layer(layer.name).kernel)
        mask = np.broadcast_to(layer.expanded_switches(), kernel.shape)
        np.testing.assert_array_equal(kernel == 0.0, mask == 0.0)
        np.testing.assert_array_equal(kernel[mask > 0], np.array(layer.kernel)[mask > 0])
        zeros, total = zeros + np.sum(kernel == 0.0), total + kernel.size
    assert zeros / total == pytest.approx(switched.sparsity)


def test_scales_of_the_gate_end_up_in_the_stripped_kernels():
    switched = turned_off(switch(made("sequential"), gate="relu_tanh"), scaling=True)
    (layer, _), stripped = switched.switched_layers(), strip(switched)
    kernel = np.array(layer.kernel) * np.array(layer.switches)
    np.testing.assert_array_equal(stripped.get_layer(layer.name).kernel, kernel)
    assert np.any((np.array(layer.switches) > 0) & (np.array(layer.switches) < 1))


@pytest.mark.parametrize("kind", ["sequential", "subclassed"])
def test_trained_model_is_stripped_with_its_moving_averages(kind):
    switched = compiled(switch(made(kind)), target_sparsity=0.7)
    switched.fit(X, Y, epochs=4, verbose=0)
    stripped = strip(switched)
    expected = switched.predict(X, verbose=0)
    np.testing.assert_allclose(stripped.predict(X, verbose=0), expected, rtol=1e-6, atol=1e-6)
    kernels = [
        layer.kernel for layer in stripped._flatten_layers() if type(layer) is keras.layers.Dense
    ]
    zeros = sum(int(np.sum(np.array(kernel) == 0)) for kernel in kernels)
    share = zeros / sum(np.prod(kernel.shape) for kernel in kernels)
    assert share == pytest.approx(0.7, abs=0.005)


@pytest.mark.parametrize("is_subclassed", [False, True])
def test_adapted_normalisation_survives_switch_and_strip(is_subclassed):
    data = np.random.default_rng(0).normal(3, 5, (100, 6)).astype("float32")
    normalize = keras.layers.Normalization()
    normalize.adapt(data)
    given = keras.Input((6,))
    model = keras.Model(given, keras.layers.Dense(3)(normalize(given)))
    if is_subclassed:
        model = Wrapped(model.get_config())
        model.network.set_weights([*normalize.get_weights(), np.ones((6, 3)), np.zeros(3)])
        model.network.layers[1].finalize_state()
        model(data)
    expected = model(data)
    switched = switch(model)
    np.testing.assert_array_equal(switched(data), expected)
    np.testing.assert_array_equal(strip(switched)(data), expected)


@keras.saving.register_keras_serializable("tests")
class Wrapped(keras.Model):
    """A subclassed model around a graph of layers."""

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network_config = network
        self.network = keras.Model.from_config(network)

    def call(self, inputs):
        return self.network(inputs)

    def get_config(self):
        return {"network": self.network_config}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_survives_switch_and_strip(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = made("sequential")
        switched = switch(model)
        assert_identical(results(switched, "sequential"), results(model, "sequential"))
        stripped = strip(turned_off(switched))
    finally:
        keras.config.set_dtype_policy("float32")
    assert stripped.get_layer("first").dtype_policy.name == policy
    assert stripped.get_layer("first").kernel.dtype == "float32"
    (own,), (other,) = results(stripped, "sequential"), results(switched, "sequential")
    np.testing.assert_allclose(own, other, rtol=1e-2)


def test_strip_of_a_functional_model_built_by_hand():
    inputs = keras.Input((INPUTS,))
    x = SwitchedDense(8, "relu")(keras.layers.Dense(9)(inputs))
    model = turned_off(SwitchedModel(inputs, SwitchedDense(CLASSES)(x)))
    stripped = strip(model)
    assert type(stripped) is type(keras.Model(inputs, x))
    np.testing.assert_allclose(stripped(X), model(X), rtol=1e-6, atol=1e-6)


def test_switched_layers_in_a_plain_model_are_stripped_too():
    inputs = keras.Input((INPUTS,))
    model = keras.Model(inputs, SwitchedDense(CLASSES, name="only")(inputs))
    layer = model.get_layer("only")
    layer.switches.assign(np.eye(*layer.switches.shape))
    stripped = strip(model)
    assert type(stripped.get_layer("only")) is keras.layers.Dense
    np.testing.assert_allclose(stripped(X), model(X), rtol=1e-6, atol=1e-6)


def test_strip_of_a_model_without_switched_layers_is_refused():
    with pytest.raises(ValueError, match="no SwitchedDense layer: there is nothing to strip"):
        strip(made("sequential"))


LOAD = """
import sys
sys.modules["keras_switcher"] = None  # From here on, importing it raises ImportError.
import keras
import numpy as np

paths = sys.argv[1:]
for path in paths:
    if "subclassed" in path or "custom_layer" in path:
        register = keras.saving.register_keras_serializable("test_convert")
        exec({classes!r})
    model = keras.saving.load_model(path)
    inputs = np.load(path + ".npz")
    x = [inputs[name] for name in sorted(inputs.files)]
    outputs = keras.tree.flatten(model.predict(x if len(x) > 1 else x[0], verbose=0))
    np.savez(path + ".out.npz", *outputs)
try:
    import keras_switcher
except ImportError:
    print("blocked")
"""


def class_source():
    """The source of the custom classes, for a process that can't import this module."""
    sources = [inspect.getsource(cls) for cls in (Gated, Perceptron, Nest)]
    return f"CLASSES, INPUTS = {CLASSES}, {INPUTS}\n" + "\n".join(sources).replace(
        "@REGISTER", "@register"
    )


@pytest.mark.slow
def test_saved_stripped_files_load_where_this_package_can_not_be_imported(tmp_path):
    expected = {}
    for kind in KINDS:
        stripped = strip(turned_off(switch(made(kind))))
        path = tmp_path / f"{kind}.keras"
        stripped.save(path)
        x = given(kind)
        np.savez(f"{path}.npz", *(x if isinstance(x, list) else [x]))
        expected[path] = results(stripped, kind)
    script = LOAD.format(classes=class_source())
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, expected)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "blocked"
    for path, values in expected.items():
        outputs = np.load(f"{path}.out.npz")
        for name, value in zip(sorted(outputs.files), values, strict=True):
            np.testing.assert_allclose(outputs[name], value, rtol=1e-6, atol=1e-6)


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
