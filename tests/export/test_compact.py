import keras
import numpy as np
import pytest
from compacting import (
    batch,
    compacted_like,
    dense_chain,
    edit,
    gathers,
    inputs,
    predictions,
    units,
)
from keras import layers

from export.compact import LayerChange, LayerSize, compact


def weights(model, name):
    return [np.array(w) for w in model.get_layer(name).get_weights()]


def test_model_without_zeros_is_the_same_to_the_bit():
    model = dense_chain(12, 9, 7, 4)
    compacted = compact(model)
    assert gathers(compacted.model) == []
    for old, new in zip(model.get_weights(), compacted.model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    for change in compacted.layers:
        assert change.before == change.after
    hidden = compacted.model.get_layer("dense1").get_config()
    assert hidden == model.get_layer("dense1").get_config()


def test_unit_without_incoming_weights_is_folded_into_the_next_bias():
    model = dense_chain(12, 9, 7, 4)
    edit(model, "dense1", "kernel", np.s_[:, 3])
    edit(model, "dense1", "bias", 3, 0.75)
    compacted = compacted_like(model)
    assert units(compacted) == {"dense1": 8, "dense2": 7, "dense3": 4}
    kernel, bias = weights(model, "dense2")
    new_kernel, new_bias = weights(compacted.model, "dense2")
    np.testing.assert_allclose(new_bias, bias + 0.75 * kernel[3], rtol=1e-6)
    np.testing.assert_array_equal(new_kernel, np.delete(kernel, 3, axis=0))


def test_unit_without_incoming_weights_and_negative_bias_adds_nothing():
    model = dense_chain(12, 9, 4)
    edit(model, "dense1", "kernel", np.s_[:, 3])
    edit(model, "dense1", "bias", 3, -0.75)
    compacted = compacted_like(model)
    assert units(compacted)["dense1"] == 8
    np.testing.assert_array_equal(
        weights(compacted.model, "dense2")[1], weights(model, "dense2")[1]
    )


def test_constants_are_followed_through_two_layers():
    model = dense_chain(12, 9, 7, 4)
    edit(model, "dense1", "kernel", np.s_[:, 3])
    edit(model, "dense1", "bias", 3, 0.75)
    # A unit of the second layer that reads the constant unit of the first alone.
    edit(model, "dense2", "kernel", np.s_[[*range(3), *range(4, 9)], 5])
    edit(model, "dense2", "kernel", np.s_[3, 5], 0.5)
    edit(model, "dense2", "bias", 5, 0.25)
    compacted = compacted_like(model)
    assert units(compacted) == {"dense1": 8, "dense2": 6, "dense3": 4}
    kernel, bias = weights(model, "dense3")
    folded = bias + (0.75 * 0.5 + 0.25) * kernel[5]
    np.testing.assert_allclose(weights(compacted.model, "dense3")[1], folded, rtol=1e-6)


def test_unit_that_nobody_reads_takes_those_before_it_along():
    model = dense_chain(12, 9, 8, 7, 4)
    edit(model, "dense4", "kernel", np.s_[2, :])
    # Only unit 2 of the third layer reads unit 1 of the second, and so on.
    edit(model, "dense3", "kernel", np.s_[1, [0, 1, 3, 4, 5, 6]])
    edit(model, "dense2", "kernel", np.s_[0, [0, *range(2, 8)]])
    edit(model, "dense1", "kernel", np.s_[11, 1:])
    compacted = compacted_like(model)
    assert units(compacted) == {"dense1": 8, "dense2": 7, "dense3": 6, "dense4": 4}
    # The input that only these read goes with them.
    assert inputs(compacted)["dense1"] == 11
    np.testing.assert_array_equal(gathers(compacted.model)[0], np.arange(11))


def test_table_tells_sizes_before_and_after():
    model = dense_chain(12, 9, 4)
    edit(model, "dense2", "kernel", np.s_[2, :])
    edit(model, "dense1", "kernel", np.s_[0, 0])
    assert compact(model).layers == (
        LayerChange("dense1", "Dense", LayerSize(12, 9, 117, 116), LayerSize(12, 8, 104, 103)),
        LayerChange("dense2", "Dense", LayerSize(9, 4, 40, 36), LayerSize(8, 4, 36, 36)),
    )


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "gelu", "elu", "softplus", "relu6"])
def test_constant_goes_through_the_activation(activation):
    model = dense_chain(6, 5, 3, activation=activation)
    edit(model, "dense1", "kernel", np.s_[:, 3])
    edit(model, "dense1", "bias", 3, 0.75)
    assert units(compacted_like(model))["dense1"] == 4


