"""Features that hang together: merges, normalisations, reshapes and shared layers."""

import keras
import numpy as np
import pytest
from compacting import compacted_like, edit, gathers, inputs, sparsify, units
from keras import layers


def test_dead_summand_stays_with_its_living_partner():
    given = keras.Input((8,))
    x = layers.Dense(6, "relu", name="one")(given)
    y = layers.Dense(6, "relu", name="two")(given)
    out = layers.Dense(3, name="out")(layers.Add()([x, y]))
    model = keras.Model(given, out)
    edit(model, "one", "kernel", np.s_[:, 2])
    assert units(compacted_like(model)) == {"one": 6, "two": 6, "out": 3}
    edit(model, "two", "kernel", np.s_[:, 2])
    assert units(compacted_like(model)) == {"one": 5, "two": 5, "out": 3}
    edit(model, "out", "kernel", np.s_[4, :])
    assert units(compacted_like(model)) == {"one": 4, "two": 4, "out": 3}


@pytest.mark.parametrize(
    "merge", [layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum]
)
def test_constants_are_merged(merge):
    given = keras.Input((8,))
    x = layers.Dense(6, "relu", name="one")(given)
    y = layers.Dense(6, "relu", name="two")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(merge()([x, y])))
    for name, bias in (("one", 0.75), ("two", 2.0)):
        edit(model, name, "kernel", np.s_[:, 2])
        edit(model, name, "bias", 2, bias)
    assert units(compacted_like(model)) == {"one": 5, "two": 5, "out": 3}


def test_operations_on_tensors_are_followed():
    given = keras.Input((8,))
    x = keras.ops.relu(layers.Dense(6, name="one")(given))
    y = layers.Dense(6, name="two")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(x + y))
    edit(model, "out", "kernel", np.s_[4, :])
    assert units(compacted_like(model)) == {"one": 5, "two": 5, "out": 3}


def test_each_part_of_a_concatenation_loses_its_own():
    given = keras.Input((8,))
    x = layers.Dense(6, "relu", name="one")(given)
    y = layers.Dense(5, "relu", name="two")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(layers.Concatenate()([x, y])))
    edit(model, "out", "kernel", np.s_[[0, 1, 6], :])
    edit(model, "two", "kernel", np.s_[:, 4])
    edit(model, "two", "bias", 4, 1.5)
    assert units(compacted_like(model)) == {"one": 4, "two": 3, "out": 3}


def test_constants_go_through_batch_normalisation_and_dropout():
    given = keras.Input((8,))
    x = layers.Dense(6, name="hidden")(given)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5)(layers.LeakyReLU(negative_slope=0.2)(x))
    model = sparsify(keras.Model(given, layers.Dense(3, name="out")(x)))
    for name in ("hidden", "out"):
        edit(model, name, "kernel", ..., 0.5)
    edit(model, "norm", "gamma", ..., 2.0)
    edit(model, "norm", "gamma", 1)
    edit(model, "norm", "beta", 1, -3.0)
    edit(model, "hidden", "kernel", np.s_[:, 4])
    edit(model, "out", "kernel", np.s_[5, :])
    compacted = compacted_like(model)
    assert units(compacted) == {"hidden": 3, "norm": 3, "out": 3}


def test_unit_behind_which_a_normalisation_has_the_factor_zero_needs_no_input():
    given = keras.Input((8,))
    x = layers.Dense(6, "relu", name="first")(given)
    x = layers.Dense(4, name="second")(x)
    model = keras.Model(given, layers.BatchNormalization(name="norm")(x))
    edit(model, "norm", "gamma", 1)
    # Nobody else reads this unit.
    edit(model, "second", "kernel", np.s_[3, [0, 2, 3]])
    assert units(compacted_like(model)) == {"first": 5, "second": 4, "norm": 4}


def test_parametric_slopes_are_sliced():
    given = keras.Input((5, 5, 2))
    x = layers.Conv2D(6, 3, name="conv")(given)
    x = layers.PReLU(shared_axes=[1, 2], name="shared")(x)
    x = layers.Conv2D(5, 1, name="point")(x)
    x = layers.Flatten()(layers.PReLU(name="own")(x))
    model = sparsify(keras.Model(given, layers.Dense(3, name="out")(x)), density=1.0)
    for name in ("conv", "point", "out"):
        edit(model, name, "kernel", ..., 0.5)
    edit(model, "own", "alpha", ..., np.random.default_rng(0).random((3, 3, 5)))
    edit(model, "conv", "kernel", np.s_[..., 2])
    edit(model, "conv", "bias", 2, -1.0)
    edit(model, "point", "kernel", np.s_[..., 0])
    edit(model, "point", "bias", 0, 1.0)
    # A negative constant is none after slopes that differ between positions.
    edit(model, "point", "kernel", np.s_[..., 1])
    edit(model, "point", "bias", 1, -1.0)
    compacted = compacted_like(model)
    assert units(compacted) == {"conv": 5, "shared": 5, "point": 4, "own": 4, "out": 3}


