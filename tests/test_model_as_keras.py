"""`SwitchedModel` does what users of `keras.Model` expect of one."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import (
    CLASSES,
    INPUTS,
    are_identical,
    arrays,
    assert_identical,
    compiled,
    everything,
    network,
    separable,
    switches,
)

from keras_switcher import Alternation, SwitchedDense, SwitchedModel, strip, switch

X, Y = separable()


class OwnCall(SwitchedModel):
    """A subclass with two arguments of its own."""

    def __init__(self, units, classes, **kwargs):
        super().__init__(**kwargs)
        self.hidden = SwitchedDense(units, "relu", name="hidden")
        self.unused = SwitchedDense(3, name="unused")
        self.last = keras.layers.Dense(classes)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


class Used(OwnCall):
    """The same, without the layer that is not used."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.unused = None


def test_subclass_may_have_two_arguments_of_its_own():
    assert OwnCall(5, CLASSES)(X).shape == (len(X), CLASSES)
    assert OwnCall(5, classes=CLASSES)(X).shape == (len(X), CLASSES)


@pytest.mark.parametrize("is_built", [True, False])
def test_a_switched_layer_that_the_call_leaves_out_is_named(is_built):
    model = OwnCall(5, CLASSES)
    if is_built:
        model(X)
    with pytest.raises(ValueError, match=r"`call` .* use all .*Received: layers \['unused'\]"):
        compiled(model).fit(X, Y, verbose=0)


def test_a_model_that_is_not_built_says_how_it_gets_a_sparsity():
    model = OwnCall(5, CLASSES)
    for ask in (lambda: model.sparsity, model.settle):
        with pytest.raises(ValueError, match=r"call it on a batch.*Received: layers \['hidden', "):
            ask()


def test_arguments_of_fit_may_be_given_by_position():
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    model = compiled(network())
    history = model.fit(X, Y, 64, 3, 0, [callback])
    assert seen == history.epoch == [0, 1, 2]
    assert model.phase == "settle"
    with pytest.raises(TypeError, match="epoch"):
        model.fit(X, Y, epoch=3)


def test_loss_and_metrics_are_the_arguments_of_compile_that_they_are_in_keras():
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, None, ["accuracy"], target_sparsity=0.5, run_eagerly=True)
    assert {"accuracy", "loss"} <= model.train_on_batch(X, Y, return_dict=True).keys()


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_train_step_that_replaces_that_of_the_model_is_warned_of(epochs, caplog):
    class Own(SwitchedModel):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"loss": loss}

    inputs = keras.Input((INPUTS,))
    model = compiled(Own(inputs, SwitchedDense(CLASSES)(inputs)), metrics=None)
    model.fit(X, Y, epochs=epochs, verbose=0)
    (said,) = [r.getMessage() for r in caplog.records if "no turn" in r.msg]
    assert "`train_step` of Own replaces" in said and "super().train_step(data)" in said


def test_a_train_step_that_ends_in_that_of_the_model_trains_both_networks(caplog):
    class Own(SwitchedModel):
        def train_step(self, data):
            x, y = data
            return super().train_step((x + 1, y))

    inputs = keras.Input((INPUTS,))
    model = compiled(Own(inputs, SwitchedDense(CLASSES)(inputs)))
    model.fit(X, Y, epochs=2, verbose=0)
    assert model.sparsity == pytest.approx(0.5, abs=0.02)
    assert "no turn" not in caplog.text


def test_a_loop_of_ones_own_goes_through_the_phases_of_fit():
    course = Alternation(task_steps=2, warmup=0.25, settle=0.5)
    by_fit, by_hand = (compiled(network(), alternation=course) for _ in range(2))
    by_fit.fit(X, Y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    phases = []
    settle = by_hand.plan_phases(np.int64(8))
    for step in range(8):
        if step == settle:
            by_hand.settle()
        phases.append(by_hand.phase)
        part = slice(32 * (step % 4), 32 * (step % 4 + 1))
        by_hand.train_on_batch(X[part], Y[part])
    assert phases == ["warmup"] * 2 + ["alternate"] * 2 + ["settle"] * 4
    assert_identical(everything(by_hand), everything(by_fit))


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, None])
def test_phases_of_no_number_of_steps_are_refused(steps):
    with pytest.raises(ValueError, match=r"integer `total_steps` >= 1. Received: total_steps="):
        network().plan_phases(steps)


def test_a_loss_of_a_subclass_may_be_without_the_argument_training():
    class Own(SwitchedModel):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return 2 * super().compute_loss(x, y, y_pred, sample_weight)

    inputs = keras.Input((INPUTS,))
    losses = []
    for kind in (SwitchedModel, Own):
        keras.utils.set_random_seed(0)
        model = compiled(kind(inputs, SwitchedDense(CLASSES)(inputs)))
        losses.append(model.fit(X, Y, verbose=0).history["loss"][0])
    assert losses[1] > 1.5 * losses[0]


def test_one_optimizer_for_both_networks_is_refused():
    optimizer = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="of its own for the switchers.*same instance"):
        compiled(network(), optimizer=optimizer, switcher_optimizer=optimizer)
    compiled(network(), optimizer="adam", switcher_optimizer="adam").train_on_batch(X, Y)


@pytest.mark.parametrize("duplicate", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy])
def test_a_functional_model_can_be_pickled_and_copied(duplicate):
    class Named(SwitchedModel):
        pass

    keras.saving.register_keras_serializable("test_model_as_keras")(Named)
    inputs = keras.Input((INPUTS,))
    for model in (
        network(),
        Named(inputs, SwitchedDense(CLASSES)(inputs)),
        switch(keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(CLASSES)])),
    ):
        compiled(model).fit(X, Y, epochs=2, verbose=0)
        other = duplicate(model)
        assert type(other) is type(model)
        assert_identical(arrays(other.weights), arrays(model.weights))
        np.testing.assert_array_equal(other(X), model(X))


