"""A model that is compiled again, or built after it was compiled."""

import keras
import numpy as np
import pytest
from small import Own, always, compiled, network, separable, switches

from keras_switcher import SwitchedDense, SwitchedModel
from keras_switcher.compare.pruned import PrunedModel, uniform

X, Y = separable()


def settled(target: float) -> SwitchedModel:
    model = compiled(network(units=(64, 32)), target_sparsity=target, alternation=always())
    model.fit(X, Y, epochs=1, verbose=0)
    model.settle()
    return model


@pytest.mark.parametrize("scales", [True, False])
def test_both_optimisers_scale_the_loss_or_neither_does(scales):
    model = network()
    model.dtype_policy = keras.dtype_policies.get("mixed_float16")
    compiled(model, auto_scale_loss=scales)
    for optimizer in (model.optimizer, model.switcher_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == scales


def test_another_target_starts_the_course_again_however_near_it_is():
    model = settled(0.96)
    compiled(model, target_sparsity=0.96)
    assert model.phase == "settle"
    compiled(model, target_sparsity=0.964)
    assert model.phase != "settle"
    model = settled(0.2)
    compiled(model, target_sparsity=0.2)
    assert model.phase == "settle"
    compiled(model, target_sparsity=0.2075)
    assert model.phase != "settle"


@pytest.mark.parametrize("target", [0.5, 0.75, 0.85])
def test_a_structure_that_a_rule_has_rounded_in_each_layer_stays(target):
    inputs = keras.Input((6,))
    x = inputs
    for units in (67, 83, 59, 71, 53, 61, 3):
        x = SwitchedDense(units, "relu")(x)
    model = compiled(PrunedModel(inputs, x, rule=uniform), target_sparsity=target)
    model.settle()
    compiled(model, target_sparsity=target)
    assert model.phase == "settle"


def test_weights_that_settled_at_another_target_are_warned_of(tmp_path, caplog):
    settled(0.5).save_weights(tmp_path / "half.weights.h5")
    model = compiled(network(units=(64, 32)), target_sparsity=0.9, alternation=always())
    model.load_weights(tmp_path / "half.weights.h5")
    model.fit(X, Y, epochs=1, verbose=0)
    assert "had settled at sparsity 0.50" in caplog.text
    assert "compile() the model after the weights are loaded" in caplog.text
    caplog.clear()
    compiled(model, target_sparsity=0.9, alternation=always())
    model.fit(X, Y, epochs=2, verbose=0)
    settled(0.9).fit(X, Y, epochs=1, verbose=0)
    assert "had settled" not in caplog.text


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
