import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from keras.src.testing import TestCase  # the contract that Keras puts its own layers to
from one_layer import GRANULARITIES, POLICIES, built, random_switches, spread, values

from keras_switcher import ConnectionSwitcher, SwitchedDense, Switcher, UnitSwitcher, gates
from keras_switcher.layers import switched_layers


@keras.saving.register_keras_serializable("keras_switcher_tests")
class ForbiddenSwitcher(Switcher):
    """Can be built, but raises when the layer computes anything with it."""

    def call(self, kernel):
        raise AssertionError("the switcher was called")

    def compute_output_spec(self, kernel):
        return kernel


@keras.saving.register_keras_serializable("keras_switcher_tests")
class WrongShapeSwitcher(Switcher):
    def call(self, kernel):
        return kernel[:-1]


# What Keras asks of a layer


@pytest.fixture
def contract():
    case = TestCase()
    case.setUp()
    yield case
    case.doCleanups()


@pytest.mark.parametrize(
    ("arguments", "shape", "counts"),
    [
        # Counts: trained, not trained (switches and switcher), losses.
        ({"units": 4, "activation": "relu"}, (2, 3), (2, 7, 0)),
        ({"units": 4, "use_bias": False, "granularity": "unit"}, (2, 3), (1, 7, 0)),
        (
            {
                "units": 5,
                "activation": "sigmoid",
                "kernel_regularizer": "l2",
                "bias_regularizer": "l2",
                "switcher": ConnectionSwitcher((4, 3), normalization="layer"),
                "gate": "relu_tanh",
                "granularity": "block4",
            },
            (2, 3, 6),
            (2, 10, 2),
        ),
        (
            {
                "units": 2,
                "switcher": UnitSwitcher((), magnitude=None),
                "kernel_constraint": "non_neg",
                "activity_regularizer": "l2",
                "granularity": "block16",
            },
            (2, 3, 4, 18),
            (2, 4, 1),
        ),
    ],
)
def test_layer_contract_of_keras(contract, arguments, shape, counts):
    trained, not_trained, losses = counts
    contract.run_layer_test(
        SwitchedDense,
        init_kwargs=arguments,
        input_shape=shape,
        expected_output_shape=(*shape[:-1], arguments["units"]),
        expected_num_trainable_weights=trained,
        expected_num_non_trainable_weights=not_trained,
        expected_num_non_trainable_variables=not_trained,
        expected_num_seed_generators=0,
        expected_num_losses=losses,
        supports_masking=True,
    )


# Switches


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_switch_that_is_off_masks_its_connections(granularity, use_bias):
    layer = built(granularity=granularity, use_bias=use_bias, bias_initializer="ones")
    mask = spread(layer, random_switches(layer))
    inputs, kernel = values(7, 18), ops.convert_to_numpy(layer.kernel)
    assert np.array_equal(layer.masked_kernel(), kernel * mask)
    assert np.array_equal(np.broadcast_to(layer.expanded_switches(), (18, 5)), mask)
    expected = inputs.astype("float64") @ (kernel * mask) + (1 if use_bias else 0)
    np.testing.assert_allclose(layer(inputs), expected, rtol=1e-4, atol=1e-5)
    assert float(layer.on_connections()) == mask.sum()
    assert layer.connections == 90


@pytest.mark.parametrize("policy", POLICIES)
def test_masked_connections_are_exact_zeros_under_every_policy(policy):
    layer = built(granularity="block4", dtype=policy, use_bias=False, kernel_initializer="ones")
    mask = spread(layer, random_switches(layer))
    assert 0 < mask.mean() < 1
    rows = layer(np.eye(18, dtype="float32"))
    assert np.array_equal(tf.cast(rows, "float32"), mask)


def test_switches_scale_where_the_gate_does():
    layer = built(3, 4, gate="relu_tanh")
    layer.switches.assign(np.full((4, 3), 0.25))
    np.testing.assert_allclose(layer.masked_kernel(), 0.25 * np.array(layer.kernel))
    assert float(layer.on_connections()) == 12


def test_on_connections_counts_given_switches_and_passes_their_gradient_on():
    layer = built(granularity="block16")
    switches = tf.constant([[1.0, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 0]])
    with tf.GradientTape() as tape:
        tape.watch(switches)
        on = layer.on_connections(switches)
    assert float(on) == 16 + 8 + 2
    assert tape.gradient(on, switches).numpy().tolist() == [[16] * 5, [2] * 5]


