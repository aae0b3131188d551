import signal

import keras
import numpy as np
import pytest
from small_run import sparse_lenet300
from tflite_files import interpreter

from export import runtime
from export.convert import Precision, convert, in_precision, output_names
from export.errors import ExportError
from keras_switcher.signals import Interrupted


@pytest.fixture(scope="module")
def lenet300():
    return sparse_lenet300()


def write(folder, content):
    path = folder / "model.tflite"
    path.write_bytes(content)
    return path


def test_a_file_has_a_signature_of_named_tensors_and_a_fixed_batch(lenet300, tmp_path):
    path = write(tmp_path, convert(lenet300, batch=3))
    file = interpreter(path.read_bytes())
    assert file.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["logits"]}
    }
    assert [tensor["shape"].tolist() for tensor in file.get_input_details()] == [[3, 28, 28, 1]]
    assert [tensor["shape"].tolist() for tensor in file.get_output_details()] == [[3, 10]]


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        (Precision.FLOAT32, 1e-5),
        (Precision.FLOAT16, 0.05),
        (Precision.DYNAMIC, 0.5),
        (Precision.INT8, 0.5),
    ],
)
def test_every_precision_takes_and_gives_float32(lenet300, tmp_path, precision, tolerance):
    images = np.random.default_rng(0).uniform(0, 255, (20, 28, 28, 1)).astype("float32")
    path = write(
        tmp_path,
        convert(
            lenet300, precision, representative=[{"image": images[i : i + 1]} for i in range(20)]
        ),
    )
    file = interpreter(path.read_bytes())
    details = [*file.get_input_details(), *file.get_output_details()]
    assert {tensor["dtype"] for tensor in details} == {np.float32}
    outputs = runtime.run(path, {"image": images})["logits"]
    expected = lenet300.predict(images, verbose=0)
    np.testing.assert_allclose(outputs, expected, atol=tolerance * np.abs(expected).max())


def test_a_signal_that_comes_in_the_converter_is_no_failure_of_it(lenet300):
    def images():
        raise Interrupted(signal.SIGINT)
        yield

    with pytest.raises(Interrupted, match="Stopped by SIGINT"):
        convert(lenet300, Precision.INT8, representative=images())


def test_lower_precision_is_smaller(lenet300):
    sizes = [len(convert(lenet300, precision)) for precision in list(Precision)[:3]]
    assert sizes[0] > 1.8 * sizes[1] > 3 * sizes[2]


def test_int8_without_examples_says_what_it_needs(lenet300):
    with pytest.raises(ExportError, match="Expected representative examples"):
        convert(lenet300, Precision.INT8)


def test_two_inputs_and_two_outputs_keep_their_names(tmp_path):
    first, second = keras.Input((3,), name="first"), keras.Input((2,), name="second")
    joined = keras.layers.Concatenate()([first, second])
    outputs = [
        keras.layers.Dense(4, name="wide")(joined),
        keras.layers.Dense(1, name="narrow")(joined),
    ]
    model = keras.Model([first, second], outputs)
    path = write(tmp_path, convert(model))
    rng = np.random.default_rng(0)
    given = {"first": rng.random((5, 3), "float32"), "second": rng.random((5, 2), "float32")}
    found = runtime.run(path, given)
    expected = model.predict(list(given.values()), verbose=0)
    assert set(found) == {"wide", "narrow"}
    np.testing.assert_allclose(found["wide"], expected[0], atol=1e-6)
    np.testing.assert_allclose(found["narrow"], expected[1], atol=1e-6)


def test_a_model_of_a_dictionary_of_inputs(tmp_path):
    inputs = {name: keras.Input((size,), name=name) for name, size in (("second", 2), ("first", 3))}
    scaled = keras.layers.Rescaling(2.0)(inputs["first"])
    model = keras.Model(inputs, keras.layers.Concatenate(name="both")([inputs["second"], scaled]))
    path = write(tmp_path, convert(model))
    found = runtime.run(
        path, {"first": np.ones((1, 3), "float32"), "second": np.zeros((1, 2), "float32")}
    )
    np.testing.assert_array_equal(found["both"], [[0, 0, 2, 2, 2]])


def test_outputs_of_one_layer_get_names_of_their_own():
    given = keras.Input((4,))
    shared = keras.layers.Dense(2, name="shared")
    model = keras.Model(given, [shared(given), shared(keras.layers.Rescaling(2.0)(given))])
    assert output_names(model) == ["shared_0", "shared_1"]


def test_no_output_is_lost_to_a_layer_whose_name_is_that_of_a_numbered_one():
    given = keras.Input((4,))
    shared = keras.layers.Dense(2, name="shared")
    both = [shared(given), shared(keras.layers.Rescaling(2.0)(given))]
    model = keras.Model(given, [*both, keras.layers.Dense(3, name="shared_1")(given)])
    assert output_names(model) == ["shared_0", "shared_2", "shared_1"]


def test_an_open_size_is_refused():
    given = keras.Input((None, 8), name="sequence")
    model = keras.Model(given, keras.layers.GlobalAveragePooling1D()(given))
    with pytest.raises(
        ExportError, match=r"fixed sizes for the input 'sequence'.*\(None, None, 8\)"
    ):
        convert(model)


def test_an_operation_that_tflite_does_not_have_is_named():
    class Eigenvalues(keras.layers.Layer):
        def call(self, inputs):
            import tensorflow as tf

            return tf.linalg.eigvalsh(inputs)

    given = keras.Input((3, 3))
    model = keras.Model(given, Eigenvalues()(given), name="spectral")
    with pytest.raises(ExportError, match="spectral.*(?s:.)*Eigenvalues") as error:
        convert(model)
    assert "model 'spectral': 'tf.SelfAdjointEigV2' op is neither a custom" in str(error.value)


def test_nothing_of_the_converters_chatter_is_shown(lenet300, capfd):
    convert(lenet300)
    assert capfd.readouterr() == ("", "")


def test_an_adapted_normalisation_is_not_lost_with_the_precision():
    data = np.random.default_rng(0).normal(3, 5, (100, 6)).astype("float32")
    normalize = keras.layers.Normalization(dtype="float32")
    normalize.adapt(data)
    for policy in ("mixed_bfloat16", "bfloat16"):
        inner = keras.Sequential(
            [keras.Input((6,)), normalize, keras.layers.Dense(8, "relu", dtype=policy)]
        )
        model = keras.Sequential([keras.Input((6,)), inner, keras.layers.Dense(3, dtype=policy)])
        plain = in_precision(model, "float32")
        assert {v.dtype for v in plain.trainable_variables} == {"float32"}
        scale = np.abs(plain(data)).max()
        np.testing.assert_allclose(
            plain(data), keras.ops.cast(model(data), "float32"), atol=0.02 * scale
        )


def test_mixed_precision_is_left_behind():
    with_policy = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, "relu", dtype="mixed_float16"),
            keras.layers.Dense(2, dtype="float32"),
        ]
    )
    plain = in_precision(with_policy, "float32")
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}
    x = np.random.default_rng(0).random((3, 4), "float32")
    np.testing.assert_allclose(plain(x), with_policy(x), atol=1e-2)
    for one, other in zip(plain.weights, with_policy.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert in_precision(plain, "float32") is plain
