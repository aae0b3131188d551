import csv
import functools

import keras
import numpy as np
import pytest
from small import (
    CLASSES,
    INPUTS,
    arrays,
    assert_identical,
    compiled,
    everything,
    network,
    separable,
    switches,
)

from keras_switcher import Alternation, SwitchedDense, SwitchedModel, Switcher, switch

X, Y = separable()
FIT = {"x": X, "y": Y, "batch_size": 32, "shuffle": False, "verbose": 0}


@keras.saving.register_keras_serializable("test_model_callbacks")
class OwnCall(SwitchedModel):
    """A subclass whose own code makes the forward pass."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = SwitchedDense(16, "relu")
        self.last = SwitchedDense(CLASSES)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


@keras.saving.register_keras_serializable("test_model_callbacks")
class Plain(keras.Model):
    """A subclassed model of plain layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [keras.layers.Dense(16, "relu"), keras.layers.BatchNormalization()]
        self.last = keras.layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        for block in self.blocks:
            inputs = block(inputs)
        return self.last(inputs)

    def get_config(self):
        return {"name": self.name}


@keras.saving.register_keras_serializable("tests")
class CountableSwitcher(Switcher):
    """Ranks by magnitude and counts how often it runs."""

    runs = 0

    def call(self, kernel):
        CountableSwitcher.runs += 1
        return keras.ops.abs(kernel)