@pytest.mark.parametrize("granularity", ["connection", "block4"])
def test_masked_predictions_never_need_the_switcher(granularity, tmp_path):
    inputs = keras.Input((18,))
    first = SwitchedDense(
        6, "relu", switcher=ForbiddenSwitcher(), granularity=granularity, name="first"
    )
    model = keras.Model(inputs, keras.layers.Dense(2)(first(inputs)))
    with pytest.raises(AssertionError, match="the switcher was called"):
        first.compute_logits()
    unmasked = model.predict(values(7, 18), verbose=0)
    mask = spread(first, random_switches(first))
    predictions = model.predict(values(7, 18), verbose=0)
    assert not np.array_equal(predictions, unmasked)

    plain = keras.Sequential(
        [keras.Input((18,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(2)]
    )
    kernel, bias, *rest = (np.array(w) for w in model.trainable_weights)
    plain.set_weights([kernel * mask, bias, *rest])
    np.testing.assert_allclose(
        predictions, plain.predict(values(7, 18), verbose=0), rtol=1e-5, atol=1e-6
    )

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.predict(values(7, 18), verbose=0), predictions)
    assert type(again.get_layer("first").switcher) is ForbiddenSwitcher
    assert np.array_equal(again.get_layer("first").switches, first.switches)


def test_switches_stay_in_a_plain_model():
    layer = built()
    switches = random_switches(layer)
    model = keras.Sequential([keras.Input((18,)), layer])
    model.compile("sgd", "mse")
    kernel, switcher = np.array(layer.kernel), layer.switcher.get_weights()
    model.fit(values(16, 18), values(16, 5), verbose=0)
    moved = np.array(layer.kernel) != kernel
    assert np.array_equal(moved, switches == 1)  # no gradient where a connection is off
    assert np.array_equal(layer.switches, switches)
    for before, after in zip(switcher, layer.switcher.get_weights(), strict=True):
        assert np.array_equal(before, after)


# The configuration


def test_configuration_holds_every_argument():
    layer = SwitchedDense(
        5,
        "relu",
        use_bias=False,
        switcher=UnitSwitcher((6,), "tanh", "layer", magnitude=0.5),
        gate="relu_tanh",
        granularity="block4",
        dtype="mixed_bfloat16",
        name="mine",
    )
    again = SwitchedDense.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert (again.name, again.units, again.use_bias) == ("mine", 5, False)
    assert again.activation is keras.activations.relu
    assert again.gate is gates.relu_tanh
    assert again.granularity.name == "block4"
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert type(again.switcher) is UnitSwitcher
    assert again.switcher.get_config()["hidden"] == [6]
    assert again.switcher.magnitude == 0.5
    assert again.switcher.granularity is again.granularity


def test_defaults():
    layer = SwitchedDense(5)
    assert type(layer.switcher) is UnitSwitcher
    assert layer.gate is gates.step
    assert layer.granularity.name == "connection"
    assert layer.get_config()["gate"] == "step"
    assert layer.get_config()["granularity"] == "connection"


# Logits


def all_kinds():
    for granularity in GRANULARITIES:
        for switcher in ("unit", "orthogonal", "connection"):
            yield pytest.param(switcher, granularity, id=f"{switcher}-{granularity}")


@pytest.mark.parametrize(("switcher", "granularity"), all_kinds())
def test_logits_have_mean_of_the_initial_offset_and_variance_one(switcher, granularity):
    keras.utils.set_random_seed(0)
    layer = built(30, 50, switcher=switcher, granularity=granularity)
    logits = np.asarray(layer.compute_logits(), "float64")
    assert logits.shape == layer.switches.shape
    assert layer.initial_offset == pytest.approx(np.log(80 / 1500))
    assert logits.mean() == pytest.approx(layer.initial_offset, abs=1e-4)
    # Less by what keeps the division finite, where a switcher's logits hardly differ.
    assert logits.var() == pytest.approx(1, abs=0.1)


def test_logits_do_not_change_with_the_scale_of_the_kernel():
    layer = built(30, 50)
    before = np.asarray(layer.compute_logits())
    layer.kernel.assign(np.array(layer.kernel) * 1000)
    np.testing.assert_allclose(layer.compute_logits(), before, rtol=1e-3, atol=1e-3)


def test_trained_offset_moves_all_logits_alike():
    layer = built(30, 50)
    before = np.asarray(layer.compute_logits())
    layer.switcher.offset.assign(0.1)
    moved = np.asarray(layer.compute_logits()) - before
    assert np.ptp(moved) < 1e-4
    assert moved.mean() > 0.1  # faster than an optimiser moves a weight


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1)])
@pytest.mark.parametrize("kernel_initializer", ["zeros", "glorot_uniform"])
@pytest.mark.parametrize("switcher", ["unit", "orthogonal", "connection"])
def test_logits_of_the_smallest_kernels_are_finite(shape, kernel_initializer, switcher):
    layer = built(shape[1], shape[0], kernel_initializer=kernel_initializer, switcher=switcher)
    assert np.isfinite(layer.compute_logits()).all()


