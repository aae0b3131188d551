import functools
import itertools
import logging

import keras
import numpy as np
import pytest
import small
import tensorflow as tf
from small import (
    always,
    are_identical,
    assert_identical,
    everything,
    network,
    separable,
    switches,
)

from keras_switcher import Alternation

X, Y = separable()
# With 32 examples a batch: 4 steps an epoch.
FIT = {"batch_size": 32, "shuffle": False, "verbose": 0}
EACH_STEP = Alternation(task_steps=1)


def compiled(model, **options):
    """Compile with SGD, whose steps are shorter than Adam's: the plan is the same."""
    sgd = {name: keras.optimizers.SGD(0.1) for name in ("optimizer", "switcher_optimizer")}
    return small.compiled(model, **{**sgd, **options})


class Record(keras.callbacks.Callback):
    """Writes down phase, sparsity and switches as each step begins."""

    def __init__(self):
        super().__init__()
        self.phases, self.sparsities, self.switches = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 4:  # Keras finds out only now that the generator has ended.
            return
        self.phases.append(self.model.phase)
        self.sparsities.append(self.model.sparsity)
        self.switches.append(switches(self.model))


class StopAfter(keras.callbacks.Callback):
    """Stops training at the end of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.epoch


def generator(batches=4):
    """Batches without a length, anew at each epoch's end."""
    while True:
        for index in range(batches):
            part = slice(32 * index, 32 * (index + 1))
            yield X[part], Y[part]


def known_length():
    return X, Y


def options(data):
    """How to fit to what the function gives."""
    return FIT if data is known_length else {"verbose": 0}


def unknown_length():
    """Batches whose number Keras finds out when an epoch has ended."""
    return tf.data.Dataset.from_generator(
        lambda: itertools.islice(generator(), 4),
        output_signature=(
            tf.TensorSpec((None, X.shape[1]), tf.float32),
            tf.TensorSpec((None,), tf.int32),
        ),
    )


def test_phases_follow_the_plan_step_by_step():
    record = Record()
    model = compiled(network(), alternation=Alternation(task_steps=1, warmup=0.25, settle=0.4))
    model.fit(X, Y, epochs=5, callbacks=[record], **FIT)
    assert record.phases == ["warmup"] * 5 + ["alternate"] * 7 + ["settle"] * 8
    assert record.sparsities[:6] == [0.0] * 6
    assert min(record.sparsities[12:]) == pytest.approx(0.5, abs=0.005)
    assert int(model.switcher_optimizer.iterations) == 7


def test_ramp_brings_the_sparsity_up_little_by_little():
    record = Record()
    alternation = Alternation(task_steps=1, warmup=0.0, settle=0.0, ramp=1.0)
    model = compiled(
        network(units=(16, 8)), target_sparsity=0.9, alternation=alternation, run_eagerly=False
    )
    model.fit(X, Y, epochs=10, callbacks=[record], **FIT)
    begin, half, three_quarters, last = (record.sparsities[i] for i in (5, 20, 30, 39))
    assert begin < 0.2 < half < three_quarters < last
    assert last == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("gate", ["step", "relu_tanh"])
def test_structure_is_exact_and_frozen_once_settled(gate):
    record = Record()
    model = compiled(network(gate=gate), target_sparsity=0.8, alternation=EACH_STEP)
    model.fit(X, Y, epochs=5, callbacks=[record], **FIT)
    settled = record.phases.index("settle")
    assert settled == 12
    for later in [*record.switches[settled:], switches(model)]:
        assert_identical(later, record.switches[settled])
    connections = sum(layer.connections for layer in model.switched_layers())
    on = sum(int(np.sum(s > 0)) for s in switches(model))
    assert abs(on - 0.2 * connections) < 1
    kernels = [layer.masked_kernel() for layer in model.switched_layers()]
    assert sum(int(np.sum(np.array(k) != 0)) for k in kernels) == on


def test_task_weights_go_on_learning_when_the_structure_has_settled():
    weights = []

    class Weights(Record):
        def on_train_batch_begin(self, batch, logs=None):
            super().on_train_batch_begin(batch, logs)
            weights.append(np.array(self.model.task_variables[0]))

    record = Weights()
    compiled(network()).fit(X, Y, epochs=5, callbacks=[record], **FIT)
    assert record.phases[-2:] == ["settle", "settle"]
    assert not np.array_equal(weights[-1], weights[-2])


