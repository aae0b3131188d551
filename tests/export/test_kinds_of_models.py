"""Models of one's own, of many kinds, by the whole command."""

import json
import math
import re
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from export.artifacts import block_of
from export.command import main
from export.convert import in_precision
from export.exporting import export
from export.options import ExportOptions
from export.source import made_examples
from export.verify import Verdict


def bytes_as_input():
    """With groups, which are normalised in five dimensions."""
    given = keras.Input((6, 6, 1), dtype="uint8", name="image")
    x = layers.Conv2D(4, 1)(layers.Rescaling(1 / 255)(given))
    x = layers.Flatten()(layers.GroupNormalization(2)(x))
    return keras.Model(given, layers.Dense(4)(layers.Dense(16, "relu")(x)))


def dictionary_of_inputs():
    """Not in the order of the alphabet, and one of numbers of words."""
    given = {
        "image": keras.Input((6,), name="image"),
        "age": keras.Input((2,), name="age"),
        "words": keras.Input((4,), dtype="int32", name="words"),
    }
    words = layers.Flatten()(layers.Embedding(9, 5)(given["words"]))
    parts = [layers.Dense(8, "relu")(given["image"]), given["age"], words]
    return keras.Model(given, layers.Dense(3)(layers.Concatenate()(parts)))


def film():
    """A convolution in three dimensions; and one output twice."""
    given = keras.Input((4, 6, 6, 1), name="film")
    x = layers.BatchNormalization()(layers.Conv3D(3, 3, padding="same")(given))
    y = layers.Dense(3)(layers.Flatten()(x))
    return keras.Model(given, [y, y])


def probabilities_of_large_logits():
    given = keras.Input((12, 12, 1), name="image")
    x = layers.Flatten()(layers.Conv2D(16, 3, activation="relu")(given))
    return keras.Model(given, layers.Dense(10, "softmax")(layers.Dense(64, "relu")(x)))


def flags():
    given = keras.Input((6,), name="x")
    return keras.Model(given, keras.ops.greater(layers.Dense(3)(given), 0.5))


def tied_embedding():
    """Whose weights are read by a layer and as an embedding, so they can't be sparse."""
    given = keras.Input((5,), dtype="int32", name="words")
    words = layers.ReversibleEmbedding(40, 8)
    model = keras.Model(given, words(layers.Dense(8)(words(given)), reverse=True))
    table = words.embeddings
    table.assign(table * (np.random.default_rng(0).random(table.shape) < 0.1))
    return model


@keras.saving.register_keras_serializable("test_kinds")
class Subclassed(keras.Model):
    """A model with a `get_config()` that leaves its name out, as Keras's own does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.last = layers.Dense(16, "relu"), layers.Dense(3)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


def subclassed_inside():
    given = keras.Input((12,), name="x")
    return keras.Model(given, Subclassed()(given))


def graph_of_a_subclassed():
    given = keras.Input((12,), name="x")
    return keras.Model(given, Subclassed().call(given))


def a_number():
    given = keras.Input((6,), name="x")
    return keras.Model(given, layers.Dense(1)(layers.Dense(8, "relu")(given)))


def few_live_inputs():
    """For which the converter's own sparsity takes blocks of 4 in rows of 30."""
    model = keras.Sequential([keras.Input((48,)), layers.Dense(40, "relu"), layers.Dense(4)])
    kernel = model.layers[0].kernel
    on = np.ones((48, 40), "float32")
    on[:18] = 0
    on[18:, 4:] = np.random.default_rng(0).random((30, 36)) < 0.1
    kernel.assign(kernel * on)
    return model


