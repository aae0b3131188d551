"""What task steps leave for the switcher's turn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import (
    CLASSES,
    INPUTS,
    always,
    are_identical,
    arrays,
    compiled,
    network,
    separable,
)

from keras_switcher import Alternation, SwitchedDense, SwitchedModel, switch

X, Y = separable()


def still(model, **options):
    """Compile so that no step moves a weight, and the switches stay as they are."""
    rates = {name: keras.optimizers.SGD(0.0) for name in ("optimizer", "switcher_optimizer")}
    return compiled(model, **{**rates, "target_sparsity": None, **options})


def vary(model):
    rng = np.random.default_rng(0)
    for layer in model.switched_layers():
        layer.switches.assign(rng.integers(0, 2, layer.switches.shape).astype("float32"))


def by_hand(model, x, y):
    """The gradient of the loss by the switches, at all weights as they are."""
    values = [layer.switches.value for layer in model.switched_layers()]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = model.loss(y, model(x, training=True))
    return tape.gradient(loss, values)


def kept(model):
    return [np.array(mean) for mean in model._switch_gradients.means()]


def assert_close(first, second):
    for one, other in zip(first, second, strict=True):
        assert np.any(other)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("granularity", ["connection", "block4", "unit"])
@pytest.mark.parametrize("run_eagerly", [True, False])
def test_they_are_the_mean_over_the_steps_since_the_last_turn(run_eagerly, granularity):
    model = still(
        network(granularity=granularity), alternation=always(100), run_eagerly=run_eagerly
    )
    vary(model)
    for part in range(4):
        model.train_on_batch(X[32 * part : 32 * part + 32], Y[32 * part : 32 * part + 32])
    assert_close(kept(model), by_hand(model, X, Y))


def test_a_turn_follows_them_and_takes_them():
    taken = []

    class Watched(SwitchedModel):
        def switcher_step(self, gradients):
            taken.append([np.array(gradient) for gradient in gradients])
            super().switcher_step(gradients)

    keras.utils.set_random_seed(0)
    inputs = keras.Input((INPUTS,))
    model = Watched(inputs, SwitchedDense(CLASSES)(SwitchedDense(8, "relu")(inputs)))
    compiled(model, alternation=always(2, switcher_steps=3), target_sparsity=None)
    before = arrays(model.switcher_variables)
    first, second = (X[:64], Y[:64]), (X[64:], Y[64:])
    of_first = by_hand(model, *first)
    model.train_on_batch(*first)
    assert taken == []
    of_second = by_hand(model, *second)
    model.train_on_batch(*second)
    assert len(taken) == 3
    # Each at the weights that its step found.
    assert_close(taken[0], [(one + two) / 2 for one, two in zip(of_first, of_second, strict=True)])
    for later in taken[1:]:
        for one, other in zip(taken[0], later, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not any(np.any(mean) for mean in kept(model))
    assert not are_identical(arrays(model.switcher_variables), before)
    assert int(model.switcher_optimizer.iterations) == 3


def test_what_the_switcher_descends_is_the_loss():
    # By steps that small, the loss falls by the square of the gradient's norm, times the rate.
    model = compiled(
        network(gate="relu_tanh"),
        optimizer=keras.optimizers.SGD(0.0),
        switcher_optimizer=keras.optimizers.SGD(1e-4),
        target_sparsity=None,
        alternation=always(),
    )
    model.alternation_state.offset.assign(2.0)
    model.train_on_batch(X, Y)

    def loss():
        return float(model.loss(Y, model(X)))

    variables = [v.value for v in model.switcher_variables]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        offset = float(model.alternation_state.offset)
        values = [
            (layer.switches, layer.gate(layer.compute_logits() + offset))
            for layer in model.switched_layers()
        ]
        with keras.StatelessScope(values):
            expected = model.loss(Y, model(X))
    gradients = tape.gradient(expected, variables)
    squared = sum(float(tf.reduce_sum(g**2)) for g in gradients)
    before = loss()
    model.train_on_batch(X, Y)
    assert loss() - before == pytest.approx(-1e-4 * squared, rel=0.1)


@pytest.mark.parametrize("phase", ["warmup", "settle"])
def test_nothing_is_kept_outside_of_the_alternation(phase):
    model = still(network(), alternation=always(100))
    if phase == "settle":
        model.settle()
    else:
        model.alternation_state.plan.assign((10, 20, 30))
    model.train_on_batch(X, Y)
    assert model.phase == phase
    assert not any(np.any(mean) for mean in kept(model))


def test_an_epoch_begins_without_those_of_the_one_before():
    model = still(network(), alternation=Alternation(1000, warmup=0.0, settle=0.0))
    model.fit(X, Y, batch_size=32, epochs=2, verbose=0)
    assert int(model._switch_gradients._steps) == 4


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_scaled_loss_leaves_its_own_gradients_and_none_of_a_step_that_overflows(dynamic):
    optimizer = (
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=1024.0)
        if dynamic
        else keras.optimizers.SGD(0.0, loss_scale_factor=1024.0)
    )
    model = still(network(), optimizer=optimizer, alternation=always(100))
    vary(model)
    model.train_on_batch(X, Y)
    assert_close(kept(model), by_hand(model, X, Y))
    if dynamic:
        model.train_on_batch(np.full_like(X, np.inf), Y)
        assert_close(kept(model), by_hand(model, X, Y))


@keras.saving.register_keras_serializable("test_gradients")
class Recomputed(keras.layers.Layer):
    """A block that computes its dense layer again for the gradient, or not."""

    def __init__(self, again, **kwargs):
        super().__init__(**kwargs)
        self.again = again
        self.dense = keras.layers.Dense(INPUTS, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return keras.remat(self.dense)(x) if self.again else self.dense(x)

    def get_config(self):
        return {**super().get_config(), "again": self.again}


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_layers_whose_switches_the_gradient_misses_are_named_once(run_eagerly, caplog):
    for again in (False, True):
        inputs = keras.Input((INPUTS,))
        block = Recomputed(again, name="block")(inputs)
        model = switch(keras.Model(inputs, keras.layers.Dense(CLASSES)(block)))
        compiled(model, alternation=always(100), run_eagerly=run_eagerly)
        for _ in range(2):
            model.train_on_batch(X, Y)
        assert [bool(np.any(total)) for total in kept(model)] == [not again, True]
        told = [m for m in caplog.messages if "not the switches of block/dense" in m]
        assert len(told) == again and len(caplog.messages) == again


@pytest.mark.parametrize("kind", ["twice", "inside", "unused"])
def test_a_layer_may_be_called_twice_lie_in_a_model_or_not_be_called(kind):
    class Odd(SwitchedModel):
        def __init__(self):
            super().__init__()
            self.hidden = SwitchedDense(INPUTS, "relu")
            if kind == "inside":
                self.hidden = keras.Sequential([keras.Input((INPUTS,)), self.hidden])
            self.unused = SwitchedDense(3)
            self.unused.build((None, INPUTS))
            self.out = SwitchedDense(CLASSES)

        def call(self, inputs, training=None):
            hidden = self.hidden(inputs)
            return self.out(self.hidden(hidden) if kind == "twice" else hidden)

    keras.utils.set_random_seed(0)
    model = Odd()
    model(X[:1])
    still(model, alternation=always(100))
    model.train_on_batch(X, Y)
    expected = by_hand(model, X, Y)
    assert sum(gradient is None for gradient in expected) == 1
    for mean, gradient in zip(kept(model), expected, strict=True):
        np.testing.assert_allclose(mean, 0.0 if gradient is None else gradient, atol=1e-6)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_a_model_that_its_first_step_builds_has_the_layers_of_training_alone(run_eagerly):
    class Lazy(SwitchedModel):
        def __init__(self):
            super().__init__()
            self.draws = keras.layers.Dropout(0.5, seed=0)
            self.out, self.auxiliary = SwitchedDense(CLASSES), SwitchedDense(CLASSES)

        def call(self, inputs, training=None):
            outputs = self.out(self.draws(inputs, training=training))
            return outputs + self.auxiliary(inputs) if training else outputs

    keras.utils.set_random_seed(0)
    model = compiled(Lazy(), alternation=always(3), run_eagerly=run_eagerly)
    model.fit(X, Y, batch_size=32, verbose=0)
    assert len(model.switched_layers()) == 2
    assert int(model.switcher_optimizer.iterations) == 1
    other = keras.layers.Dropout(0.5, seed=0)
    for _ in range(4):
        other(X, training=True)
    # Once in each step, and not by building.
    np.testing.assert_array_equal(model.draws.seed_generator.state, other.seed_generator.state)


def test_the_loss_may_have_weights_and_be_one_s_own():
    class Own(SwitchedModel):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return keras.ops.mean(sample_weight[:, None] * keras.ops.square(y_pred - x[:, :1]))

    inputs = keras.Input((INPUTS,))
    model = still(Own(inputs, SwitchedDense(CLASSES)(inputs)), alternation=always(100))
    vary(model)
    weight = np.arange(len(X), dtype="float32")
    model.train_on_batch(X, Y, sample_weight=weight)
    values = [layer.switches.value for layer in model.switched_layers()]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = tf.reduce_mean(weight[:, None] * (model(X) - X[:, :1]) ** 2)
    assert_close(kept(model), tape.gradient(loss, values))


def test_they_are_dropped_with_the_switches_that_they_are_by(tmp_path):
    model = still(network(), alternation=always(100))
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    for forget in (lambda: model.load_weights(path), lambda: still(model)):
        model.train_on_batch(X, Y)
        assert any(np.any(mean) for mean in kept(model))
        forget()
        assert not any(np.any(mean) for mean in kept(model))


def test_they_are_in_no_file(tmp_path):
    model = network()
    before = len(model.weights)
    still(model, alternation=always(100))
    model.train_on_batch(X, Y)
    assert len(model.weights) == before
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    names = [name for name, _ in tf.train.list_variables(path)]
    assert any("switches" in name or "kernel" in name for name in names)
    assert not any("gradients" in name for name in names)


def test_a_model_that_asks_for_none_keeps_none():
    class ByRule(SwitchedModel):
        learns_switches = False

        def switcher_step(self, gradients):
            assert gradients == []
            for layer in self.switched_layers():
                layer.switches.assign(layer.switches * 0.0)

    inputs = keras.Input((INPUTS,))
    model = ByRule(inputs, SwitchedDense(CLASSES)(inputs))
    compiled(model, alternation=always())
    model.train_on_batch(X, Y)
    assert model.sparsity == 1.0
    assert model._switch_gradients is None