def test_without_a_target_settling_freezes_the_structure_as_it_is():
    record = Record()
    model = compiled(network(), target_sparsity=None, alternation=EACH_STEP)
    model.fit(X, Y, epochs=5, callbacks=[record], **FIT)
    assert record.phases[12] == "settle"
    for later in [*record.switches[12:], switches(model)]:
        assert_identical(later, record.switches[12])
    assert int(model.switcher_optimizer.iterations) == 10


def test_second_fit_of_a_settled_model_leaves_its_structure_alone():
    model = compiled(network())
    model.fit(X, Y, epochs=3, **FIT)
    before, kernel = switches(model), np.array(model.task_variables[0])
    record = Record()
    model.fit(X, Y, epochs=3, callbacks=[record], **FIT)
    assert set(record.phases) == {"settle"}
    assert_identical(switches(model), before)
    assert not np.array_equal(model.task_variables[0], kernel)


def test_recompiled_at_the_same_target_the_model_stays_settled():
    model = compiled(network())
    model.fit(X, Y, epochs=3, **FIT)
    before = switches(model)
    compiled(model, optimizer=keras.optimizers.SGD(0.01), target_sparsity=0.5)
    assert model.phase == "settle"
    model.fit(X, Y, epochs=2, **FIT)
    assert_identical(switches(model), before)
    assert int(model.switcher_optimizer.iterations) == 0


def test_recompiled_at_another_target_the_model_starts_anew():
    model = compiled(network(), target_sparsity=0.5)
    model.fit(X, Y, epochs=3, **FIT)
    compiled(model, target_sparsity=0.8, alternation=EACH_STEP)
    record = Record()
    model.fit(X, Y, epochs=3, callbacks=[record], **FIT)
    assert [record.phases.count(p) for p in ("warmup", "alternate", "settle")] == [1, 6, 5]
    assert model.sparsity == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("settle", [0.4, 0.0])
def test_training_that_ends_before_the_model_settles_logs_a_warning(caplog, settle):
    model = compiled(network(), alternation=Alternation(1, warmup=0.0, settle=settle))
    with caplog.at_level(logging.WARNING, logger="keras_switcher"):
        model.fit(X, Y, epochs=10, callbacks=[StopAfter(0)], **FIT)
    (record,) = caplog.records
    assert "before the structure settled at the target 0.5000" in record.getMessage()
    assert "model.settle()" in record.getMessage()


def warned(caplog):
    """What this package warned of; TensorFlow, too, logs when it traces often."""
    return [record for record in caplog.records if record.name.startswith("keras_switcher")]


def test_training_without_a_target_that_turns_nothing_off_is_told_once(caplog):
    model = compiled(network(), target_sparsity=None, run_eagerly=False)
    with caplog.at_level(logging.WARNING, logger="keras_switcher"):
        model.fit(X, Y, epochs=2, **FIT)
        model.fit(X, Y, epochs=1, **FIT)
    said = [record.getMessage() for record in warned(caplog) if "target" in record.getMessage()]
    (only,) = said
    assert f"its sparsity is {model.sparsity:.4f}: the loss alone" in only
    assert "Give compile() a `target_sparsity`, such as 0.9." in only


def test_without_a_target_a_network_that_is_sparse_is_as_it_should_be(caplog):
    seldom = Alternation(task_steps=10**6)
    model = compiled(network(), alternation=seldom, target_sparsity=None, run_eagerly=False)
    switches = model.switched_layers()[0].switches
    switches.assign(np.arange(switches.shape[0] * switches.shape[1]).reshape(switches.shape) % 2)
    with caplog.at_level(logging.WARNING, logger="keras_switcher"):
        model.fit(X, Y, epochs=1, **FIT)
    assert model.sparsity > 0.2
    assert not [record for record in warned(caplog) if "target" in record.getMessage()]