KINDS = (bytes_as_input, dictionary_of_inputs, film, probabilities_of_large_logits, a_number)
KINDS += (flags, tied_embedding, subclassed_inside, graph_of_a_subclassed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_every_file_of_it_is_proven(kind, tmp_path):
    keras.utils.set_random_seed(0)
    model = kind()
    model.save(tmp_path / "mine.keras")
    content = export(ExportOptions(tmp_path / "mine.keras", measure=False))
    assert [entry["problems"] for entry in content["artifacts"] if entry["problems"]] == []
    kinds = {entry["kind"] for entry in content["artifacts"]}
    large = any(math.prod(weight.shape) >= 1024 for weight in model.trainable_weights)
    assert kinds == {"dense", "sparse", "compact", *(["int8"] if large else [])}
    card = (tmp_path / "mine-export" / "model_card.md").read_text()
    for tensor in model.inputs:
        assert f"Input `{tensor.name}`: {tensor.dtype}, (1, " in card
    # As the file's signature counts them.
    listed = re.findall(r"- (Input|Output) `([^`]+)`", card)
    interpreter = Interpreter(str(tmp_path / "mine-export" / "model_compact.tflite"))
    signature = interpreter.get_signature_list()["serving_default"]
    assert [name for kind, name in listed if kind == "Input"] == signature["inputs"]
    assert [name for kind, name in listed if kind == "Output"] == signature["outputs"]
    # Names of classes are a classifier's alone.
    shape = model.outputs[0].shape
    is_classifier = len(model.outputs) == 1 and len(shape) == 2 and shape[1] > 1
    assert ("labels.txt" in card) is is_classifier
    file = tmp_path / "mine-export" / "model_sparse.tflite"
    assert zipfile.is_zipfile(file) is is_classifier


@pytest.mark.slow
def test_what_fails_beside_the_files_takes_nothing_from_them(tmp_path, caplog, monkeypatch):
    keras.utils.set_random_seed(0)
    few_live_inputs().save(tmp_path / "mine.keras")
    monkeypatch.setattr("export.exporting._PROCESSES", 1)
    options = ExportOptions(tmp_path / "mine.keras", threads=(2,))
    content = export(options)
    assert all(entry["latency_us"] for entry in content["artifacts"])
    assert content["threads"] == 2
    assert "2 threads, with XNNPACK" in (tmp_path / "mine-export" / "model_card.md").read_text()

    def broken(*_):
        raise ValueError("no such blocks")

    monkeypatch.setattr("export.exporting.experimental_sparsity", broken)
    options = ExportOptions(tmp_path / "mine.keras", threads=(1,), timeout=0.001)
    monkeypatch.setattr("export.exporting._verdict", lambda *_: Verdict(0.0, 1.0, None, ()))
    content = export(options)
    assert "EXPERIMENTAL_SPARSITY failed: no such blocks" in caplog.text
    assert "could not be measured" in caplog.text
    assert [entry["latency_us"] for entry in content["artifacts"]] == [None] * 4
    files = {path.name for path in (tmp_path / "mine-export").iterdir()}
    assert "model_sparse.tflite" in files and "export.png" not in files
    saved = json.loads((tmp_path / "mine-export" / "export.json").read_text())
    assert saved["peers"] == []


@pytest.mark.slow
def test_ranges_are_read_from_all_of_the_training_examples(tmp_path, caplog):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,), name="x"), layers.Dense(64, "relu")])
    model.add(layers.Dense(2, name="logits"))
    small = np.random.default_rng(0).normal(size=(300, 8)).astype("float32")
    labels = np.repeat([0, 1], 300)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    examples = np.concatenate([small, small + 40])
    model.fit(examples, labels, epochs=20, verbose=0)
    model.save(tmp_path / "mine.keras")
    np.savez(tmp_path / "of.npz", x_test=examples[::5], y_test=labels[::5], x_train=examples)
    of = tmp_path / "of.npz"
    options = ExportOptions(tmp_path / "mine.keras", examples=of, quantize="int8", measure=False)
    # The first 300 of them alone are of one class, which would cut the other off.
    assert [entry["problems"] for entry in export(options)["artifacts"]] == [[]] * 4
    assert "Ranges of activations" not in caplog.text

    np.savez(of, x_test=small[:20], y_test=labels[:20], x_train=small[:20])
    export(options)
    assert "x_train has 20 examples" in caplog.text