def test_layer_without_bias_gets_one_for_a_constant():
    given = keras.Input((6,))
    x = layers.Dense(5, "sigmoid", use_bias=False, name="hidden")(given)
    model = keras.Model(given, layers.Dense(3, use_bias=False, name="out")(x))
    # The sigmoid of a unit without weights is a half.
    edit(model, "hidden", "kernel", np.s_[:, 2])
    compacted = compacted_like(model)
    assert units(compacted)["hidden"] == 4
    np.testing.assert_allclose(
        weights(compacted.model, "out")[1], 0.5 * weights(model, "out")[0][2], rtol=1e-6
    )
    assert not compacted.model.get_layer("hidden").use_bias


def test_layer_without_bias_stays_so_where_the_constants_are_zero():
    model = dense_chain(6, 5, 3, use_bias=False)
    edit(model, "dense1", "kernel", np.s_[:, 2])
    compacted = compacted_like(model)
    assert units(compacted)["dense1"] == 4
    assert not compacted.model.get_layer("dense2").use_bias


@pytest.mark.parametrize("group", [1, 4])
def test_all_zero_kernels_leave_a_model_that_puts_out_its_constants(group):
    for dead in range(1, 4):
        model = dense_chain(12, 9, 7, 4)
        edit(model, f"dense{dead}", "kernel", ...)
        compacted = compacted_like(model, group)
        assert min(units(compacted).values()) >= 1
        assert inputs(compacted)["dense1"] == group
        assert units(compacted)["dense3"] == 4


def test_single_units_stay():
    model = dense_chain(5, 1, 1, 1)
    assert set(units(compacted_like(model)).values()) == {1}
    edit(model, "dense2", "kernel", ...)
    assert set(units(compacted_like(model)).values()) == {1}


def test_units_of_the_outputs_stay():
    model = dense_chain(6, 5, 4)
    edit(model, "dense2", "kernel", np.s_[:, 1])
    edit(model, "dense2", "bias", 1)
    assert units(compacted_like(model)) == {"dense1": 5, "dense2": 4}


def test_every_output_of_several_is_kept_right():
    given = keras.Input((8,))
    x = layers.Dense(6, "relu", name="hidden")(given)
    y = layers.Dense(5, "relu", name="features")(x)
    model = keras.Model(given, {"b": y, "a": layers.Dense(3, name="logits")(y), "c": x})
    for name in ("features", "logits"):
        edit(model, name, "kernel", np.s_[2, :])
    assert units(compacted_like(model)) == {"hidden": 6, "features": 5, "logits": 3}
    inner = keras.Model(given, [y, layers.Dense(3, name="logits")(y)])
    assert units(compacted_like(inner)) == {"hidden": 5, "features": 5, "logits": 3}


def test_unread_entries_of_two_inputs_are_gathered():
    first, second = keras.Input((8,), name="first"), keras.Input((2, 3, 1), name="second")
    x = layers.Dense(4, "relu", name="one")(first)
    y = layers.Dense(4, "relu", name="two")(layers.Flatten()(second))
    out = layers.Dense(3, name="out")(layers.Concatenate()([x, y]))
    model = keras.Model({"first": first, "second": second}, out)
    edit(model, "one", "kernel", np.s_[[1, 7], :])
    edit(model, "two", "kernel", np.s_[:2, :])
    compacted = compacted_like(model)
    taken = sorted(map(list, gathers(compacted.model)))
    assert taken == [[0, 2, 3, 4, 5, 6], [2, 3, 4, 5]]
    assert {each.dtype for each in gathers(compacted.model)} == {np.dtype("int32")}


def test_one_gather_serves_all_readers_of_a_flatten():
    given = keras.Input((3, 2, 1))
    flat = layers.Flatten()(given)
    x = layers.Dense(4, name="one")(flat)
    y = layers.Dense(4, name="two")(layers.Dropout(0.5)(flat))
    model = keras.Model(given, layers.Add()([x, y]))
    edit(model, "one", "kernel", np.s_[[0, 1, 2], :])
    edit(model, "two", "kernel", np.s_[[0, 1, 5], :])
    (taken,) = gathers(compacted_like(model).model)
    np.testing.assert_array_equal(taken, [2, 3, 4, 5])