def test_training_that_ends_as_it_should_logs_no_warning(caplog):
    model = compiled(network(), alternation=EACH_STEP, run_eagerly=False)
    with caplog.at_level(logging.WARNING, logger="keras_switcher"):
        model.fit(X, Y, epochs=10, **FIT)
        # Settled: it has no turn, and needs none.
        model.fit(X, Y, epochs=1, **FIT)
    assert not warned(caplog)


def test_few_turns_are_told_once(caplog):
    model = compiled(network(), alternation=Alternation(task_steps=4), run_eagerly=False)
    with caplog.at_level(logging.WARNING, logger="keras_switcher"):
        model.fit(X, Y, epochs=20, **FIT)
    (record,) = warned(caplog)
    said = record.getMessage()
    assert "The switcher has 10 turns in this training, one after every 4 steps of the 40" in said
    assert "Train for more epochs, or set a smaller task_steps." in said


@pytest.mark.parametrize("settle", [0.0, 0.01])
def test_target_is_hit_at_the_end_where_no_time_is_left_to_settle(settle):
    model = compiled(network(), alternation=Alternation(warmup=0.0, settle=settle))
    history = model.fit(X, Y, epochs=2, validation_data=(X, Y), **FIT).history
    assert model.phase == "settle"
    assert model.sparsity == pytest.approx(0.5, abs=0.005)
    # What was validated last is what the model is.
    evaluated = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert history["val_loss"][-1] == pytest.approx(evaluated["loss"], rel=1e-5)
    assert history["sparsity"][-1] == pytest.approx(model.sparsity)


@pytest.mark.parametrize("steps_per_execution", [3, 100])
def test_target_is_hit_when_the_time_to_settle_falls_within_an_execution(steps_per_execution):
    model = compiled(
        network(),
        steps_per_execution=steps_per_execution,
        run_eagerly=False,
        alternation=Alternation(task_steps=1, settle=0.1),
    )
    model.fit(X, Y, epochs=3, **FIT)
    assert model.phase == "settle"
    assert model.sparsity == pytest.approx(0.5, abs=0.005)


def test_settle_by_hand_brings_a_model_to_its_target_and_freezes_it():
    model = compiled(network(), target_sparsity=0.7, alternation=always())
    model.fit(X, Y, epochs=10, callbacks=[StopAfter(0)], **FIT)
    assert model.phase == "alternate"
    model.settle()
    assert model.phase == "settle"
    assert model.sparsity == pytest.approx(0.7, abs=0.005)
    before = switches(model)
    for _ in range(10):
        model.train_on_batch(X, Y)
        # By weights that have moved on, it would choose others.
        model.settle()
    assert_identical(switches(model), before)


def test_generator_of_unknown_length_is_planned_after_the_first_epoch():
    record = Record()
    model = compiled(network(), alternation=EACH_STEP)
    model.fit(unknown_length(), epochs=5, callbacks=[record], verbose=0)
    # The plan of 20 steps would let 2 warm up; the first epoch is all warm-up.
    assert record.phases == ["warmup"] * 4 + ["alternate"] * 8 + ["settle"] * 8
    assert model.sparsity == pytest.approx(0.5, abs=0.005)


def test_data_that_end_are_no_step_of_a_graph():
    alternation = Alternation(task_steps=1, warmup=0.0, settle=0.0)
    model = compiled(network(), run_eagerly=False, jit_compile=False, alternation=alternation)
    logs = model.fit(unknown_length(), epochs=3, validation_data=(X, Y), verbose=0).history
    assert int(model.alternation_state.step) == 12
    # The first epoch tells how long one is, and warms up.
    assert int(model.switcher_optimizer.iterations) == 8
    evaluated = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert logs["val_loss"][-1] == pytest.approx(evaluated["loss"], rel=1e-5)


@functools.cache
def in_one():
    model = compiled(network(), alternation=EACH_STEP)
    model.fit(unknown_length(), epochs=5, verbose=0)
    return model


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_training_of_unknown_length_in_two_calls_equals_training_in_one(stopped):
    parts = compiled(network(), alternation=EACH_STEP)
    parts.fit(unknown_length(), epochs=5, callbacks=[StopAfter(stopped)], verbose=0)
    parts.fit(unknown_length(), epochs=5, initial_epoch=stopped + 1, verbose=0)
    assert_identical(everything(parts), everything(in_one()))


