import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from small import (
    CLASSES,
    INPUTS,
    always,
    arrays,
    compiled,
    network,
    only_warmup,
    separable,
    switches,
)

from keras_switcher import Alternation, SwitchedDense, SwitchedModel

X, Y = separable()
FIT = {"x": X, "y": Y, "batch_size": 32, "shuffle": False, "verbose": 0}


def trained(epochs=4, model=None, **options):
    model = network() if model is None else model
    options = {"run_eagerly": False, "jit_compile": False, **options}
    # 16 steps, settled from step 8 on: executions of 4 steps settle no later.
    alternation = Alternation(task_steps=2, warmup=0.125, settle=0.5)
    compiled(model, alternation=alternation, **options)
    history = model.fit(epochs=epochs, **FIT)
    return model, history.history


@pytest.fixture(scope="module")
def reference():
    """The model trained the usual way: a graph, a step at a time, without XLA."""
    return trained()


def test_training_step_is_traced_once(monkeypatch):
    calls = []
    step = SwitchedModel.train_step
    monkeypatch.setattr(
        SwitchedModel, "train_step", lambda model, data: (calls.append(data), step(model, data))[1]
    )
    _, history = trained(epochs=2)
    assert len(calls) == 1
    assert len(history["accuracy"]) == 2


@pytest.mark.parametrize(
    "options", [{"jit_compile": True}, {"steps_per_execution": 4}, {"run_eagerly": True}], ids=str
)
def test_training_gives_nearly_the_same_however_it_is_executed(reference, options):
    model, history = trained(**options)
    expected, expected_history = reference
    assert model.sparsity == pytest.approx(0.5, abs=0.005)
    assert int(model.switcher_optimizer.iterations) == 3
    for own, other in zip(
        arrays(model.task_variables), arrays(expected.task_variables), strict=True
    ):
        np.testing.assert_allclose(own, other, atol=5e-3)
    np.testing.assert_allclose(history["loss"], expected_history["loss"], rtol=1e-2)
    differing = np.mean(
        np.concatenate(
            [(a != b).ravel() for a, b in zip(switches(model), switches(expected), strict=True)]
        )
    )
    assert differing < 0.02