@pytest.mark.slow
def test_a_file_that_would_hold_no_int8_is_left_out(tmp_path, caplog):
    a_number().save(tmp_path / "mine.keras")
    content = export(ExportOptions(tmp_path / "mine.keras", measure=False))
    assert [entry["kind"] for entry in content["artifacts"]] == ["dense", "sparse", "compact"]
    assert "No model_int8.tflite" in caplog.text
    assert not (tmp_path / "mine-export" / "model_int8.tflite").exists()
    # An input of this type is no weight.
    given = keras.Input((4,), dtype="int8")
    keras.Model(given, layers.Dense(3)(layers.Rescaling(0.1)(given))).save(tmp_path / "mine.keras")
    content = export(ExportOptions(tmp_path / "mine.keras", measure=False))
    assert [entry["kind"] for entry in content["artifacts"]] == ["dense", "sparse", "compact"]


def said_by(capsys, *flags):
    capsys.readouterr()
    assert main([str(flag) for flag in flags]) == 1
    written = "".join(capsys.readouterr())
    assert "Traceback" not in written
    return " ".join(written.split())


def test_inputs_and_examples_that_do_not_do_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    given = keras.Input((6,), dtype="float64", name="x")
    keras.Model(given, layers.Dense(3)(given)).save(tmp_path / "double.keras")
    said = said_by(capsys, tmp_path / "double.keras")
    assert "Expected inputs of the types float32, uint8" in said
    assert "Received: 'x' of float64" in said

    given = keras.Input((6,), name="my image")
    keras.Model(given, layers.Dense(3)(given)).save(tmp_path / "spaces.keras")
    said = said_by(capsys, tmp_path / "spaces.keras")
    assert "whose names consist of letters" in said and "Received: 'my image'" in said

    given = keras.Input((6,), name="x")
    keras.Model(given, layers.Dense(3, name="größe")(given)).save(tmp_path / "accents.keras")
    assert "Received: 'größe'" in said_by(capsys, tmp_path / "accents.keras")

    quantized = keras.Model(given, layers.Dense(3, name="last")(given))
    quantized.quantize("int8")
    quantized.save(tmp_path / "int8.keras")
    said = said_by(capsys, tmp_path / "int8.keras")
    assert "Expected a model that is not quantised" in said and "'last'" in said

    whole = keras.Model(given, keras.ops.sum(layers.Dense(3)(given)))
    whole.save(tmp_path / "whole.keras")
    said = said_by(capsys, tmp_path / "whole.keras")
    assert "Expected outputs with a row for each example" in said

    a_number().save(tmp_path / "mine.keras")
    np.savez(tmp_path / "few.npz", x_test=np.ones((9, 6)), x_train=np.ones((9, 6)))
    few = ("--examples", tmp_path / "few.npz", "--quantize", "int8", "--batch", "16")
    said = said_by(capsys, tmp_path / "mine.keras", *few)
    assert "at least as many as --batch: 16" in said and "Received: 9" in said

    np.save(tmp_path / "x.npy", np.zeros((3, 6)))
    said = said_by(capsys, tmp_path / "mine.keras", "--examples", tmp_path / "x.npy")
    assert "Expected the examples in an .npz file" in said
    assert "x.npy, one array of shape (3, 6)" in said


def looked_up():
    words = keras.Input((5,), dtype="int32", name="words")
    vectors = layers.GlobalAveragePooling1D()(layers.Embedding(3, 4)(words))
    return keras.Model(words, layers.Dense(2)(vectors))


@pytest.mark.parametrize("shape", [(5,), (4, 4, 2)])
def test_made_up_words_are_in_the_vocabulary(shape):
    words = keras.Input(shape, dtype="int32")
    made = made_examples(keras.Model(words, layers.Embedding(3, 4)(words)))
    assert set(np.unique(*made.test.values())) == {0, 1, 2}


