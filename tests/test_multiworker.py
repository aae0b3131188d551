"""Real workers on loopback: `--strategy multiworker`, and its strategy under plain `fit`."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from command import ROOT, SMALL, TRAIN, Process, offline
from run_folders import LEFT, same

from keras_switcher.cluster import Cluster, to_tf_config
from keras_switcher.machine import free_ports

pytestmark = pytest.mark.slow

EPOCHS = 4
# 256 training, 23 validation and 279 test examples: the last batches of both are not full ones.
FLAGS = (
    *(*SMALL, "--limit", "279", "--epochs", str(EPOCHS), "--dropout", "0"),
    "--no-dense-baseline",
)
_STATE = re.compile(r"^(?:\[(\d)\] )?DEBUG\s+State after epoch (\d): (\w+)", re.MULTILINE)


def launch(*arguments, cwd, **environment):
    """Run two workers by the launcher; return its exit status and what all wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "keras_switcher.launch", "--workers", "2", "--show-all", *arguments],
        cwd=cwd,
        env={
            **offline(cwd),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=570,
    )
    return done.returncode, done.stdout


def rows(folder):
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of two workers that nothing interrupted, and what both wrote."""
    where = tmp_path_factory.mktemp("finished")
    flags = (*FLAGS, "--strategy", "multiworker", "--run-dir", "run", "--verbose")
    status, output = launch(str(TRAIN), *flags, cwd=where)
    assert status == 0, output
    return where / "run", output


def test_two_workers_have_the_same_state_to_the_bit_after_every_epoch(finished):
    # Of the weights, the switches, the alternation and both optimisers.
    states = {
        (worker or "0", epoch): digest for worker, epoch, digest in _STATE.findall(finished[1])
    }
    assert sorted(states) == [(w, str(e + 1)) for w in "01" for e in range(EPOCHS)]
    for epoch in range(1, EPOCHS + 1):
        assert states["0", str(epoch)] == states["1", str(epoch)]
    assert len(set(states.values())) == EPOCHS


def test_run_of_two_workers_leaves_what_a_run_leaves(finished):
    folder, output = finished
    assert {path.name for path in folder.parent.iterdir()} == {"run"}
    assert {path.name for path in folder.iterdir()} == LEFT
    assert len(list((folder / "tensorboard").rglob("*.tfevents*"))) == 2  # train, validation
    assert "Worker 0 of 2: the chief" in output
    assert "[1] Worker 1 of 2" in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the same run by one process, at the same global batch."""
    where = tmp_path_factory.mktemp("alone")
    process = Process(*FLAGS, "--run-dir", "run", cwd=where)
    assert process.wait() == 0, process.output
    return where / "run"


def test_two_workers_train_as_one_process_at_the_same_global_batch(finished, alone):
    import keras

    for one, two in zip(rows(alone), rows(finished[0]), strict=True):
        assert one["phase"] == two["phase"]
        for name in ("loss", "accuracy", "sparsity", "val_loss", "val_accuracy"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-3), name
    first, second = (json.loads((f / "summary.json").read_text()) for f in (alone, finished[0]))
    for name in ("test_accuracy", "fc_sparsity", "phases"):
        assert second[name] == pytest.approx(first[name], abs=0.004), name
    models = [keras.saving.load_model(f / "model.keras") for f in (alone, finished[0])]
    for one, two in zip(*(model.task_variables for model in models), strict=True):
        np.testing.assert_allclose(two, one, atol=1e-3)
    off = [
        np.concatenate([np.ravel(layer.switches) for layer in model.switched_layers()]) == 0
        for model in models
    ]
    assert 0.9 < np.mean(off[0]) < 1
    assert np.mean(off[0] != off[1]) < 0.002


