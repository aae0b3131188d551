"""A switched layer in the place of a dense one, and the weights that either has saved."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from one_layer import GRANULARITIES, POLICIES, built, random_switches, values

from keras_switcher import SwitchedDense


def pair(inputs, units=5, granularity="connection", **arguments):
    """A Dense layer, and a SwitchedDense of the same arguments and weights."""
    dense = keras.layers.Dense(units, **arguments)
    dense.build(inputs.shape)
    rng = np.random.default_rng(1)
    dense.set_weights([rng.normal(size=w.shape) for w in dense.weights])
    switched = SwitchedDense(units, granularity=granularity, **arguments)
    switched.build(inputs.shape)
    for ours, theirs in zip(switched.trainable_weights, dense.trainable_weights, strict=True):
        ours.assign(theirs)
    return dense, switched


def assert_equal_to_the_bit(dense, switched, inputs):
    symbolic = keras.Input(inputs.shape[1:], dtype=inputs.dtype.name)
    expected, found = dense(symbolic), switched(symbolic)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    for how in (lambda layer: layer, tf.function):
        expected, found = how(dense)(inputs), how(switched)(inputs)
        assert found.dtype == expected.dtype == symbolic_dtype(dense, symbolic)
        assert np.array_equal(found, expected)


def symbolic_dtype(layer, symbolic):
    return tf.as_dtype(layer(symbolic).dtype)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_equals_dense_to_the_bit_under_every_dtype_policy(policy, granularity):
    inputs = values(7, 18)
    arguments = {"activation": "tanh", "dtype": policy, "granularity": granularity}
    assert_equal_to_the_bit(*pair(inputs, **arguments), inputs)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 18), (2, 3, 18), (2, 3, 4, 18)])
def test_equals_dense_to_the_bit_for_inputs_of_every_rank(shape, use_bias):
    inputs = values(*shape)
    layers = pair(inputs, use_bias=use_bias, activation="relu")
    assert_equal_to_the_bit(*layers, inputs)
    models = [keras.Sequential([keras.Input(shape[1:]), layer]) for layer in layers]
    assert np.array_equal(*(model.predict(inputs, verbose=0) for model in models))


def test_equals_dense_on_sparse_inputs():
    inputs = np.where(values(7, 18) > 1, values(7, 18), 0)
    dense, switched = pair(inputs)
    inputs = tf.sparse.from_dense(inputs)
    assert np.array_equal(switched(inputs), dense(inputs))


@pytest.mark.parametrize("use_bias", [True, False])
def test_gradients_equal_those_of_dense(use_bias):
    inputs = tf.constant(values(7, 18))
    dense, switched = pair(inputs, use_bias=use_bias, activation="relu")
    gradients = []
    for layer in (dense, switched):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(tf.square(layer(inputs)))
        sources = [inputs, *(w.value for w in layer.trainable_weights)]
        gradients.append(tape.gradient(loss, sources))
    for ours, theirs in zip(*gradients, strict=True):
        assert np.array_equal(ours, theirs)


def test_trains_as_dense_does_in_a_plain_model():
    inputs, targets = values(32, 18), values(32, 5, seed=2)
    results = []
    for layer in pair(inputs, kernel_regularizer="l2", kernel_constraint="unit_norm"):
        model = keras.Sequential([keras.Input((18,)), layer])
        model.compile(keras.optimizers.Adam(0.01), "mse")
        history = model.fit(inputs, targets, batch_size=8, shuffle=False, epochs=2, verbose=0)
        results.append((history.history["loss"], *(np.array(w) for w in model.trainable_weights)))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_initialisers_regularisers_and_constraints_are_those_of_dense():
    arguments = {
        "kernel_initializer": keras.initializers.HeNormal(seed=3),
        "bias_initializer": "ones",
        "kernel_regularizer": keras.regularizers.L2(0.1),
        "bias_regularizer": keras.regularizers.L1(0.2),
        "kernel_constraint": "max_norm",
        "bias_constraint": "non_neg",
    }
    dense, switched = keras.layers.Dense(5, **arguments), SwitchedDense(5, **arguments)
    for layer in (dense, switched):
        layer.build((None, 18))
    for ours, theirs in zip(switched.trainable_weights, dense.trainable_weights, strict=True):
        assert np.array_equal(ours, theirs)
        assert type(ours.constraint) is type(theirs.constraint)
        assert type(ours.regularizer) is type(theirs.regularizer)
    assert [float(loss) for loss in switched.losses] == [float(loss) for loss in dense.losses]
    ours, theirs = switched.get_config(), dense.get_config()
    for name in arguments:
        assert ours[name] == theirs[name]


@pytest.mark.parametrize("use_bias", [True, False])
def test_trained_weights_are_named_as_those_of_dense(use_bias):
    dense = keras.layers.Dense(5, use_bias=use_bias, name="it")
    dense.build((None, 18))
    switched = built(use_bias=use_bias, name="it")
    described = [
        [(w.name, w.path, w.shape, w.dtype) for w in layer.trainable_weights]
        for layer in (dense, switched)
    ]
    assert described[0] == described[1]
    assert [w.name for w in switched.trainable_weights] == ["kernel", "bias"][: 1 + use_bias]


def test_freezing_and_thawing_reaches_kernel_and_bias_alone():
    layer = built()
    model = keras.Sequential([keras.Input((18,)), layer])
    model.trainable = False
    assert model.trainable_weights == []
    model.trainable = True
    assert [w.name for w in layer.trainable_weights] == ["kernel", "bias"]
    assert layer.trainable and not layer.switcher.trainable
    layer.trainable = False
    assert not layer.trainable and layer.trainable_weights == []


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("policy", POLICIES)
def test_switches_are_float32_and_not_trained_under_every_policy(policy, granularity):
    layer = built(granularity=granularity, dtype=policy)
    assert layer.switches.dtype == "float32"
    assert not layer.switches.trainable
    assert layer.switches.shape == layer.granularity.shape((18, 5))
    assert np.array_equal(layer.switches, np.ones(layer.switches.shape))
    assert all(w.dtype == "float32" for w in layer.switcher.weights)
    assert layer.compute_logits().dtype == tf.float32


# Saved weights


@pytest.fixture
def group(tmp_path):
    """A group of an HDF5 file, in which Keras keeps the weights of one layer."""
    with h5py.File(tmp_path / "it.weights.h5", "w") as file:
        yield file.create_group("vars")


@pytest.mark.parametrize("use_bias", [True, False])
def test_weights_that_dense_saved_load_and_leave_switches_and_switcher(group, use_bias):
    dense, _ = pair(values(7, 18), use_bias=use_bias)
    dense.save_own_variables(group)
    switched = built(use_bias=use_bias, granularity="block4")
    switches, switcher = random_switches(switched), switched.switcher.get_weights()
    switched.load_own_variables(group)
    for ours, theirs in zip(switched.trainable_weights, dense.weights, strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(switched.switches, switches)
    for old, new in zip(switcher, switched.switcher.get_weights(), strict=True):
        assert np.array_equal(old, new)
    switched.switches.assign(np.ones((5, 5)))
    assert np.array_equal(switched(values(7, 18)), dense(values(7, 18)))


def test_what_a_switched_layer_saved_brings_its_switches(group):
    first, second = built(granularity="block4"), built(granularity="block4")
    random_switches(first)
    first.save_own_variables(group)
    assert sorted(group) == ["0", "1", "switches"]
    second.load_own_variables(group)
    for name in ("kernel", "bias", "switches"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("saved_bias", [True, False])
def test_saved_weights_of_another_layout_are_refused(group, saved_bias):
    dense, _ = pair(values(7, 18), use_bias=saved_bias)
    dense.save_own_variables(group)
    layer = built(use_bias=not saved_bias, name="mine")
    with pytest.raises(ValueError, match="'mine' expected [23] variables, but received [23]"):
        layer.load_own_variables(group)


def two_layers():
    hidden = SwitchedDense(5, "relu", granularity="block4", name="hidden")
    return keras.Sequential([keras.Input((18,)), hidden, SwitchedDense(2)])


def test_own_saved_weights_bring_switches_and_switcher_back(tmp_path):
    first, second = two_layers(), two_layers()
    random_switches(first.get_layer("hidden"))
    first.set_weights([values(*w.shape) if w.ndim else w for w in first.get_weights()])
    first.save_weights(tmp_path / "own.weights.h5")
    second.load_weights(tmp_path / "own.weights.h5")
    assert len(first.weights) == len(second.weights)
    for one, other in zip(first.weights, second.weights, strict=True):
        assert np.array_equal(one, other)


def test_weights_of_dense_can_be_set_in_front_of_the_rest():
    dense, switched = pair(values(7, 18))
    switched.set_weights([*dense.get_weights(), *switched.get_weights()[2:]])
    assert np.array_equal(switched(values(7, 18)), dense(values(7, 18)))
    with pytest.raises(ValueError, match="weight list of length 2, but .* expecting 9"):
        switched.set_weights(dense.get_weights())
