import keras
import numpy as np
import pytest
from small import (
    CLASSES,
    INPUTS,
    always,
    are_identical,
    arrays,
    assert_identical,
    compiled,
    everything,
    network,
    only_warmup,
    separable,
    switches,
)

from keras_switcher import Alternation, SwitchedDense, SwitchedModel, switch

X, Y = separable()


class OwnCall(SwitchedModel):
    """A subclass that never sees a graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = SwitchedDense(16, "relu")
        self.outputs_layer = SwitchedDense(CLASSES)

    def call(self, inputs, training=None):
        return self.outputs_layer(self.hidden(inputs))


def graph(**layer):
    """A graph with batch normalisation and dropout below and above the first switched layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((INPUTS,))
    x = keras.layers.Dense(10, "relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.2, seed=1)(x)
    x = SwitchedDense(16, "relu", **layer)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.2, seed=2)(x)
    return SwitchedModel(inputs, SwitchedDense(CLASSES, **layer)(x))


def task_state(model):
    """What only a task step may change: all weights but switchers, switches and the state."""
    ours = [*model.switcher_variables, *model.alternation_state.weights]
    ours += [layer.switches for layer in model.switched_layers()]
    known = {id(v) for v in ours}
    return arrays(v for v in model.weights if id(v) not in known)


def test_functional_model_trains_to_its_target():
    model = compiled(network())
    model.fit(X, Y, epochs=3, verbose=0)
    assert model.sparsity == pytest.approx(0.5, abs=0.005)
    assert isinstance(model, SwitchedModel)
    assert [layer.name for layer in model.layers if isinstance(layer, SwitchedDense)]


def test_functional_model_takes_keyword_inputs_and_outputs():
    inputs = keras.Input((INPUTS,))
    outputs = SwitchedDense(CLASSES)(inputs)
    model = SwitchedModel(inputs=inputs, outputs=outputs, name="by_keyword")
    assert model.name == "by_keyword"
    assert model.predict(X, verbose=0).shape == (len(X), CLASSES)


def test_subclass_with_its_own_call_works_after_a_functional_instance_was_made():
    network()
    keras.utils.set_random_seed(0)
    model = compiled(OwnCall())
    expected = model.hidden(X)
    np.testing.assert_array_equal(model(X), model.outputs_layer(expected))
    model.fit(X, Y, epochs=3, verbose=0)
    assert model.sparsity == pytest.approx(0.5, abs=0.01)


def test_subclass_that_is_first_built_by_fit_trains_both_networks():
    keras.utils.set_random_seed(0)
    model = OwnCall()
    assert not model.built
    compiled(model, alternation=Alternation(task_steps=1))
    model.fit(X, Y, epochs=3, verbose=0)
    assert model.phase == "settle"
    assert int(model.optimizer.iterations) == 12
    assert int(model.switcher_optimizer.iterations) == 6
    assert len(model.optimizer.variables) == 2 + 2 * len(model.task_variables)


def test_subclass_that_makes_its_layers_when_it_is_built_trains():
    class Late(SwitchedModel):
        def build(self, shape):
            self.hidden, self.last = SwitchedDense(8, "relu"), SwitchedDense(CLASSES)

        def call(self, inputs):
            return self.last(self.hidden(inputs))

    # Only while a function is traced have new variables no values yet.
    by_fit, by_batch = (compiled(Late(), run_eagerly=False) for _ in range(2))
    by_fit.fit(X, Y, epochs=3, verbose=0)
    assert by_fit.sparsity == pytest.approx(0.5, abs=0.01)
    assert np.isfinite(by_batch.train_on_batch(X, Y)).all()


def test_functional_subclass_keeps_its_class_and_methods():
    class Named(SwitchedModel):
        def greeting(self):
            return "hello"

    inputs = keras.Input((INPUTS,))
    model = Named(inputs, SwitchedDense(CLASSES)(inputs))
    assert isinstance(model, Named) and model.greeting() == "hello"


def test_model_made_by_switch_trains_to_its_target():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, "relu"), keras.layers.Dense(CLASSES)]
    model = compiled(switch(keras.Sequential([keras.Input((INPUTS,)), *layers])))
    model.fit(X, Y, epochs=3, verbose=0)
    assert model.sparsity == pytest.approx(0.5, abs=0.005)