@pytest.mark.parametrize("group", [4, 16])
def test_inputs_of_dense_layers_go_in_whole_groups(group):
    rng = np.random.default_rng(0)
    model = dense_chain(784, 70, 5)
    # Rows in blocks, as granularity block4 or block16 leaves them.
    blocks = rng.random((-(-784 // group), 70)) < 0.3
    blocks[:3], blocks[-1] = False, False
    kernel = np.array(model.get_layer("dense1").kernel)
    kernel *= np.repeat(blocks, group, axis=0)[:784]
    model.get_layer("dense1").kernel.assign(kernel)
    alive = np.repeat(rng.random(-(-70 // group)) < 0.5, group)[:70]
    alive[-1] = True
    alive[0] = False
    edit(model, "dense2", "kernel", np.s_[~alive, :])
    compacted = compacted_like(model, group)
    groups = {index // group for index in np.flatnonzero(alive)}
    columns = np.array([index for index in range(70) if index // group in groups])
    assert units(compacted)["dense1"] == len(columns)
    (taken,) = gathers(compacted.model)
    rows = np.arange(784)[np.repeat(blocks[:, alive].any(axis=1), group)[:784]]
    np.testing.assert_array_equal(taken, rows)
    new = weights(compacted.model, "dense1")[0]
    expected = kernel[np.ix_(rows, columns)] * alive[columns]
    np.testing.assert_array_equal(new, expected)
    # Each block of the new kernel is a block of the old one, in the same alignment.
    assert all(rows[start] % group == 0 for start in range(0, len(rows), group))
    assert all(columns[start] % group == 0 for start in range(0, len(columns), group))


def test_constant_in_a_living_group_is_folded_and_its_place_kept():
    model = dense_chain(6, 8, 3)
    edit(model, "dense1", "kernel", np.s_[:, 5])
    edit(model, "dense1", "bias", 5, 0.75)
    compacted = compacted_like(model, 4)
    assert units(compacted)["dense1"] == 8
    kernel, bias = weights(model, "dense2")
    new_kernel, new_bias = weights(compacted.model, "dense2")
    np.testing.assert_allclose(new_bias, bias + 0.75 * kernel[5], rtol=1e-6)
    assert not new_kernel[5].any()
    np.testing.assert_array_equal(np.delete(new_kernel, 5, 0), np.delete(kernel, 5, 0))


def test_groups_straddle_the_parts_of_a_concatenation():
    given = keras.Input((4,))
    x = layers.Dense(6, "relu", name="one")(given)
    y = layers.Dense(6, "relu", name="two")(given)
    model = keras.Model(given, layers.Dense(3, name="out")(layers.Concatenate()([x, y])))
    # The second group of four: two units of each.
    edit(model, "out", "kernel", np.s_[4:8, :])
    assert units(compacted_like(model, 4)) == {"one": 4, "two": 4, "out": 3}
    edit(model, "out", "kernel", np.s_[7, :], 1.0)
    assert units(compacted_like(model, 4)) == {"one": 6, "two": 6, "out": 3}


@pytest.mark.parametrize(
    ("policy", "weights_dtype", "atol"),
    [
        ("mixed_bfloat16", "float32", 0.02),
        ("bfloat16", "bfloat16", 0.05),
        ("float64", "float64", 1e-6),
    ],
)
def test_dtype_policies_are_kept(policy, weights_dtype, atol):
    given = keras.Input((12,))
    x = layers.Dense(8, "relu", dtype=policy, name="hidden")(given)
    x = layers.BatchNormalization(dtype=policy, name="norm")(x)
    model = keras.Model(given, layers.Dense(3, dtype="float32", name="out")(x))
    edit(model, "hidden", "kernel", np.s_[:, 3])
    edit(model, "hidden", "bias", 3, 0.75)
    compacted = compacted_like(model, atol=atol)
    hidden = compacted.model.get_layer("hidden")
    assert units(compacted)["hidden"] == 7
    assert (hidden.dtype_policy.name, hidden.kernel.dtype) == (policy, weights_dtype)
    assert compacted.model.get_layer("out").dtype_policy.name == "float32"


def test_saved_and_loaded_model_predicts_the_same(tmp_path):
    model = dense_chain(12, 9, 7, 4)
    edit(model, "dense1", "kernel", np.s_[[1, 5], :])
    edit(model, "dense2", "kernel", np.s_[4, :])
    compacted = compacted_like(model).model
    compacted.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    given = batch(model)
    np.testing.assert_array_equal(predictions(loaded, given), predictions(compacted, given))
    # Again: nothing more to take away, and if there is, its gather finds a name of its own.
    again = compacted_like(loaded)
    assert [change.before for change in again.layers] == [change.after for change in again.layers]
    edit(loaded, "dense1", "kernel", np.s_[2, :])
    assert inputs(compacted_like(loaded))["dense1"] == 9


def test_sequential_model_is_compacted():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, "relu", name="hidden"), layers.Dense(2, name="out")]
    )
    edit(model, "out", "kernel", np.s_[3, :])
    compacted = compacted_like(model)
    assert units(compacted) == {"hidden": 4, "out": 2}
    assert compacted.model.name == model.name