class Pair:
    """Two workers that see no folder of each other, without the launcher."""

    def __init__(self, *flags, folders):
        addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
        self.workers = [
            Process(
                *(*flags, "--strategy", "multiworker", "--run-dir", "run"),
                cwd=folder,
                TF_CONFIG=to_tf_config(Cluster(addresses, index)),
                TF_NUM_INTRAOP_THREADS=str(max(1, len(os.sched_getaffinity(0)) // 2)),
            )
            for index, folder in enumerate(folders)
        ]

    def send(self, index, number, after):
        """Send a signal to one, after a line of it; return the exit statuses of both."""
        self.workers[index].wait_for_line(after)
        self.workers[index].send(number)
        return self.wait()

    def wait(self):
        return [worker.wait() for worker in self.workers]


@pytest.mark.endurance
def test_run_that_loses_a_worker_stops_and_goes_on_to_the_same_numbers(finished, tmp_path):
    folders = tmp_path / "chief", tmp_path / "other"
    for folder in folders:
        folder.mkdir()

    # SIGTERM to one worker: both stop after the same batch.
    pair = Pair(*FLAGS, folders=folders)
    statuses = pair.send(1, signal.SIGTERM, f"1/{EPOCHS}")
    outputs = [worker.output for worker in pair.workers]
    assert statuses == [143, 143], outputs
    for output in outputs:
        assert "Error: Stopped by SIGTERM." in output
        assert "Go on with the same command and --run-dir run --resume, on every worker" in output
        assert "Traceback" not in output

    # kill -9 of a worker, and of the chief: the other ends with a message.
    for victim in (1, 0):
        pair = Pair(*FLAGS, "--resume", folders=folders)
        pair.workers[victim].wait_for_line("Going on after epoch")
        statuses = pair.send(victim, signal.SIGKILL, "")
        survivor = pair.workers[1 - victim].output
        assert statuses[victim] == -9
        assert statuses[1 - victim] == 75, survivor
        assert f"Lost worker {victim} (127.0.0.1:" in survivor
        assert "--run-dir run --resume, on every worker" in survivor

    pair = Pair(*FLAGS, "--resume", folders=folders)
    assert pair.wait() == [0, 0], [worker.output for worker in pair.workers]
    assert "Going on after epoch" in pair.workers[1].output
    same(folders[0] / "run", finished[0])
    # The other worker writes nothing, and had the checkpoint from the chief.
    assert list(folders[1].iterdir()) == []

    # Nothing to do, on either.
    pair = Pair(*FLAGS, "--resume", folders=folders)
    assert pair.wait() == [0, 0]
    for worker in pair.workers:
        assert "is finished: nothing to resume" in worker.output


LIBRARY = """
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import small
from keras_switcher import Alternation, SwitchedDense, SwitchedModel
from keras_switcher.moving_statistics import AverageStatistics
from keras_switcher.strategy import MultiWorkerStrategy

strategy = MultiWorkerStrategy()
index = strategy.cluster_resolver.task_id
x, y = small.separable(128)
with strategy.scope():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((small.INPUTS,))
    # What averages over replicas, what draws random numbers, and a switcher with blocks.
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(16, "relu")(inputs))
    hidden = keras.layers.Dropout(0.2)(hidden)
    hidden = SwitchedDense(16, "relu", granularity="block4")(hidden)
    model = SwitchedModel(inputs, SwitchedDense(small.CLASSES)(hidden))
    small.compiled(
        model, run_eagerly=False, jit_compile=False, alternation=Alternation(task_steps=2)
    )
model.fit(
    *(x, y), batch_size=32, epochs=4, shuffle=False, verbose=0, validation_data=(x, y),
    callbacks=[AverageStatistics()],
)
logits = model.predict(x, batch_size=32, verbose=0)
by_model = model.evaluate(x, y, batch_size=32, verbose=0, return_dict=True)["accuracy"]
np.savez(f"worker-{index}.npz", logits, *small.everything(model))
result = {
    "by evaluate": by_model,
    "by predict": float(np.mean(logits.argmax(1) == y)),
    "turns": int(keras.ops.convert_to_numpy(model.switcher_optimizer.iterations)),
    "phase": model.phase,
    "sparsity": model.sparsity,
}
# To a file of its own: what two processes print may come as a mixture.
Path(f"worker-{index}.json").write_text(json.dumps(result))
if index == 0:
    # By one worker alone: nothing of it waits for the other.
    model.save("model.keras")
    loaded = keras.saving.load_model("model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), logits, atol=1e-5)
"""


@pytest.fixture(scope="module")
def by_library(tmp_path_factory):
    where = tmp_path_factory.mktemp("library")
    (where / "script.py").write_text(LIBRARY)
    # What `train.py` does by itself: gRPC would ask the proxy.
    status, output = launch("script.py", cwd=where, no_grpc_proxy="127.0.0.1")
    assert status == 0, output
    return where


def test_plain_fit_under_the_strategy_gives_both_workers_the_same_arrays(by_library):
    with (
        np.load(by_library / "worker-0.npz") as one,
        np.load(by_library / "worker-1.npz") as two,
    ):
        assert len(one.files) == len(two.files) > 40
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name])


def test_plain_fit_under_the_strategy_trains_evaluates_and_settles(by_library):
    for index in range(2):
        result = json.loads((by_library / f"worker-{index}.json").read_text())
        assert result["by evaluate"] == pytest.approx(result["by predict"], abs=1e-6)
        assert result["by evaluate"] > 0.9
        # 16 steps, of which the first two and the last six are warm-up and settled.
        assert (result["turns"], result["phase"]) == (4, "settle")
        assert result["sparsity"] == pytest.approx(0.5, abs=5e-4)