@pytest.mark.parametrize("data", [known_length, lambda: (unknown_length(),)])
def test_a_new_model_that_begins_at_a_later_epoch_has_all_phases(data):
    record = Record()
    model = compiled(network(), alternation=EACH_STEP)
    model.fit(*data(), initial_epoch=10, epochs=15, callbacks=[record], **options(data))
    begun = 4 if len(data()) == 1 else 2
    phases = ["warmup"] * begun + ["alternate"] * (12 - begun) + ["settle"] * 8
    assert record.phases == phases
    assert model.sparsity == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("data", [known_length, lambda: (unknown_length(),)])
def test_a_second_fit_of_a_model_that_has_not_settled_goes_on_in_its_phase(data):
    # 8 steps of 20 are done; of the 28 in all, 11 are to settle.
    model = compiled(network(), alternation=EACH_STEP)
    model.fit(*data(), epochs=5, callbacks=[StopAfter(1)], **options(data))
    assert model.phase == "alternate"
    record = Record()
    model.fit(*data(), epochs=5, callbacks=[record], **options(data))
    assert record.phases == ["alternate"] * 9 + ["settle"] * 11


@pytest.mark.parametrize("data", [known_length, lambda: (unknown_length(),)])
def test_a_longer_training_does_not_take_a_model_that_alternates_back_to_warmup(data):
    model = compiled(network(), alternation=EACH_STEP)
    model.fit(*data(), epochs=5, callbacks=[StopAfter(1)], **options(data))
    record = Record()
    # A tenth of its steps is more than have been taken.
    model.fit(*data(), epochs=30, callbacks=[record, StopAfter(2)], **options(data))
    assert record.phases == ["alternate"] * 12


@pytest.mark.parametrize("data", [known_length, lambda: (unknown_length(),)])
def test_a_training_after_a_loop_of_ones_own_goes_on_to_alternate(data):
    model = compiled(network(), alternation=EACH_STEP)
    for _ in range(8):
        model.train_on_batch(X[:32], Y[:32])
    record = Record()
    model.fit(*data(), epochs=5, callbacks=[record], **options(data))
    assert record.phases == ["alternate"] * 9 + ["settle"] * 11


def test_a_training_of_unknown_length_that_begins_at_a_later_epoch_goes_on_by_its_plan():
    whole, parts = (compiled(network(), alternation=EACH_STEP) for _ in range(2))
    later = {"epochs": 15, "verbose": 0}
    whole.fit(unknown_length(), initial_epoch=10, **later)
    parts.fit(unknown_length(), initial_epoch=10, callbacks=[StopAfter(11)], **later)
    parts.fit(unknown_length(), initial_epoch=12, **later)
    assert_identical(everything(parts), everything(whole))


def test_endless_generator_with_steps_per_epoch_is_planned_at_once():
    record = Record()
    model = compiled(network(), alternation=EACH_STEP)
    model.fit(generator(), steps_per_epoch=4, epochs=5, callbacks=[record], verbose=0)
    assert record.phases == ["warmup"] * 2 + ["alternate"] * 10 + ["settle"] * 8
    assert model.sparsity == pytest.approx(0.5, abs=0.005)


def test_training_in_two_calls_equals_training_in_one():
    whole, parts = compiled(network()), compiled(network())
    whole.fit(X, Y, epochs=4, **FIT)
    parts.fit(X, Y, epochs=4, callbacks=[StopAfter(1)], **FIT)
    assert parts.phase == "alternate"
    parts.fit(X, Y, epochs=4, initial_epoch=2, **FIT)
    assert parts.phase == "settle"
    assert_identical(everything(parts), everything(whole))


def test_without_fit_the_switchers_alternate_from_the_first_batch_on():
    model = small.compiled(network(), alternation=Alternation(task_steps=2))
    for _ in range(6):
        model.train_on_batch(X, Y)
    assert model.phase == "alternate"
    assert int(model.switcher_optimizer.iterations) == 3
    assert not are_identical(switches(model), [np.ones_like(s) for s in switches(model)])