@pytest.mark.parametrize("gate", ["step", "relu_tanh"])
def test_whole_step_compiles_with_xla(gate):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((INPUTS,))
    x = keras.layers.Dense(10, "relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = SwitchedDense(16, "relu", gate=gate, granularity="block4")(x)
    x = keras.layers.Dropout(0.1)(x)
    model = SwitchedModel(inputs, SwitchedDense(CLASSES, gate=gate, switcher="connection")(x))
    model, _ = trained(model=model, jit_compile=True)
    assert model.jit_compile
    assert model.phase == "settle"
    assert model.sparsity == pytest.approx(0.5, abs=0.005)


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def mixed_policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


def test_mixed_precision_trains_both_networks_and_hits_the_target(mixed_policy):
    model = network()
    before = arrays([*model.task_variables, *model.switcher_variables])
    model, history = trained(model=model)
    after = arrays([*model.task_variables, *model.switcher_variables])
    assert all(value.dtype == np.float32 for value in after)
    assert all(np.all(np.isfinite(value)) for value in after)
    assert not any(np.array_equal(a, b) for a, b in zip(after[:6], before[:6], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(after[6:], before[6:], strict=True))
    assert model.sparsity == pytest.approx(0.5, abs=0.005)
    assert history["loss"][-1] < history["loss"][0]
    assert np.isfinite(float(model.alternation_state.multiplier))
    assert model(X).dtype == mixed_policy.removeprefix("mixed_")


def test_mixed_float16_scales_the_losses_of_both_networks(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = compiled(network(), alternation=always())
        for optimizer in (model.optimizer, model.switcher_optimizer):
            assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        model.train_on_batch(X, Y)
        for optimizer in (model.optimizer, model.switcher_optimizer):
            assert int(optimizer.inner_optimizer.iterations) == 1
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert isinstance(loaded.switcher_optimizer, keras.optimizers.LossScaleOptimizer)
        assert isinstance(
            loaded.switcher_optimizer.inner_optimizer,
            type(model.switcher_optimizer.inner_optimizer),
        )
        for one, other in zip(
            arrays(loaded.switcher_optimizer.variables),
            arrays(model.switcher_optimizer.variables),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)
    finally:
        keras.config.set_dtype_policy("float32")


def test_multiplier_does_not_depend_on_the_scale_of_the_loss():
    # Scaled by 2 ** 15 and not scaled back, it would be off by that factor.
    multipliers = {}
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            model = compiled(network(), alternation=always())
            model.train_on_batch(X, Y)
            multipliers[policy] = float(model.alternation_state.multiplier)
        finally:
            keras.config.set_dtype_policy("float32")
    assert multipliers["float32"] != 0
    assert multipliers["mixed_float16"] == pytest.approx(multipliers["float32"], rel=0.2)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_train_on_batch_equals_fit(run_eagerly):
    by_fit, by_hand = network(), network()
    compiled(by_fit, run_eagerly=run_eagerly, alternation=only_warmup())
    by_fit.fit(epochs=1, **FIT)
    compiled(by_hand, run_eagerly=run_eagerly, alternation=Alternation(task_steps=100))
    for start in range(0, len(X), 32):
        logs = by_hand.train_on_batch(
            X[start : start + 32], Y[start : start + 32], return_dict=True
        )
    assert set(logs) == {"loss", "accuracy", "sparsity"}
    for own, other in zip(
        arrays(by_hand.task_variables), arrays(by_fit.task_variables), strict=True
    ):
        np.testing.assert_array_equal(own, other)


def test_subclassed_model_that_is_first_built_by_a_graph_warms_up_and_settles():
    class OwnCall(SwitchedModel):
        def __init__(self):
            super().__init__()
            self.hidden, self.last = SwitchedDense(16, "relu"), SwitchedDense(CLASSES)

        def call(self, inputs):
            return self.last(self.hidden(inputs))

    keras.utils.set_random_seed(0)
    model = OwnCall()
    compiled(
        model, run_eagerly=False, alternation=Alternation(task_steps=1, warmup=0.5, settle=0.2)
    )
    history = model.fit(epochs=5, validation_data=(X, Y), **FIT).history
    assert history["sparsity"][:2] == [0.0, 0.0]
    assert int(model.switcher_optimizer.iterations) == 6
    assert model.sparsity == pytest.approx(0.5, abs=0.01)


def test_subclassed_model_that_is_first_built_by_train_on_batch_trains():
    class OwnCall(SwitchedModel):
        def __init__(self):
            super().__init__()
            self.only = SwitchedDense(CLASSES)

        def call(self, inputs):
            return self.only(inputs)

    model = compiled(OwnCall(), run_eagerly=False, alternation=always())
    first = model.train_on_batch(X, Y, return_dict=True)["loss"]
    for _ in range(5):
        last = model.train_on_batch(X, Y, return_dict=True)["loss"]
    assert last < first
    assert int(model.switcher_optimizer.iterations) == 6


DISTRIBUTED = """
import json, sys
import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import small
from keras_switcher import Alternation, SwitchedModel, SwitchedDense, Switcher
from keras_switcher.batches import evaluation_batches
from keras_switcher.gradients import overflowing_together

x, y = small.separable()
report = {}

class OwnCall(SwitchedModel):
    def __init__(self):
        super().__init__()
        self.hidden, self.last = SwitchedDense(16, "relu"), SwitchedDense(small.CLASSES)

    def call(self, inputs):
        return self.last(self.hidden(inputs))

def train(strategy, build=small.network):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = build()
        small.compiled(
            model, run_eagerly=False, jit_compile=False, alternation=Alternation(task_steps=2)
        )
    history = model.fit(
        x, y, batch_size=32, epochs=3, shuffle=False, verbose=0, validation_data=(x, y)
    )
    return model, history.history

class Penalised(Switcher):
    def build(self, kernel_shape):
        normal = keras.initializers.RandomNormal(seed=1)
        self.own = self.add_weight(shape=kernel_shape, initializer=normal, regularizer="l2")

    def call(self, kernel):
        return self.own + kernel

def penalised():
    inputs = keras.Input((small.INPUTS,))
    layer = SwitchedDense(small.CLASSES, switcher=Penalised())
    return SwitchedModel(inputs, layer(inputs))

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
one, history = train(tf.distribute.get_strategy())
two, two_history = train(mirrored)
report["replicas"] = mirrored.num_replicas_in_sync
report["weights"] = max(
    float(np.max(np.abs(a - b)))
    for a, b in zip(small.arrays(one.task_variables), small.arrays(two.task_variables))
)
report["switches_differ"] = float(np.mean(np.concatenate(
    [(a != b).ravel() for a, b in zip(small.switches(one), small.switches(two))]
)))
per_replica = [
    [v.numpy() for v in layer.switches.value.values] for layer in two.switched_layers()
]
report["copies"] = [len(v) for v in per_replica]
report["replicas_agree"] = all(np.array_equal(a, b) for a, b in per_replica)
report["switchers_agree"] = all(
    np.array_equal(*[v.numpy() for v in w.value.values]) for w in two.switcher_variables
)
report["losses"] = [history["loss"], two_history["loss"]]
report["val_losses"] = [history["val_loss"], two_history["val_loss"]]
report["sparsities"] = [one.sparsity, two.sparsity]
report["turns"] = [
    int(keras.ops.convert_to_numpy(m.switcher_optimizer.iterations)) for m in (one, two)
]
report["multipliers"] = [
    float(keras.ops.convert_to_numpy(m.alternation_state.multiplier)) for m in (one, two)
]
strategies = tf.distribute.get_strategy(), mirrored
alone, together = (
    small.arrays(train(strategy, penalised)[0].switcher_variables) for strategy in strategies
)
report["penalised"] = max(float(np.abs(a - b).max()) for a, b in zip(alone, together))
report["subclassed"] = train(mirrored, OwnCall)[0].sparsity

plain = small.compiled(small.network())
plain.set_weights(two.get_weights())
report["evaluated"] = {}
for examples in (33, 35, 5):
    few = x[:examples], y[:examples]
    batches = evaluation_batches(*few, 32, mirrored)
    sizes = [[len(part) for part in images.values] for images, _ in batches]
    report["evaluated"][examples] = [
        sizes,
        two.evaluate(batches, verbose=0, return_dict=True),
        plain.evaluate(*few, verbose=0, return_dict=True),
    ]
try:
    evaluation_batches(x[:3], y[:3], 32, mirrored)
except ValueError as error:
    report["too_few"] = str(error)

keras.config.set_dtype_policy("mixed_float16")
report["overflow"] = {}
# The second alone: Keras itself asks the first.
for half in (1,):
    with mirrored.scope():
        model = small.compiled(small.network(), run_eagerly=False, jit_compile=False)
    before = small.arrays(model.trainable_variables)
    large = np.array(x[:32])
    large[16 * half :][:16] *= 1e4
    model.fit(large, y[:32], batch_size=32, shuffle=False, verbose=0)
    report["overflow"][half] = [
        all(map(np.array_equal, before, small.arrays(model.trainable_variables))),
        float(keras.ops.convert_to_numpy(model.optimizer.dynamic_scale)),
    ]
scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())

@tf.function
def together(bad):
    def gradients():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        one = tf.where(replica == bad, float("inf"), 1.0)
        slices = tf.IndexedSlices(tf.ones((2, 3)), tf.constant([0, 4]), tf.constant([5, 3]))
        first, missing, rows = overflowing_together(scaling, [one, None, slices])
        assert missing is None
        indices = tf.cast(tf.reduce_sum(rows.indices), tf.float32)
        return tf.stack([first, tf.reduce_sum(rows.values), indices])
    return mirrored.experimental_local_results(mirrored.run(gradients))

report["together"] = {bad: [v.numpy().tolist() for v in together(bad)] for bad in (0, 1, 2)}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def distributed():
    """What a process with two logical CPUs reports: devices are configured before TF starts."""
    done = subprocess.run(
        [sys.executable, "-c", DISTRIBUTED],
        cwd=__file__.rpartition("/")[0],
        env={**os.environ, "PYTHONPATH": ".."},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_two_replicas_train_to_nearly_the_same_weights_as_one(distributed):
    assert distributed["replicas"] == 2
    assert distributed["weights"] < 5e-3
    assert distributed["switches_differ"] < 0.02
    assert distributed["turns"] == [3, 3]
    one, two = distributed["multipliers"]
    assert two == pytest.approx(one, rel=0.05)


@pytest.mark.slow
def test_penalties_of_switchers_count_once_whatever_the_number_of_replicas(distributed):
    assert distributed["penalised"] < 1e-4


@pytest.mark.slow
def test_two_replicas_log_the_loss_of_the_whole_batch(distributed):
    for name in ("losses", "val_losses"):
        one, two = distributed[name]
        np.testing.assert_allclose(two, one, rtol=1e-2)


@pytest.mark.slow
def test_two_replicas_have_the_same_switches_and_hit_the_target(distributed):
    assert distributed["copies"] == [2, 2]
    assert distributed["replicas_agree"]
    assert distributed["switchers_agree"]
    assert distributed["sparsities"] == pytest.approx([0.5, 0.5], abs=0.005)


@pytest.mark.slow
def test_subclassed_model_first_built_under_a_strategy_hits_its_target(distributed):
    assert distributed["subclassed"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_a_step_that_overflows_in_one_replica_is_skipped_in_all(distributed):
    # Half of the scale with which Keras begins.
    assert distributed["overflow"] == {"1": [True, 2.0**14]}


@pytest.mark.slow
def test_gradients_of_all_replicas_are_nan_if_those_of_one_overflow(distributed):
    for bad in ("0", "1"):
        assert len(distributed["together"][bad]) == 2
        assert all(np.isnan(found[:2]).all() for found in distributed["together"][bad])
    assert distributed["together"]["2"] == [[1.0, 6.0, 4.0]] * 2


def test_no_variable_is_kept_from_xla_on_a_gpu():
    # TensorFlow has no variables of 32-bit integers on GPUs, so XLA can't use them there.
    model = compiled(network())
    model.fit(X, Y, batch_size=32, verbose=0)
    optimizers = (model.optimizer, model.switcher_optimizer)
    for variable in [*model.variables, *(v for each in optimizers for v in each.variables)]:
        assert variable.dtype != "int32", variable.path


@pytest.mark.slow
def test_two_replicas_evaluate_every_example_once_and_none_has_an_empty_part(distributed):
    # Of an empty part the loss would not be a number, and with it the loss of the whole.
    for examples, sizes in (
        ("33", [[8, 8], [8, 9]]),
        ("35", [[9, 9], [9, 8]]),
        ("5", [[1, 1], [1, 2]]),
    ):
        found, by_two, by_one = distributed["evaluated"][examples]
        assert found == sizes
        assert by_two == pytest.approx(by_one, rel=1e-5)
    assert "two examples for each replica" in distributed["too_few"]
    assert "Received: 3 examples, 2 replicas" in distributed["too_few"]
