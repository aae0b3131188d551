import io
import math
import os
import signal

import keras
import numpy as np
import pytest
from rich.console import Console
from small import compiled, everything, network, separable

from keras_switcher import Alternation, SwitchedDense, SwitchedModel
from keras_switcher.callbacks import (
    Diverged,
    EpochRows,
    ProgressBar,
    SaveCheckpoints,
    StopOnDivergence,
    StopOnSignal,
    WorkersDiffer,
    epoch_line,
    restore,
    variables,
)
from keras_switcher.checkpoints import CheckpointError, Checkpoints
from keras_switcher.runs import RunFolder
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.workers import Workers

X, Y = separable(64)


def test_variables_are_all_that_changes_each_once():
    model = compiled(network())
    found = variables(model)

    assert len({id(v) for v in found}) == len(found)
    assert {id(v) for v in model.variables} <= {id(v) for v in found}
    for optimizer in (model.optimizer, model.switcher_optimizer):
        assert {id(v) for v in optimizer.variables} <= {id(v) for v in found}


@pytest.mark.parametrize("epochs", [10, 8])
def test_the_phase_of_an_epoch_is_that_of_its_last_step_and_its_figures_are_of_it(epochs):
    course = Alternation(task_steps=1, warmup=0.1, settle=0.4)
    model = compiled(network(), alternation=course, target_sparsity=0.9, run_eagerly=False)
    rows = EpochRows([])
    model.fit(X, Y, batch_size=16, epochs=epochs, validation_data=(X, Y), verbose=0, callbacks=rows)
    phases = [row["phase"] for row in rows.rows]
    if epochs == 10:
        # The boundaries lie between epochs.
        assert phases == ["warmup"] + ["alternate"] * 5 + ["settle"] * 4
    else:
        # They lie at the fourth of the first epoch's four steps, and at the fourth of the fifth's.
        assert phases == ["alternate"] * 4 + ["settle"] * 4
    for row in rows.rows:
        if row["phase"] == "settle":
            assert row["sparsity"] == pytest.approx(model.sparsity)


@pytest.fixture
def saved(tmp_path):
    """A model trained for two epochs, and its checkpoints."""
    model = compiled(network())
    folder = RunFolder(tmp_path)
    checkpoints = Checkpoints(tmp_path, "x")
    rows = EpochRows([])
    model.fit(
        X,
        Y,
        epochs=2,
        validation_data=(X, Y),
        verbose=0,
        callbacks=[
            rows,
            SaveCheckpoints(checkpoints, rows, {"network": "x"}, folder, "h.csv", Workers()),
        ],
    )
    return model, checkpoints


def test_rows_checkpoints_and_history(saved, tmp_path):
    model, checkpoints = saved
    rows = checkpoints.load().rows

    assert [row["epoch"] for row in rows] == [1, 2]
    assert list(rows[0]) == [
        *("epoch", "phase", "loss", "accuracy", "sparsity", "val_loss", "val_accuracy"),
        *("learning_rate", "seconds"),
    ]
    assert rows[-1]["phase"] == model.phase == "settle"
    assert rows[-1]["sparsity"] == pytest.approx(model.sparsity)
    assert (tmp_path / "h.csv").read_text().splitlines()[0] == ",".join(rows[0])
    assert len((tmp_path / "h.csv").read_text().splitlines()) == 3