def test_reshapes_keep_track_of_features():
    given = keras.Input((12,))
    x = layers.Dense(24, "relu", name="first")(given)
    x = layers.Reshape((2, 3, 4))(x)
    x = layers.Conv2D(6, 1, activation="relu", name="conv")(x)
    x = layers.Reshape((-1, 6))(x)
    x = layers.Dense(5, "relu", name="middle")(x)
    x = layers.Reshape((30,))(x)
    model = keras.Model(given, layers.Dense(3, name="out")(x))
    edit(model, "conv", "kernel", np.s_[..., 3, :])
    edit(model, "middle", "kernel", np.s_[1, :])
    edit(model, "out", "kernel", np.s_[2::5, :])
    edit(model, "out", "kernel", np.s_[0, :])
    compacted = compacted_like(model)
    assert units(compacted) == {"first": 18, "conv": 5, "middle": 4, "out": 3}
    assert inputs(compacted)["out"] == 23
    np.testing.assert_array_equal(gathers(compacted.model)[0], np.arange(1, 24))


def test_channel_of_a_reshaped_vector_is_constant_if_all_its_positions_agree():
    given = keras.Input((8,))
    x = layers.Dense(6, name="vector")(given)
    x = layers.Dense(3, name="out")(layers.Reshape((3, 2))(x))
    model = keras.Model(given, x)
    edit(model, "vector", "kernel", np.s_[:, [1, 3, 5]])
    edit(model, "vector", "bias", [1, 3, 5], [1.0, 2.0, 1.0])
    assert units(compacted_like(model))["vector"] == 6
    edit(model, "vector", "bias", [1, 3, 5], 2.0)
    assert units(compacted_like(model))["vector"] == 3


def test_shared_layer_has_one_set_of_features_for_all_its_calls():
    first, second = keras.Input((8,)), keras.Input((8,))
    tower = layers.Dense(6, "relu", name="tower")
    head = layers.Dense(5, "relu", name="head")
    x, y = (head(tower(each)) for each in (first, second))
    one, two = layers.Dense(3, name="one")(x), layers.Dense(3, name="two")(y)
    model = keras.Model([first, second], [one, two])
    edit(model, "tower", "kernel", np.s_[[0, 7], :])
    edit(model, "head", "kernel", np.s_[1, :])
    edit(model, "one", "kernel", np.s_[[2, 3], :])
    edit(model, "two", "kernel", np.s_[[3, 4], :])
    compacted = compacted_like(model)
    assert units(compacted) == {"tower": 5, "head": 4, "one": 3, "two": 3}
    assert len(gathers(compacted.model)) == 2
    assert inputs(compacted)["tower"] == 6


def test_layer_that_reads_its_own_output():
    given = keras.Input((6,))
    again = layers.Dense(6, "sigmoid", name="again")
    model = keras.Model(given, layers.Dense(2, name="out")(again(again(given))))
    edit(model, "again", "kernel", np.s_[:, 1])
    edit(model, "out", "kernel", np.s_[3, :])
    assert units(compacted_like(model)) == {"again": 6, "out": 2}
    edit(model, "again", "kernel", np.s_[3, :])
    assert units(compacted_like(model)) == {"again": 5, "out": 2}


def test_layer_between_two_calls_of_another():
    given = keras.Input((6,))
    again, middle = layers.Dense(6, "tanh", name="again"), layers.Dense(6, name="middle")
    x = again(middle(again(given)))
    model = keras.Model(given, layers.Dense(2, name="out")(x))
    assert units(compacted_like(model)) == {"again": 6, "middle": 6, "out": 2}
    # Unit 4 of the one in between is the constant that input 4 of the other has in its first call.
    edit(model, "middle", "kernel", np.s_[:, 4])
    assert units(compacted_like(model)) == {"again": 6, "middle": 6, "out": 2}
    edit(model, "again", "kernel", np.s_[4, :])
    # The first call's unit 2 is still read, the second call's is not.
    edit(model, "out", "kernel", np.s_[2, :])
    assert units(compacted_like(model)) == {"again": 6, "middle": 5, "out": 2}
    edit(model, "middle", "kernel", np.s_[2, :])
    compacted = compacted_like(model)
    assert units(compacted) == {"again": 5, "middle": 5, "out": 2}
    assert inputs(compacted)["again"] == 5


def test_constants_that_meet_in_a_shared_layer_from_different_depths():
    given = keras.Input((6,))
    x = layers.Dense(4, name="one")(given)
    shared = layers.Dense(3, name="shared")
    y = layers.Dense(4, name="two")(shared(x))
    model = keras.Model(given, layers.Dense(2, name="out")(shared(y)))
    for name in ("one", "two"):
        edit(model, name, "kernel", np.s_[:, 1])
        edit(model, name, "bias", 1, 2.0)
    assert units(compacted_like(model)) == {"one": 3, "two": 3, "shared": 3, "out": 2}


def test_shared_layer_folds_only_what_is_the_same_constant_in_all_calls():
    given = keras.Input((6,))
    x = layers.Dense(4, name="one")(given)
    y = layers.Dense(4, name="two")(given)
    shared = layers.Dense(3, name="shared")
    model = keras.Model(given, layers.Concatenate()([shared(x), shared(y)]))
    for name, value in (("one", 2.0), ("two", 1.0)):
        edit(model, name, "kernel", np.s_[:, [1, 2]])
        edit(model, name, "bias", 1, value)
        edit(model, name, "bias", 2, 1.0)
    compacted = compacted_like(model)
    assert units(compacted) == {"one": 3, "two": 3, "shared": 3}
