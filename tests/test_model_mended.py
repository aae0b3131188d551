"""What goes wrong with models that are more than the plain case: each was a bug once."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import CLASSES, INPUTS, always, compiled, network, separable, switches

from keras_switcher import SwitchedDense, SwitchedModel, strip, switch

X, Y = separable()


class Own(SwitchedModel):
    def __init__(self):
        super().__init__()
        self.hidden = SwitchedDense(16, "relu")
        self.last = SwitchedDense(CLASSES)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


def with_prelu() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((INPUTS,))
    hidden = keras.layers.Dense(16, activation=keras.layers.PReLU())(inputs)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden))
    model.predict(X, verbose=0)
    for layer in model.layers[1:2]:
        layer.activation.alpha.assign(np.linspace(-3, 3, 16))
    return model


def test_an_activation_with_weights_keeps_them():
    model = with_prelu()
    expected = model.predict(X, verbose=0)
    switched = switch(model)
    np.testing.assert_allclose(switched.predict(X, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(strip(switched).predict(X, verbose=0), expected, atol=1e-5)


def test_an_activation_with_weights_is_trained():
    inputs = keras.Input((INPUTS,))
    hidden = SwitchedDense(16, keras.layers.PReLU())(inputs)
    model = compiled(SwitchedModel(inputs, SwitchedDense(CLASSES)(hidden)))
    model.fit(X, Y, epochs=2, verbose=0)
    (alpha,) = model.layers[1].activation.weights
    assert np.abs(keras.ops.convert_to_numpy(alpha)).max() > 0


def test_a_subclass_that_passes_the_graph_on_leaves_the_other_subclasses_as_they_are():
    class Graph(SwitchedModel):
        def __init__(self, units):
            inputs = keras.Input((INPUTS,))
            super().__init__(inputs, SwitchedDense(CLASSES)(SwitchedDense(units)(inputs)))

    bases = SwitchedModel.__bases__
    model = compiled(Graph(8))
    assert isinstance(model, Graph)
    model.fit(X, Y, epochs=1, verbose=0)
    assert SwitchedModel.__bases__ == bases
    compiled(Own()).fit(X, Y, epochs=1, verbose=0)


def settled(target: float) -> SwitchedModel:
    model = compiled(network(units=(64, 32)), target_sparsity=target, alternation=always())
    model.fit(X, Y, epochs=1, verbose=0)
    model.settle()
    return model


def test_another_target_starts_the_course_again_however_near_it_is():
    model = settled(0.96)
    compiled(model, target_sparsity=0.96)
    assert model.phase == "settle"
    compiled(model, target_sparsity=0.964)
    assert model.phase != "settle"


def test_compiling_to_evaluate_in_the_middle_leaves_the_switches():
    model = compiled(network(), alternation=always())
    model.train_on_batch(X, Y)
    layer = model.switched_layers()[0]
    layer.switches.assign(np.eye(*layer.switches.shape))
    before = model.sparsity
    compiled(model, target_sparsity=None)
    assert model.sparsity == before


def test_the_course_starts_again_from_a_dense_network():
    model = settled(0.9)
    assert model.sparsity > 0.8
    compiled(model, target_sparsity=0.5)
    assert model.sparsity == 0.0
    model.predict(X, verbose=0)
    assert all(np.all(array == 1) for array in switches(model))


@pytest.mark.parametrize("floatx", ["float64", "bfloat16"])
def test_another_floatx_trains(floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        model = compiled(network(), alternation=always())
        model.fit(X, Y, epochs=1, verbose=0)
        assert 0.4 < model.sparsity < 0.6
    finally:
        keras.config.set_floatx(before)


def test_metrics_are_where_the_model_is(monkeypatch):
    devices = []
    model = compiled(network(), run_eagerly=False)
    monkeypatch.setattr(
        "keras_switcher.model.tf.device",
        lambda name: devices.append(name) or tf.name_scope("here"),
    )
    model.fit(X, Y, epochs=1, verbose=0)
    assert devices == [model.alternation_state.offset.value.device]


def test_weights_that_are_loaded_after_a_late_build_are_not_overwritten(tmp_path):
    first = Own()
    compiled(first, target_sparsity=0.9, alternation=always())
    first.fit(X, Y, epochs=4, verbose=0)
    first.save_weights(tmp_path / "middle.weights.h5")
    second = Own()
    compiled(second, target_sparsity=0.9, alternation=always())
    second(X)
    second.load_weights(tmp_path / "middle.weights.h5")
    offset = float(second.alternation_state.offset.value)
    assert offset == float(first.alternation_state.offset.value)
    assert int(second.optimizer.iterations) == int(first.optimizer.iterations)
    second.make_train_function()
    assert float(second.alternation_state.offset.value) == offset


def test_the_units_of_an_output_layer_in_a_wrapper_are_classes_too():
    inputs = keras.Input((5, INPUTS))
    hidden = keras.layers.Dense(16)(inputs)
    model = keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(CLASSES))(hidden))
    (layer,) = switch(model, granularity="unit").switched_layers()
    assert layer.units == 16


def test_the_policy_is_that_of_the_model_and_not_of_the_moment():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((INPUTS,))
        model = keras.Model(inputs, keras.layers.Dense(CLASSES)(inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    switched = switch(model)
    switched.compile("adam", loss="mse")
    for optimizer in (switched.optimizer, switched.switcher_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert strip(switched).dtype_policy.name == "mixed_float16"


def test_a_switched_model_is_not_quantised():
    model = network()
    with pytest.raises(NotImplementedError, match="strip"):
        model.quantize("int8")