def test_restore_brings_back_everything(saved):
    model, checkpoints = saved
    other = compiled(network(seed=1))

    restore(other, checkpoints.load(), {"network": "x"})

    for value, expected in zip(variables(other), variables(model), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert other.phase == "settle"
    assert len(everything(other)) > 0


def test_restore_refuses_another_run_and_another_network(saved):
    model, checkpoints = saved
    before = [np.array(v) for v in variables(model)]

    with pytest.raises(CheckpointError) as error:
        restore(model, checkpoints.load(), {"network": "y"})
    assert "Expected network 'x', as in the checkpoint. Received: 'y'" in str(error.value)
    with pytest.raises(CheckpointError, match="of another network"):
        restore(compiled(network(units=(16, 9))), checkpoints.load(), {"network": "x"})

    for value, expected in zip(variables(model), before, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_loss_that_is_not_finite_ends_training():
    model = compiled(network())
    x = X.copy()
    x[40] = math.inf

    with pytest.raises(Diverged, match=r"in epoch 1, batch 2\..*lower --learning-rate") as error:
        model.fit(x, Y, batch_size=32, shuffle=False, verbose=0, callbacks=[StopOnDivergence()])
    assert error.value.exit_status == 1


def test_validation_loss_that_is_not_finite_ends_training_without_a_checkpoint(tmp_path):
    model = compiled(network())
    rows = EpochRows([])
    checkpoints = Checkpoints(tmp_path, "x")
    save = SaveCheckpoints(checkpoints, rows, {}, RunFolder(tmp_path), "h.csv", Workers())

    with pytest.raises(Diverged, match="validation loss is nan after epoch 1"):
        model.fit(
            X,
            Y,
            validation_data=(np.full_like(X, math.nan), Y),
            verbose=0,
            callbacks=[StopOnDivergence(), rows, save],
        )
    assert checkpoints.load() is None


def test_a_model_of_bfloat16_is_restored_and_its_weights_must_be_finite(tmp_path):
    # NumPy knows neither how to keep such weights nor that they are numbers.
    x = given = keras.Input((12,))
    x = SwitchedDense(8, "relu", dtype="bfloat16")(x)
    model = compiled(SwitchedModel(given, keras.layers.Dense(4)(x)))
    checkpoints = Checkpoints(tmp_path, "x")
    save = SaveCheckpoints(checkpoints, EpochRows([]), {}, RunFolder(tmp_path), "h.csv", Workers())
    save.set_model(model)
    model.fit(X, Y, verbose=0)
    save.on_epoch_end(0)
    before = [np.array(v, "float32") for v in variables(model)]
    kernel = model.switched_layers()[0].kernel
    assert kernel.dtype == "bfloat16"
    kernel.assign(keras.ops.full_like(kernel, math.nan))
    with pytest.raises(Diverged, match="kernel is not finite after epoch 2"):
        save.on_epoch_end(1)
    restore(model, checkpoints.load(), {})
    for value, expected in zip(variables(model), before, strict=True):
        np.testing.assert_array_equal(np.array(value, "float32"), expected)


def test_weight_that_is_not_finite_is_never_saved(tmp_path):
    model = compiled(network())
    checkpoints = Checkpoints(tmp_path, "x")
    save = SaveCheckpoints(checkpoints, EpochRows([]), {}, RunFolder(tmp_path), "h.csv", Workers())
    save.set_model(model)
    save.on_epoch_end(0)
    model.switcher_optimizer.variables[-1].assign(
        np.full(model.switcher_optimizer.variables[-1].shape, np.nan)
    )

    with pytest.raises(Diverged, match="is not finite after epoch 2"):
        save.on_epoch_end(1)
    assert checkpoints.load().epoch == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_fit_after_the_batch(number, request):
    if number == signal.SIGHUP:
        # The tests may run by `nohup`.
        before = signal.signal(number, signal.SIG_DFL)
        request.addfinalizer(lambda: signal.signal(number, before))
    stop = StopSignals()
    batches = []

    class Kill(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                os.kill(os.getpid(), number)

        def on_train_batch_end(self, batch, logs=None):
            batches.append(batch)

    handler = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name) as error, stop.handled(), stop.deferred():
        compiled(network()).fit(
            X, Y, batch_size=16, verbose=0, callbacks=[Kill(), StopOnSignal(stop, Workers())]
        )
    assert batches == [0, 1]
    assert error.value.exit_status == 128 + number
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize("where", ["on_train_batch_end", "on_test_begin", "on_test_batch_end"])
def test_a_signal_at_the_end_of_an_epoch_waits_for_its_checkpoint(where, tmp_path):
    stop = StopSignals()
    seen = []

    def kill(batch=None, logs=None):
        seen.append(batch)
        if where != "on_train_batch_end" or len(seen) == 4:  # the last one
            os.kill(os.getpid(), signal.SIGTERM)

    checkpoints, rows = Checkpoints(tmp_path, "x"), EpochRows([])
    model = compiled(network())
    kills = keras.callbacks.Callback()
    setattr(kills, where, kill)
    save = SaveCheckpoints(checkpoints, rows, {}, RunFolder(tmp_path), "h.csv", Workers())
    with pytest.raises(Interrupted), stop.handled(), stop.deferred():
        model.fit(
            *(X[:64], Y[:64]),
            batch_size=16,
            epochs=3,
            verbose=0,
            validation_data=(X[:16], Y[:16]),
            callbacks=[rows, kills, save, StopOnSignal(stop, Workers())],
        )
    assert checkpoints.load().epoch == 1


def test_a_signal_in_the_code_of_a_layer_stays_one():
    class Kill(keras.layers.Layer):
        def call(self, inputs):
            signal.raise_signal(signal.SIGTERM)
            return inputs

    stop = StopSignals()
    inputs = keras.Input((3,))
    with pytest.raises(Interrupted) as error, stop.handled():
        keras.Model(inputs, Kill()(inputs))
    assert error.value.exit_status == 143


def test_signal_outside_of_a_fit_and_a_second_one_act_at_once():
    stop = StopSignals()
    with pytest.raises(Interrupted), stop.handled():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("not reached")

    stop = StopSignals()
    with pytest.raises(Interrupted, match="SIGINT"), stop.handled(), stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    stop = StopSignals()
    with pytest.raises(Interrupted, match="SIGTERM"), stop.handled():
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            reached = True
        raise AssertionError("not reached")
    assert reached


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress(is_terminal):
    written = io.StringIO()
    console = Console(file=written, force_terminal=is_terminal, width=100)
    rows = EpochRows([{"epoch": 1}])
    progress = ProgressBar(console, "switched", 3, rows)

    with progress.shown():
        compiled(network()).fit(
            X, Y, epochs=3, initial_epoch=1, batch_size=16, verbose=0, callbacks=[rows, progress]
        )

    text = written.getvalue()
    assert text.count("accuracy ") == 2
    assert "2/3  " in text
    assert "3/3  " in text
    # The bar counts the epochs that another process did.
    assert ("12/12" in text) == is_terminal
    assert ("switched 3/3 loss" in text) == is_terminal
    assert ("\x1b" in text) == is_terminal


def test_line_of_an_epoch():
    row = {
        **{"epoch": 3, "phase": "warmup", "loss": 0.12345, "accuracy": 0.5, "sparsity": 0.951},
        **{"val_loss": 1.0, "val_accuracy": 1.0, "learning_rate": 1.0, "seconds": 2.04},
    }

    assert epoch_line(row, 40) == (
        " 3/40  warmup     loss 0.1235  accuracy  50.00 %  validation 100.00 %  "
        "sparsity  95.10 %  2.0 s"
    )


class TwoWorkers(Workers):
    """The chief of two workers, of which the other answers as it is told to."""

    count = 2

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def gather(self, what, value):
        self.asked.append(what)
        return [value, self.answer(value)]


def test_signal_that_came_to_another_worker_stops_this_one_too():
    callback = StopOnSignal(StopSignals(), TwoWorkers(lambda own: [signal.SIGTERM, own[1]]))
    with pytest.raises(Interrupted, match="Stopped by SIGTERM") as stopped:
        callback.on_train_batch_end(0)
    assert stopped.value.exit_status == 143


def test_workers_ask_each_other_as_often_as_the_slowest_has_batches():
    # Both must count the same number of batches: what each measured by itself may differ.
    slow, fast = (TwoWorkers(lambda own, s=seconds: [0, s]) for seconds in (0.05, 1e-9))
    for workers, expected in ((slow, range(1, 5)), (fast, range(1, 50))):
        callback = StopOnSignal(StopSignals(), workers)
        for _ in range(9):
            callback.on_train_batch_end(0)
        assert len(workers.asked) in expected
    # A batch of 0.05 s: four of them between two questions.
    assert len(slow.asked) == 3


def test_workers_ask_each_other_at_the_end_of_each_epoch():
    received = []
    workers = TwoWorkers(lambda own: [received[-1] if received else 0, 0.05])
    callback = StopOnSignal(StopSignals(), workers)
    for batch in range(2):
        callback.on_train_batch_end(batch)
    asked = len(workers.asked)
    received.append(signal.SIGTERM)
    callback.on_train_batch_end(2)
    assert len(workers.asked) == asked
    with pytest.raises(Interrupted):
        callback.on_epoch_end(0)


def test_workers_with_different_weights_end_before_the_checkpoint(tmp_path):
    model = compiled(network())
    checkpoints = Checkpoints(tmp_path, "x")
    for answer, saved in ((lambda own: "another", False), (lambda own: own, True)):
        workers = TwoWorkers(answer)
        save = SaveCheckpoints(
            checkpoints, EpochRows([]), {}, RunFolder(tmp_path), "h.csv", workers
        )
        save.set_model(model)
        if saved:
            save.on_epoch_end(0)
        else:
            with pytest.raises(WorkersDiffer, match="different weights after epoch 1"):
                save.on_epoch_end(0)
        assert workers.asked == ["the state after an epoch"]
        assert (checkpoints.load() is not None) == saved


def test_workers_beside_the_chief_write_nothing(tmp_path):
    workers = TwoWorkers(lambda own: own)
    workers.index = 1
    save = SaveCheckpoints(
        Checkpoints(tmp_path, "x"), EpochRows([]), {}, RunFolder(tmp_path), "h.csv", workers
    )
    save.set_model(compiled(network()))
    save.on_epoch_end(0)
    assert list(tmp_path.iterdir()) == []
