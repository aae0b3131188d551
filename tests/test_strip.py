import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from kinds_of_models import (
    KINDS,
    OWN_CLASSES,
    X,
    Y,
    classes_inside,
    given,
    made,
    results,
    turned_off,
)
from small import CLASSES, INPUTS, are_identical, arrays, assert_identical, compiled

from keras_switcher import SwitchedDense, SwitchedModel, strip, switch


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [*((kind, False) for kind in KINDS), ("nested", True), ("subclassed", True)],
)
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
    if not any(kind in path for kind in ("sequential", "shared", "nested")):
        register = keras.saving.register_keras_serializable("kinds_of_models")
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
    sources = [inspect.getsource(cls) for cls in OWN_CLASSES]
    return f"CLASSES, INPUTS = {CLASSES}, {INPUTS}\n" + "\n".join(sources).replace(
        "@REGISTER", "@register"
    )


@pytest.mark.slow
def test_saved_stripped_files_load_where_this_package_can_not_be_imported(tmp_path):
    expected = {}
    for kind in ("shared", "nested", "custom_layer", "subclassed", "subclassed_with_attention"):
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