@pytest.mark.parametrize(
    ("granularity", "target"), [("unit", 0.5), ("unit", 0.8), ("unit", 0.9), ("connection", 0.9)]
)
def test_a_settled_model_that_is_compiled_again_stays_settled_at_its_target(granularity, target):
    keras.utils.set_random_seed(0)
    given = keras.Input((6,))
    x = given
    for units in (8, 5):
        x = SwitchedDense(units, "relu", granularity=granularity)(x)
    model = SwitchedModel(given, SwitchedDense(CLASSES, granularity=granularity)(x))
    data = separable(inputs=6)
    compiled(model, target_sparsity=target).fit(*data, epochs=3, verbose=0)
    structure = switches(model)
    # What rounding to groups leaves must be no reason to begin again.
    assert granularity == "connection" or abs(model.sparsity - target) > 0.005

    assert compiled(model, target_sparsity=target).phase == "settle"
    model.fit(*data, epochs=2, verbose=0)
    assert_identical(switches(model), structure)
    assert compiled(model, target_sparsity=0.3).phase != "settle"


def layers(dense):
    return [
        keras.Input((6, 6, 1)),
        keras.layers.Conv2D(3, 3),
        keras.layers.BatchNormalization(),
        keras.layers.Flatten(),
        dense(8, activation="relu"),
        dense(3),
    ]


def save(model, path):
    if path.suffix == ".json":
        # In gigabytes: a file for every few thousand bytes.
        model.save_weights(path, max_shard_size=5e-6)
    elif path.suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)


@pytest.mark.parametrize("name", ["plain.weights.h5", "plain.keras", "plain.weights.json"])
def test_weights_of_a_dense_model_load(tmp_path, name):
    plain = keras.Sequential(layers(keras.layers.Dense))
    plain.get_layer(index=1).moving_mean.assign([1.0, 2.0, 3.0])
    save(plain, tmp_path / name)
    switched = switch(keras.Sequential(layers(keras.layers.Dense)))
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("float32")
    assert not np.array_equal(switched.predict(x, verbose=0), plain.predict(x, verbose=0))
    before = arrays(switched.switcher_variables)
    switched.load_weights(tmp_path / name)
    np.testing.assert_array_equal(switched.predict(x, verbose=0), plain.predict(x, verbose=0))
    assert_identical(arrays(switched.switcher_variables), before)


def test_weights_of_a_dense_model_load_where_a_switched_model_is_a_layer(tmp_path):
    def nested():
        inputs, outer = keras.Input((INPUTS,)), keras.Input((INPUTS,))
        inner = SwitchedModel(inputs, SwitchedDense(16, "relu")(inputs))
        return SwitchedModel(outer, SwitchedDense(CLASSES)(inner(outer)))

    model, other = nested(), nested()
    strip(model).save_weights(tmp_path / "plain.weights.h5")
    assert not np.array_equal(other(X), model(X))
    other.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_array_equal(other(X), model(X))


@pytest.mark.parametrize("name", ["own.weights.h5", "own.keras", "own.weights.json"])
def test_weights_of_a_switched_model_load(tmp_path, name):
    model, other = network(), network(seed=1)
    compiled(model).fit(X, Y, epochs=2, verbose=0)
    save(model, tmp_path / name)
    assert not are_identical(arrays(other.weights), arrays(model.weights))
    other.load_weights(tmp_path / name)
    assert_identical(arrays(other.weights), arrays(model.weights))


def test_a_model_without_an_optimiser_can_be_evaluated_alone(tmp_path):
    model = network()
    model.compile(None, "sparse_categorical_crossentropy", metrics=["accuracy"])
    expected = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert expected["sparsity"] == 0.0
    with pytest.raises(ValueError, match="Expected an optimiser: with compile.optimizer=None"):
        model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "a.weights.h5")
    model.load_weights(tmp_path / "a.weights.h5")
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert loaded.evaluate(X, Y, verbose=0, return_dict=True) == expected
    with pytest.raises(ValueError, match="Expected `switcher_optimizer` to be a name"):
        model.compile("adam", "mse", switcher_optimizer=None)


def test_a_graph_of_mixed_precision_is_loaded_as_one_whatever_the_policy(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(network())
    finally:
        keras.config.set_dtype_policy("float32")
    model.fit(X, Y, epochs=1, verbose=0)
    model.save(tmp_path / "mixed.keras")
    for other in (keras.models.load_model(tmp_path / "mixed.keras"), copy.deepcopy(model)):
        assert other.dtype_policy.name == "mixed_float16"
        assert_identical(arrays(other.optimizer.variables), arrays(model.optimizer.variables))


def test_weights_of_another_model_are_refused(tmp_path):
    other = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    other.save_weights(tmp_path / "other.weights.h5")
    switched = switch(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    with pytest.raises(ValueError):
        switched.load_weights(tmp_path / "other.weights.h5")


def test_a_model_that_makes_its_own_switched_layers_says_why_it_takes_no_dense_weights(tmp_path):
    model = Used(5, CLASSES)
    model(X)
    keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(3)]).save_weights(
        tmp_path / "plain.weights.h5"
    )
    with pytest.raises(ValueError, match="'.*', a Used.*makes its layers itself.*switch"):
        model.load_weights(tmp_path / "plain.weights.h5")