def test_task_step_moves_no_switcher_variable():
    model = compiled(graph(), alternation=always(task_steps=2))
    before = arrays(model.switcher_variables) + switches(model)
    optimizer = arrays(model.switcher_optimizer.variables)
    task = task_state(model)
    model.train_on_batch(X, Y)
    assert_identical(arrays(model.switcher_variables) + switches(model), before)
    assert_identical(arrays(model.switcher_optimizer.variables), optimizer)
    for old, new in zip(task, task_state(model), strict=True):
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_switcher_step_moves_no_task_variable_and_no_moving_average(run_eagerly):
    options = {"run_eagerly": run_eagerly}
    with_turn = compiled(graph(), alternation=always(1, switcher_steps=3), **options)
    without = compiled(graph(), alternation=always(2), **options)
    before = arrays(with_turn.switcher_variables)
    with_turn.train_on_batch(X, Y)
    without.train_on_batch(X, Y)
    assert int(with_turn.switcher_optimizer.iterations) == 3
    assert int(without.switcher_optimizer.iterations) == 0
    assert_identical(task_state(with_turn), task_state(without))
    assert_identical(arrays(with_turn.optimizer.variables), arrays(without.optimizer.variables))
    assert not are_identical(arrays(with_turn.switcher_variables), before)
    assert with_turn.sparsity > 0


def test_the_switcher_s_steps_run_nothing_of_the_task_network():
    calls = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            calls.append(None)
            return inputs

    inputs = keras.Input((INPUTS,))
    x = Counting()(SwitchedDense(9, "relu")(inputs))
    model = SwitchedModel(inputs, SwitchedDense(CLASSES)(Counting()(x)))
    compiled(model, alternation=always(1, switcher_steps=3))
    calls.clear()
    model.train_on_batch(X, Y)
    assert int(model.switcher_optimizer.iterations) == 3
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("task_steps", "switcher_steps", "expected"), [(1, 3, 30), (4, 1, 2), (3, 2, 6)]
)
def test_switcher_takes_its_turns_as_configured(task_steps, switcher_steps, expected):
    # 20 steps: warm-up up to step 2, settled from step 12 on, 10 to alternate in.
    model = compiled(network((6,)), alternation=Alternation(task_steps, switcher_steps))
    model.fit(X, Y, batch_size=32, epochs=5, verbose=0)
    assert int(model.switcher_optimizer.iterations) == expected
    assert int(model.optimizer.iterations) == 20


def test_logs_have_the_usual_keys_and_the_sparsity_of_training_and_validation():
    model = compiled(network())
    history = model.fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y))
    assert isinstance(history, keras.callbacks.History)
    names = {"loss", "accuracy", "sparsity"}
    assert set(history.history) == names | {f"val_{name}" for name in names}
    assert history.history["sparsity"][-1] == pytest.approx(model.sparsity)
    assert history.history["val_sparsity"][-1] == pytest.approx(model.sparsity)
    assert model.evaluate(X, Y, verbose=0, return_dict=True)["sparsity"] == pytest.approx(
        model.sparsity
    )


def regularized(dense, cls):
    """The same regularised network of `Dense` or `SwitchedDense` layers above a `Dense` trunk."""
    keras.utils.set_random_seed(0)
    both = {"kernel_regularizer": keras.regularizers.L2(0.02), "activity_regularizer": "l2"}
    inputs = keras.Input((INPUTS,))
    x = keras.layers.Dense(10, "relu", **both)(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = dense(16, "relu", **both)(x)
    return cls(inputs, dense(CLASSES, bias_regularizer="l1")(x))


@pytest.mark.parametrize("weighting", ["none", "class_weight", "sample_weight"])
def test_with_all_switches_on_training_equals_that_of_plain_keras(weighting):
    fit = {
        "none": {},
        "class_weight": {"class_weight": {0: 1.0, 1: 5.0, 2: 0.1, 3: 2.0}},
        "sample_weight": {"sample_weight": np.linspace(0.0, 3.0, 100).astype("float32")},
    }[weighting]
    # 100 examples: the last batch is smaller than the others.
    fit = {"x": X[:100], "y": Y[:100], "epochs": 2, "verbose": 0, "shuffle": False, **fit}
    fit["validation_data"] = (X[:50], Y[:50])
    plain = regularized(keras.layers.Dense, keras.Model)
    model = regularized(SwitchedDense, SwitchedModel)
    for own, other in zip(model.task_variables, plain.trainable_variables, strict=True):
        own.assign(other)
    plain.compile(
        keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        weighted_metrics=["accuracy"],
        run_eagerly=True,
    )
    # Without a target, nothing is turned off when the training ends.
    compiled(
        model,
        weighted_metrics=["accuracy"],
        target_sparsity=None,
        alternation=only_warmup(),
    )
    expected, got = plain.fit(**fit).history, model.fit(**fit).history
    assert set(got) == {*expected, "sparsity", "val_sparsity"}
    for name, values in expected.items():
        np.testing.assert_allclose(got[name], values, rtol=1e-5, err_msg=name)
    for own, other in zip(task_state(model), arrays(plain.weights), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-6)


@pytest.mark.parametrize("target", [-0.1, 1.0, 1.5, float("nan"), float("inf"), True])
def test_target_outside_its_range_is_refused(target):
    with pytest.raises(ValueError, match=r"\[0, 1\).*Received: target_sparsity="):
        compiled(network(), target_sparsity=target)


@pytest.mark.parametrize("target", ["0.9", [0.9]])
def test_target_of_another_type_is_refused(target):
    with pytest.raises((TypeError, ValueError), match="Received: target_sparsity="):
        compiled(network(), target_sparsity=target)


def test_alternation_of_another_type_is_refused():
    with pytest.raises(TypeError, match=r"keras_switcher\.Alternation.*alternation='4:1'"):
        compiled(network(), alternation="4:1")


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_multiplier_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"\(0, 1\].*Received: multiplier_rate="):
        compiled(network(), multiplier_rate=rate)