def functional():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((INPUTS,))
    x = keras.layers.Dense(10, "relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = SwitchedDense(16, "relu", granularity="block4", switcher="connection")(x)
    return SwitchedModel(inputs, SwitchedDense(CLASSES, gate="relu_tanh")(x))


def subclassed():
    keras.utils.set_random_seed(0)
    model = OwnCall()
    model(X)
    return model


def switched_network():
    keras.utils.set_random_seed(0)
    model = Plain()
    model(X)
    return switch(model, granularity="block4")


KINDS = {"functional": functional, "subclassed": subclassed, "network": switched_network}


class Interruption(Exception):
    """Stands for a killed process."""


class Interrupt(keras.callbacks.Callback):
    """Interrupts training at a batch of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.at, self.epoch = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.at and batch == 1:
            raise Interruption


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights of each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(arrays(self.model.weights))


@pytest.mark.parametrize(
    "best", [1, *(pytest.param(best, marks=pytest.mark.endurance) for best in (0, 2))]
)
def test_early_stopping_restores_weights_and_switches_of_the_best_epoch(best):
    class Score(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = -abs(epoch - best)

    snapshots = Snapshots()
    stopping = keras.callbacks.EarlyStopping(
        "score", mode="max", patience=2, restore_best_weights=True
    )
    model = compiled(network(), alternation=Alternation(task_steps=1))
    history = model.fit(epochs=6, callbacks=[snapshots, _Merged(Score(), stopping)], **FIT)
    assert len(history.epoch) == best + 3
    assert_identical(arrays(model.weights), snapshots.weights[best])
    others = [w for epoch, w in enumerate(snapshots.weights) if epoch != best]
    assert all(not np.array_equal(w[0], snapshots.weights[best][0]) for w in others)


class _Merged(keras.callbacks.Callback):
    """Lets one callback write logs that another reads: Keras gives each its own copy."""

    def __init__(self, writer, reader):
        super().__init__()
        self.writer, self.reader = writer, reader

    def set_model(self, model):
        super().set_model(model)
        self.reader.set_model(model)

    def on_train_begin(self, logs=None):
        self.reader.on_train_begin(logs)

    def on_train_end(self, logs=None):
        self.reader.on_train_end(logs)

    def on_epoch_end(self, epoch, logs=None):
        logs = dict(logs)
        self.writer.on_epoch_end(epoch, logs)
        self.reader.on_epoch_end(epoch, logs)


def test_early_stopping_may_watch_the_validation_loss_of_a_class_weighted_training():
    model = compiled(network())
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=100.0)
    history = model.fit(
        epochs=5,
        class_weight={0: 2.0, 1: 1.0, 2: 1.0, 3: 0.5},
        validation_data=(X, Y),
        callbacks=[stopping],
        **FIT,
    )
    assert len(history.epoch) == 2
    assert {"val_loss", "val_accuracy", "val_sparsity"} <= set(history.history)


def test_checkpoint_of_a_whole_model_is_masked_and_complete(tmp_path):
    path = tmp_path / "whole.keras"
    model = compiled(network())
    model.fit(epochs=3, callbacks=[keras.callbacks.ModelCheckpoint(path)], **FIT)
    loaded = keras.saving.load_model(path)
    assert_identical(everything(loaded), everything(model))
    assert loaded.sparsity == pytest.approx(0.5, abs=0.005)


def test_checkpoint_of_weights_holds_the_switches(tmp_path):
    path = tmp_path / "only.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    model = compiled(network())
    model.fit(epochs=3, callbacks=[checkpoint], **FIT)
    fresh = network(seed=1)
    fresh.load_weights(path)
    assert_identical(arrays(fresh.weights), arrays(model.weights))
    np.testing.assert_array_equal(fresh.predict(X, verbose=0), model.predict(X, verbose=0))


def test_a_best_checkpoint_of_a_training_that_is_not_sparse_yet_is_warned_of(tmp_path, caplog):
    model = compiled(network())
    path = str(tmp_path / "best.keras")

    def fit(monitor):
        best = keras.callbacks.ModelCheckpoint(path, monitor, mode="max", save_best_only=True)
        caplog.clear()
        model.fit(validation_data=(X, Y), epochs=5, callbacks=[best], **FIT)
        return [record.getMessage() for record in caplog.records if "Checkpoint" in record.msg]

    (said,) = fit("val_accuracy")
    assert path in said and "dense or half sparse" in said
    # What it says to do.
    assert fit("val_accuracy") == []
    assert keras.models.load_model(path).sparsity == pytest.approx(0.5, abs=0.005)
    compiled(model, target_sparsity=0.8)
    assert fit("sparsity") == []


def test_a_rate_that_falls_on_a_plateau_is_warned_of_before_the_model_settles(caplog):
    model = compiled(network())

    def fit(epochs):
        plateau = keras.callbacks.ReduceLROnPlateau("loss", patience=2)
        caplog.clear()
        model.fit(epochs=epochs, callbacks=[plateau], **FIT)
        return [record.msg for record in caplog.records if "ReduceLROnPlateau" in record.msg]

    assert len(fit(5)) == 1
    # What it says to do.
    assert fit(1) == []


@pytest.mark.parametrize(
    ("epochs", "first", "options", "said"),
    [
        (5, 0, {}, 3),
        (5, 0, {"start_from_epoch": 2}, 3),
        (5, 0, {"start_from_epoch": 3}, None),
        (6, 0, {"start_from_epoch": 3}, None),  # it settles in this epoch, whose end is sparse
        (8, 3, {"start_from_epoch": 5}, 6),  # the phases are those of the epochs that are left
        (5, 0, {"patience": 5}, None),  # it can neither stop nor restore
        (5, 0, {"patience": 5, "restore_best_weights": True}, 3),
    ],
)
def test_early_stopping_that_does_not_wait_for_the_sparse_epochs_is_warned_of(
    epochs, first, options, said, caplog
):
    model = compiled(network(), alternation=Alternation(task_steps=1, warmup=0.1, settle=0.4))
    stopping = keras.callbacks.EarlyStopping("loss", **{"patience": 4, **options})
    if first:
        stopping = keras.callbacks.CallbackList([stopping])
    caplog.clear()
    model.fit(epochs=epochs, initial_epoch=first, callbacks=[stopping], **FIT)
    told = [record.getMessage() for record in caplog.records if "EarlyStopping" in record.msg]
    told = [text for text in told if "compares" in text]
    assert len(told) == (said is not None)
    assert all(f"EarlyStopping(start_from_epoch={said})" in text for text in told)


def test_a_callback_of_ones_own_may_monitor_nothing():
    own = keras.callbacks.Callback()
    own.monitor = None
    compiled(network()).fit(epochs=1, callbacks=[own], **FIT)


def test_best_checkpoint_may_follow_the_sparsity(tmp_path):
    path = tmp_path / "best.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, monitor="val_sparsity", mode="max", save_best_only=True
    )
    model = compiled(network())
    model.fit(epochs=3, validation_data=(X, Y), callbacks=[checkpoint], **FIT)
    assert keras.saving.load_model(path).sparsity == model.sparsity


IN_THREE_PHASES = Alternation(task_steps=1, warmup=0.3, settle=0.3)


@functools.cache
def uninterrupted(kind):
    model = compiled(KINDS[kind](), alternation=IN_THREE_PHASES)
    model.fit(epochs=5, **FIT)
    return model


# Epochs of 4 steps: interrupted in warm-up, in the alternate phase, and once settled.
@pytest.mark.parametrize(
    ("kind", "interrupted"),
    [
        *(("functional", 2), ("subclassed", 2)),
        *(
            pytest.param(*pair, marks=pytest.mark.endurance)
            for pair in (("functional", 1), ("functional", 4), ("network", 2))
        ),
    ],
)
def test_interrupted_training_ends_as_if_it_had_not_been_interrupted(tmp_path, kind, interrupted):
    whole, options = uninterrupted(kind), {"alternation": IN_THREE_PHASES}
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    first = compiled(KINDS[kind](), **options)
    with pytest.raises(Interruption):
        first.fit(epochs=5, callbacks=[backup, Interrupt(interrupted)], **FIT)

    again = compiled(KINDS[kind](), **options)
    snapshots = Snapshots()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    again.fit(epochs=5, callbacks=[snapshots, backup], **FIT)
    assert len(snapshots.weights) == 5 - interrupted
    assert again.phase == whole.phase == "settle"
    assert_identical(everything(again), everything(whole))


def test_csv_logger_writes_the_sparsity_of_each_epoch(tmp_path):
    path = tmp_path / "history.csv"
    model = compiled(network())
    history = model.fit(
        epochs=3, validation_data=(X, Y), callbacks=[keras.callbacks.CSVLogger(path)], **FIT
    )
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    for name in ("sparsity", "val_sparsity"):
        assert [float(row[name]) for row in rows] == pytest.approx(history.history[name])


def test_tensorboard_writes_the_sparsity(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    compiled(network()).fit(epochs=3, callbacks=[keras.callbacks.TensorBoard(tmp_path)], **FIT)
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    assert "epoch_sparsity" in events.Tags()["tensors"]
    assert len(events.Tensors("epoch_sparsity")) == 3


@pytest.mark.parametrize("run_eagerly", [True, False])
@pytest.mark.parametrize("task_steps", [1, 2])
def test_terminate_on_nan_stops_a_training_that_has_failed(run_eagerly, task_steps):
    # Not in the input: a ReLU makes 0 of it on some processors.
    weights = np.ones(len(X), "float32")
    weights[40] = np.nan
    course = Alternation(task_steps=task_steps, warmup=0.0)
    model = compiled(network(), run_eagerly=run_eagerly, alternation=course)
    stop = keras.callbacks.TerminateOnNaN()
    history = model.fit(sample_weight=weights, epochs=3, callbacks=[stop], **FIT)
    assert int(model.optimizer.iterations) == 2
    assert history.epoch == [0]


def test_a_loss_that_is_not_a_number_is_named_as_the_reason():
    weights = np.full(len(X), np.nan, "float32")
    model = compiled(network(), alternation=Alternation(task_steps=1, warmup=0.0))
    with pytest.raises(FloatingPointError, match="gradient of the loss, which is nan"):
        model.fit(sample_weight=weights, epochs=3, **FIT)


@pytest.mark.parametrize("settles", [False, True])
def test_a_kernel_that_is_not_finite_is_named_as_the_reason(settles):
    model = compiled(network(), alternation=Alternation(task_steps=1, warmup=0.0))
    layer = model.switched_layers()[1]
    # The loss may stay finite, as ReLU makes 0 of NaN on a CPU.
    model.compute_loss = lambda **_: keras.ops.sum(0.0 * layer.bias)
    model.train_on_batch(X, Y)
    layer.kernel.assign(np.full(layer.kernel.shape, np.nan))
    with pytest.raises(FloatingPointError, match=f"finite kernel of layer '{layer.name}'"):
        model.settle() if settles else model.fit(epochs=3, **FIT)


def test_callbacks_may_be_one_callback():
    snapshots = Snapshots()
    model = compiled(network())
    model.fit(epochs=3, callbacks=snapshots, **FIT)
    assert len(snapshots.weights) == 3
    assert model.sparsity == pytest.approx(0.5, abs=0.005)


def test_callbacks_may_be_a_callback_list():
    snapshots = Snapshots()
    callbacks = keras.callbacks.CallbackList([snapshots], add_history=True)
    model = compiled(network())
    history = model.fit(epochs=3, callbacks=callbacks, **FIT)
    assert len(snapshots.weights) == 3
    assert len(history.history["sparsity"]) == 3
    assert model.phase == "settle"
    assert model.sparsity == pytest.approx(0.5, abs=0.005)
    assert len(callbacks.callbacks) == 2


OPTIONS = {
    "optimizer": keras.optimizers.Adam(0.02, beta_1=0.8),
    "switcher_optimizer": keras.optimizers.RMSprop(0.03),
    "target_sparsity": 0.7,
    "alternation": Alternation(2, 3, warmup=0.0, settle=0.3),
    "multiplier_rate": 0.2,
    "rate_exponent": 0.75,
}


def compiled_with_own_optimizers(model):
    """Compile with `OPTIONS`, but optimisers of the model's own: one can't train two models."""
    options = dict(OPTIONS)
    for name in ("optimizer", "switcher_optimizer"):
        options[name] = type(options[name]).from_config(options[name].get_config())
    return compiled(model, **options)


@pytest.mark.parametrize(
    ("kind", "settled"),
    [
        *(("functional", False), ("subclassed", False)),
        *(
            pytest.param(*pair, marks=pytest.mark.endurance)
            for pair in (("functional", True), ("network", False))
        ),
    ],
)
def test_saved_model_comes_back_complete_and_trains_on_with_the_same_numbers(
    tmp_path, kind, settled
):
    model = compiled_with_own_optimizers(KINDS[kind]())
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1 and not settled)
    )
    model.fit(epochs=5, callbacks=[stop], **FIT)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert isinstance(loaded, SwitchedModel)
    assert loaded.phase == model.phase == ("settle" if settled else "alternate")
    assert_identical(everything(loaded), everything(model))
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    for name in ("target_sparsity", "alternation", "multiplier_rate", "rate_exponent"):
        assert getattr(loaded, name) == getattr(model, name) == OPTIONS[name]
    for name in ("optimizer", "switcher_optimizer"):
        one, other = getattr(loaded, name), getattr(model, name)
        assert type(one) is type(other)
        assert one.get_config() == other.get_config()

    logs = [m.fit(epochs=5, initial_epoch=2, **FIT).history for m in (model, loaded)]
    assert logs[0] == logs[1]
    assert_identical(everything(loaded), everything(model))


def test_saved_model_predicts_masked_without_running_the_switcher(tmp_path):
    CountableSwitcher.runs = 0
    model = compiled(network(switcher=CountableSwitcher()), target_sparsity=0.8)
    model.fit(epochs=3, **FIT)
    assert CountableSwitcher.runs > 0
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    CountableSwitcher.runs = 0
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)
    loaded.evaluate(X, Y, verbose=0)
    assert CountableSwitcher.runs == 0
    for weights in loaded.switcher_variables:
        weights.assign(keras.ops.full(weights.shape, np.nan))
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)
    x = X
    for layer in loaded.switched_layers():
        mask = layer.granularity.expand(layer.switches, tuple(layer.kernel.shape))
        x = layer.activation(x @ (np.array(layer.kernel) * np.array(mask)) + layer.bias)
        x = np.array(x)
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_model_saved_before_compile_comes_back_with_its_switches(tmp_path):
    model = network()
    layer = model.switched_layers()[0]
    layer.switches.assign(np.eye(*layer.switches.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_identical(switches(loaded), switches(model))
    assert loaded.sparsity == model.sparsity > 0


def test_clone_of_a_switched_model_is_one_with_new_weights():
    model = network(granularity="block4")
    clone = keras.models.clone_model(model)
    assert isinstance(clone, SwitchedModel)
    assert [s.shape for s in switches(clone)] == [s.shape for s in switches(model)]
    assert not np.array_equal(clone.task_variables[0], model.task_variables[0])