@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("int8", -128, 127)])
@pytest.mark.parametrize("shape", [(12,), (4, 4, 2)])
def test_made_up_inputs_of_8_bits_cover_their_range(dtype, low, high, shape):
    inputs = keras.Input(shape, dtype=dtype)
    numbers = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    (made,) = made_examples(keras.Model(inputs, layers.Dense(2)(numbers))).test.values()
    assert (made.dtype, made.min(), made.max()) == (dtype, low, high)
    assert made.mean(dtype="float64") == pytest.approx((low + high) / 2, abs=10)


@keras.saving.register_keras_serializable("test_kinds_of_models")
class OnlyFloat32(layers.Layer):
    """A layer that neither takes another type nor comes back with one."""

    def __init__(self):
        super().__init__()

    def get_config(self):
        return {}

    def call(self, inputs):
        assert inputs.dtype == "float32"
        return inputs


@pytest.mark.slow
def test_a_model_that_does_not_compute_in_float64_is_exported(tmp_path, caplog):
    keras.utils.set_random_seed(0)
    given = keras.Input((6,))
    for size in (1.0, 1e-3):
        last = layers.Dense(3, kernel_initializer=keras.initializers.RandomUniform(-size, size))
        keras.Model(given, last(OnlyFloat32()(given))).save(tmp_path / "mine.keras")
        caplog.clear()
        export(ExportOptions(tmp_path / "mine.keras", measure=False))
        assert ("could not be computed in float64" in caplog.text) == (size < 1)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda: layers.Bidirectional(layers.GRU(5, unroll=True)),
        lambda: layers.TimeDistributed(layers.Dense(5)),
        lambda: layers.RNN([layers.LSTMCell(6), layers.GRUCell(5)], unroll=True),
    ],
)
def test_wrapped_layers_compute_in_float64(wrapped):
    given = keras.Input((4, 6))
    model = keras.Model(given, wrapped()(given))
    x = np.random.default_rng(0).normal(size=(2, 4, 6))
    exact = in_precision(model, "float64")(x)
    assert exact.dtype == "float64"
    np.testing.assert_allclose(exact, model(x.astype("float32")), atol=1e-5)


def test_examples_that_the_model_can_not_take_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    looked_up().save(tmp_path / "words.keras")
    np.savez(tmp_path / "unknown.npz", x_test=np.full((9, 5), 7))
    said = said_by(capsys, tmp_path / "words.keras", "--examples", tmp_path / "unknown.npz")
    assert "can't run on unknown.npz: " in said and "outside the vocabulary" in said
    assert "7 is not in [0, 3)" in said and "Graph execution error" not in said

    np.savez(tmp_path / "halves.npz", x_test=np.full((9, 5), 0.5))
    said = said_by(capsys, tmp_path / "words.keras", "--examples", tmp_path / "halves.npz")
    assert "that are int32" in said and "Received: float64 from 0.5 to 0.5" in said

    a_number().save(tmp_path / "mine.keras")
    np.savez(tmp_path / "nan.npz", x_test=np.ones((9, 6)), x_train=np.full((9, 6), np.nan))
    said = said_by(capsys, tmp_path / "mine.keras", "--examples", tmp_path / "nan.npz")
    assert "Expected finite numbers in x_train" in said


def test_units_that_are_off_are_no_blocks():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((64,)), layers.Dense(40, "relu"), layers.Dense(40)])
    for layer in model.layers:
        layer.kernel.assign(layer.kernel * (rng.random(40) < 0.2))
    assert block_of(model) == 1
    # In those that are partly off there are.
    kernel = rng.normal(size=(64, 40)) * np.repeat(rng.random((16, 40)) < 0.2, 4, axis=0)
    model.layers[0].kernel.assign(kernel)
    assert block_of(model) == 4


def test_large_inputs_are_made_up_in_small_numbers():
    model = keras.Sequential([keras.Input((512, 512, 3), name="image"), layers.Flatten()])
    (images,) = made_examples(model).test.values()
    assert images.shape == (10, 512, 512, 3)
    small = keras.Sequential([keras.Input((28, 28, 1), name="image"), layers.Flatten()])
    assert len(made_examples(small).test["image"]) == 200