def test_model_without_a_switched_layer_is_refused():
    inputs = keras.Input((INPUTS,))
    model = SwitchedModel(inputs, keras.layers.Dense(CLASSES, name="plain")(inputs))
    with pytest.raises(ValueError, match=r"no SwitchedDense layer.*switch\(model\).*'plain'"):
        compiled(model)


def test_unknown_optimizer_of_the_switcher_is_refused():
    with pytest.raises(ValueError, match="adamm"):
        compiled(network(), switcher_optimizer="adamm")


def target_network(granularity="connection", **layer):
    return network((64, 32), inputs=20, granularity=granularity, **layer)


BLOBS = separable(512, inputs=20)


def grain(model):
    """The largest group under one switch, as a share of all connections."""
    layers = model.switched_layers()
    largest = max(layer.group_sizes().max() for layer in layers)
    return largest / sum(layer.connections for layer in layers)


@pytest.mark.parametrize(
    ("target", "granularity"),
    [
        *[(0.5, "connection"), (0.5, "block16"), (0.8, "unit")],
        *[(0.95, "connection"), (0.95, "block4"), (0.95, "unit")],
    ],
)
def test_target_is_hit_whatever_the_granularity(target, granularity):
    model = compiled(target_network(granularity), target_sparsity=target)
    model.fit(*BLOBS, batch_size=64, epochs=3, verbose=0)
    assert abs(model.sparsity - target) <= max(0.005, grain(model) / 2)
    assert all(np.any(s > 0) for s in switches(model))


@pytest.mark.parametrize("gate", ["step", "relu_tanh"])
@pytest.mark.parametrize("switcher", ["unit", "orthogonal", "connection"])
def test_target_is_hit_whatever_gate_and_switcher(gate, switcher):
    model = target_network(gate=gate, switcher=switcher)
    compiled(model, target_sparsity=0.9, run_eagerly=False)
    model.fit(*BLOBS, epochs=5, verbose=0)
    assert model.sparsity == pytest.approx(0.9, abs=0.005)
    values = np.concatenate([s.ravel() for s in switches(model)])
    assert np.mean(values == 0) == pytest.approx(0.9, abs=0.005)
    on = values[values > 0]
    assert np.all(on == 1) if gate == "step" else np.unique(on).size > 100 and on.max() < 1


def test_without_a_target_nothing_but_the_loss_drives_the_switchers():
    def train(**options):
        model = compiled(network(), target_sparsity=None, alternation=always(), **options)
        start = float(model.alternation_state.offset)
        model.fit(X, Y, epochs=2, shuffle=False, verbose=0)
        state = model.alternation_state
        assert float(state.multiplier) == 0.0
        assert float(state.offset) == start
        return model

    model = train(multiplier_rate=0.05)
    assert int(model.switcher_optimizer.iterations) == 8
    assert_identical(everything(model), everything(train(multiplier_rate=1.0)))


def test_with_a_target_the_multiplier_moves():
    model = compiled(network(), alternation=always())
    model.train_on_batch(X, Y)
    assert float(model.alternation_state.multiplier) != 0.0


def test_predictions_do_not_change_by_switcher_steps_that_leave_the_switches_as_they_are():
    model = compiled(
        network(),
        optimizer=keras.optimizers.SGD(0.0),
        switcher_optimizer=keras.optimizers.SGD(0.0),
        target_sparsity=None,
        alternation=always(),
    )
    model.alternation_state.offset.assign(2.0)
    model.train_on_batch(X, Y)  # The first refresh: from all on to what the switcher says.
    assert 0 < model.sparsity < 1
    before, predictions = switches(model), model.predict(X, verbose=0)
    evaluation = model.evaluate(X, Y, verbose=0)
    model.train_on_batch(X, Y)
    assert int(model.switcher_optimizer.iterations) == 2
    assert_identical(switches(model), before)
    np.testing.assert_array_equal(model.predict(X, verbose=0), predictions)
    assert model.evaluate(X, Y, verbose=0) == evaluation