@pytest.mark.parametrize(("switcher", "granularity"), all_kinds())
def test_gradient_flows_to_the_switcher_and_not_to_the_kernel(switcher, granularity):
    keras.utils.set_random_seed(0)
    layer = built(switcher=switcher, granularity=granularity)
    weights = [w.value for w in layer.switcher.weights]
    others = [layer.kernel.value, layer.bias.value, layer.switches.value]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(weights + others)
        logits = layer.compute_logits()
        total = tf.reduce_sum(logits * values(*logits.shape) + logits)
    for variable, gradient in zip(
        layer.switcher.weights, tape.gradient(total, weights), strict=True
    ):
        assert gradient is not None, variable.path
        # The last bias of a connection switcher moves all logits alike, which is normalised away.
        if (switcher, variable.name) != ("connection", "bias_1"):
            assert np.abs(gradient).max() > 0, variable.path
    assert tape.gradient(total, others) == [None, None, None]


# Wrong arguments


@pytest.mark.parametrize("units", [0, -3, 2.5, None, "64"])
def test_units_must_be_a_positive_integer(units):
    with pytest.raises(ValueError, match=f"expected a positive integer. Received: units={units}"):
        SwitchedDense(units)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
@pytest.mark.parametrize("how", ["eager", "symbolic"])
def test_integer_inputs_are_refused_with_the_remedy(dtype, how):
    inputs = np.ones((2, 18), dtype) if how == "eager" else keras.Input((18,), dtype=dtype)
    with pytest.raises(ValueError, match="expects floating-point inputs; scale or cast.*Rescaling"):
        SwitchedDense(3, name="mine")(inputs)


@pytest.mark.parametrize("arguments", [{"lora_rank": 2}, {"quantization_config": object()}])
def test_low_rank_and_quantised_layers_are_refused_with_the_remedy(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}`.*strip.*Received: {name} for mine"):
        SwitchedDense(3, name="mine", **arguments)


@pytest.mark.parametrize("policy", ["int8_from_float32", "float8_from_mixed_bfloat16"])
def test_quantised_policies_are_refused_with_the_remedy(policy):
    with pytest.raises(ValueError, match=f"quantised.*strip.*Received: dtype='{policy}'"):
        SwitchedDense(3, dtype=policy)


def test_a_built_layer_is_neither_quantised_nor_given_low_rank_weights():
    layer = built(name="mine")
    with pytest.raises(NotImplementedError, match="'mine' is switched.*strip"):
        layer.enable_lora(2)
    with pytest.raises(NotImplementedError, match="'mine' is switched.*strip"):
        layer.quantize("int8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"switcher": "units"}, "Unknown switcher 'units'. Did you mean 'unit'?"),
        ({"gate": "sigmoid"}, "Unknown gate 'sigmoid'. Registered: 'relu_tanh', 'step'"),
        ({"granularity": "block5"}, "Unknown granularity 'block5'. Did you mean 'block4'?"),
        ({"gate": None}, "Unknown gate None"),
        ({"granularity": 4}, "Unknown granularity 4"),
        ({"activation": "rleu"}, "activation function identifier: rleu"),
    ],
)
def test_unknown_names_are_answered_with_what_exists(arguments, message):
    with pytest.raises(ValueError) as error:
        SwitchedDense(3, **arguments)
    assert message in str(error.value)


@pytest.mark.parametrize("switcher", [3, UnitSwitcher, keras.layers.Dense(3)])
def test_a_switcher_of_another_type_is_refused(switcher):
    with pytest.raises(TypeError, match="Expected `switcher`.*Received: switcher="):
        SwitchedDense(3, switcher=switcher)


def test_switcher_that_returns_a_wrong_shape_is_refused_when_the_layer_is_built():
    layer = SwitchedDense(5, switcher=WrongShapeSwitcher(), granularity="block4", name="mine")
    with pytest.raises(ValueError) as error:
        layer.build((None, 18))
    message = str(error.value)
    assert "'mine' must return logits of the kernel's shape (18, 5)" in message
    assert "or of the switches' shape (5, 5)" in message
    assert message.endswith("Received: WrongShapeSwitcher returning the shape (17, 5)")


# Finding the layers of a model


def test_switched_layers_are_found_once_at_any_depth():
    shared = SwitchedDense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), SwitchedDense(4, name="inner")])
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(shared(shared(inputs)))))
    assert sorted(layer.name for layer in switched_layers(model)) == ["inner", "shared"]
    assert switched_layers(keras.layers.Dense(3)) == []
