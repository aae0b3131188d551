import numpy as np
import pytest
import tensorflow as tf

from keras_switcher import SwitchedDense, gates

LOGITS = np.array([-np.inf, -5, -1, -1e-30, -0.0, 0.0, 1e-30, 0.5, 1, 30, np.inf], "float32")


def gradient(gate, logits, upstream=1.0):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        switches = gate(logits) * upstream
    return tape.gradient(switches, logits).numpy()


@pytest.mark.parametrize("name", ["step", "relu_tanh"])
def test_switch_is_zero_if_and_only_if_its_logit_is_not_positive(name):
    switches = gates.get(name)(tf.constant(LOGITS)).numpy()
    assert np.array_equal(switches == 0, LOGITS <= 0)
    assert (switches >= 0).all() and (switches <= 1).all()


@pytest.mark.parametrize("name", ["step", "relu_tanh"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_switches_have_the_shape_and_dtype_of_the_logits(name, shape):
    switches = gates.get(name)(tf.ones(shape))
    assert switches.shape == shape
    assert switches.dtype == tf.float32


def test_step_is_zero_or_one():
    switches = gates.step(tf.constant(LOGITS)).numpy()
    assert switches.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]


def test_relu_tanh_scales():
    switches = gates.relu_tanh(tf.constant([-1.0, 0.0, 0.5, 1.0, 2.0])).numpy()
    np.testing.assert_allclose(switches, [0, 0, 0.46211717, 0.7615942, 0.9640276], rtol=1e-6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_step_has_the_gradient_of_a_sigmoid(compiled):
    logits = np.array([-20.0, -3.0, -0.5, 0.0, 0.5, 3.0], "float32")
    gate = tf.function(gates.step) if compiled else gates.step
    sigmoid = 1 / (1 + np.exp(-logits.astype("float64")))
    expected = 2.5 * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(gradient(gate, logits, upstream=2.5), expected, rtol=1e-5)


def test_relu_tanh_has_its_own_gradient():
    logits = np.array([-3.0, -0.5, 0.5, 2.0], "float32")
    expected = np.where(logits > 0, 1 - np.tanh(logits) ** 2, 0)
    np.testing.assert_allclose(gradient(gates.relu_tanh, logits), expected, rtol=1e-5)
    np.testing.assert_allclose(gradient(gates.relu_tanh, logits, 3.0), 3 * expected, rtol=1e-5)


def test_get_takes_names_and_callables():
    assert gates.get("step") is gates.step
    assert gates.get("relu_tanh") is gates.relu_tanh
    assert gates.get(gates.step) is gates.step


def test_unknown_gate_is_answered_with_the_nearest_and_all_names():
    with pytest.raises(ValueError) as error:
        gates.get("steps")
    assert str(error.value) == (
        "Unknown gate 'steps'. Did you mean 'step'? Registered: 'relu_tanh', 'step'. "
        "Add your own with @keras_switcher.gates.register('name')."
    )


@pytest.mark.parametrize("wrong", [None, 3, 0.5])
def test_a_gate_must_be_a_name_or_a_callable(wrong):
    with pytest.raises(ValueError, match=f"Unknown gate {wrong}.*'relu_tanh', 'step'"):
        gates.get(wrong)


def test_own_gate_is_found_and_serialised_by_its_name():
    @gates.register("square")
    def square(logits):
        return tf.square(tf.nn.relu(logits))

    assert gates.get("square") is square
    assert gates.serialize(square) == "square"
    layer = SwitchedDense(3, gate=square)
    assert layer.get_config()["gate"] == "square"
    assert SwitchedDense.from_config(layer.get_config()).gate is square


def test_a_gate_whose_definition_was_run_again_keeps_its_name():
    def cell():
        @gates.register("of-a-cell")
        def of_a_cell(logits):
            return tf.nn.relu(logits)

        return of_a_cell

    layer = SwitchedDense(3, gate=cell())
    newer = cell()
    assert gates.get("of-a-cell") is newer
    assert layer.get_config()["gate"] == "of-a-cell"
    assert SwitchedDense.from_config(layer.get_config()).gate is newer


def test_a_second_name_of_a_gate_changes_no_file():
    gates.register("other-step")(gates.get("step"))
    assert gates.get("other-step") is gates.get("step")
    assert SwitchedDense(3, gate="other-step").get_config()["gate"] == "step"


@pytest.mark.parametrize("name", ["step", "relu_tanh"])
def test_serialize_is_the_inverse_of_get(name):
    assert gates.serialize(gates.get(name)) == name


@pytest.mark.parametrize(
    "wrong",
    [
        tf.sigmoid,
        lambda logits: tf.cast(logits > 0.6, "float32"),
        lambda logits: tf.where(logits > 0, -1.0, 0.0),
        lambda logits: tf.cast(tf.reduce_any(logits > 0), "float32"),
        lambda logits: tf.math.log(logits),
    ],
)
def test_a_gate_that_does_not_do_what_it_must_is_refused_before_any_training(wrong):
    gates.register("wrong")(wrong)
    with pytest.raises(ValueError, match="0 where a logit is <= 0, and positive elsewhere"):
        SwitchedDense(3, gate="wrong")


def test_a_wrong_gate_is_refused_also_where_a_function_is_traced():
    gates.register("never-off")(tf.sigmoid)

    @tf.function
    def traced():
        SwitchedDense(3, gate="never-off")

    for layer in (traced, traced.python_function):
        with pytest.raises(ValueError, match="0 where a logit is <= 0"):
            layer()


def test_unregistered_gate_is_refused():
    def half(logits):
        return 0.5 * tf.nn.relu(logits)

    with pytest.raises(ValueError, match="must be registered.*gates.register.*Received: .*half"):
        gates.serialize(half)


def test_unregistered_gate_is_refused_before_training_not_when_saving():
    with pytest.raises(ValueError, match="must be registered"):
        SwitchedDense(3, gate=tf.nn.relu)
