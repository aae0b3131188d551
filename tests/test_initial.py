"""Starting from a trained model, with and without a frozen trunk."""

import csv
import dataclasses
import functools
import json
import re
import shutil
import zipfile

import keras
import numpy as np
import pytest

from keras_switcher import data, models, switch
from keras_switcher.initial import FrozenTrunk, load_initial, returns_logits
from keras_switcher.networks import dense_model

SHAPE, CLASSES = (20, 20, 1), 4
CNN = ("--dataset", "made", "--epochs", "3", "-b", "20", "--lr", "0.01")


def examples(count=200, seed=0):
    """Images with a bright quarter, which is their class, and noise that half hides it."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = rng.integers(0, 200, (count, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[10 * (label // 2) :, 10 * (label % 2) :][:10, :10] += 55
    return images.astype(np.uint8), labels


@pytest.fixture(autouse=True)
def made_data(monkeypatch):
    def load(data_dir):
        return data.Examples("made", *examples(), *examples(100, seed=1), CLASSES)

    monkeypatch.setitem(data.DATASETS._items, "made", load)


def untrained(softmax=False, shape=SHAPE, classes=CLASSES):
    """A network with batch normalisation in its trunk."""
    keras.utils.set_random_seed(0)
    activation = "softmax" if softmax else None
    model = keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(6, 5, strides=3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.Flatten(),
            keras.layers.Dense(24, "relu", name="hidden"),
            keras.layers.Dense(classes, activation, name="scores"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not softmax)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


@functools.cache
def learned(softmax):
    """The weights of one after a training."""
    model = untrained(softmax)
    model.fit(*examples(), epochs=8, verbose=0)
    return model.get_weights()


def cnn(softmax=False):
    """A trained network."""
    model = untrained(softmax)
    model.set_weights(learned(softmax))
    return model


@keras.saving.register_keras_serializable("test_initial")
class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.flatten, self.scores = keras.layers.Flatten(), keras.layers.Dense(4)

    def call(self, images):
        return self.scores(self.flatten(images))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "mine.keras"
    model = cnn()
    model.save(path)
    return path, model


def accuracy(model):
    x, y = examples(100, seed=1)
    return (model.predict(x, verbose=0).argmax(axis=1) == y).mean()


def trunk_weights(model):
    return [w for layer in model.layers[:5] for w in layer.get_weights()]


def test_the_features_go_with_the_head():
    model = cnn()
    frozen = FrozenTrunk(model)
    x, _ = examples(30, seed=2)
    np.testing.assert_array_equal(
        frozen.head.predict(frozen.trunk.predict(x, verbose=0), verbose=0),
        model.predict(x, verbose=0),
    )
    assert [layer.name for layer in frozen.head.layers][-2:] == ["hidden", "scores"]
    assert frozen.trunk.output_shape == (None, 216)


def test_features_are_computed_once(tmp_path):
    frozen = FrozenTrunk(cnn())
    images = data.load("made")
    features = frozen.features(images, tmp_path)
    np.testing.assert_allclose(
        features.x_train, frozen.trunk.predict(images.x_train, verbose=0), rtol=1e-5, atol=1e-5
    )
    assert features.x_validation.shape == (len(images.y_validation), 216)
    assert np.array_equal(features.x_test, images.x_test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen.trunk, "predict", None)
        again = frozen.features(images, tmp_path)  # read, not computed
    assert np.array_equal(again.x_train, features.x_train)
    assert np.array_equal(again.x_validation, features.x_validation)
    assert [path.name for path in tmp_path.iterdir()] == ["features.npz"]


def test_features_of_other_weights_or_images_are_computed_anew(tmp_path):
    frozen = FrozenTrunk(cnn())
    images = data.load("made")
    first = frozen.features(images, tmp_path).x_train
    frozen.trunk.layers[2].set_weights([w * 0.5 for w in frozen.trunk.layers[2].get_weights()])
    second = frozen.features(images, tmp_path).x_train
    assert not np.array_equal(second, first)
    darker = dataclasses.replace(images, x_train=images.x_train // 2)
    assert not np.array_equal(frozen.features(darker, tmp_path).x_train, second)


def test_damaged_features_are_computed_anew(tmp_path, caplog):
    frozen = FrozenTrunk(cnn())
    images = data.load("made")
    first = frozen.features(images, tmp_path).x_train
    file = tmp_path / "features.npz"
    for damaged in (file.read_bytes()[:-200], b"", file.read_bytes()[:400]):
        file.write_bytes(damaged)
        caplog.clear()
        assert np.array_equal(frozen.features(images, tmp_path).x_train, first)
        assert "its features are computed anew" in caplog.text


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "mobilenet", "lenet"])
def test_the_trunk_of_every_network_ends_at_its_dense_layers(name):
    model = models.build(name, (32, 32, 3), 10, width=0.05, dropout=0.2)
    frozen = FrozenTrunk(model)
    assert not any(isinstance(layer, keras.layers.Dense) for layer in frozen.trunk.layers)
    assert not any(isinstance(layer, keras.layers.Conv2D) for layer in frozen.head.layers)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_model_in_mixed_precision_goes_on_in_it(precision, tmp_path):
    with_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(f"mixed_{precision}")
    try:
        untrained().save(tmp_path / "mixed.keras")
    finally:
        keras.config.set_dtype_policy(with_policy)
    images = data.load("made")
    model = load_initial(str(tmp_path / "mixed.keras"), images)
    trunk = FrozenTrunk(model)
    first, again = (trunk.features(images, tmp_path) for _ in range(2))
    assert first.x_train.dtype == (np.float16 if precision == "float16" else np.float32)
    np.testing.assert_array_equal(first.x_train, again.x_train)
    for network in (model, trunk.head):
        switched = switch(network)
        switched.compile("adam", "mse")
        # Only float16 needs its loss scaled.
        for optimizer in (switched.optimizer, switched.switcher_optimizer):
            scales = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
            assert scales == (precision == "float16")


def test_a_model_without_a_trunk_is_refused():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match="that has layers before its dense ones. Received: "):
        FrozenTrunk(model)


@pytest.mark.parametrize("softmax", [False, True])
def test_logits_are_told_from_probabilities(softmax):
    assert returns_logits(cnn(softmax), examples(20)[0]) is not softmax


def test_probabilities_of_each_class_for_itself_are_refused():
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, keras.layers.Dense(4, "sigmoid")(keras.layers.Flatten()(inputs)))
    with pytest.raises(ValueError, match="probabilities that add up to 1, of which one class"):
        returns_logits(model, examples(20)[0] / 255)


@pytest.mark.parametrize("freeze", [False, True])
def test_run_makes_an_existing_network_sparse(freeze, trained, tmp_path, train_here):
    path, model = trained
    flags = [*CNN, "--init-from", path, "--run-dir", "r", "--target-sparsity", "0.8"]
    status, output = train_here(*flags, *(["--freeze-trunk"] if freeze else []))
    assert status == 0, output

    assert (
        "Computing the 216 features of each image below the dense layers, once." in output
    ) == freeze
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["fc_sparsity"] == pytest.approx(0.8, abs=0.005)
    assert [layer["shape"] for layer in summary["layers"]] == [[216, 24], [24, 4]]
    assert summary["model"] == path.name
    assert (summary["init_from"], summary["freeze_trunk"]) == (str(path), freeze)
    page = (tmp_path / "r" / "report.html").read_text()
    assert f"Started from the trained weights of {path}" in page
    assert ("only the dense layers, and what follows them, went on learning" in page) == freeze
    switched = keras.saving.load_model(tmp_path / "r" / "model.keras")
    stripped = keras.saving.load_model(tmp_path / "r" / "stripped.keras")
    dense = keras.saving.load_model(tmp_path / "r" / "dense.keras")
    for result in (switched, stripped, dense):
        kept = all(
            np.array_equal(ours, theirs)
            for ours, theirs in zip(trunk_weights(result), trunk_weights(model), strict=True)
        )
        assert kept == freeze
    assert switched.phase == "settle"
    assert summary["test_accuracy"] == pytest.approx(accuracy(switched), abs=1e-6)
    assert summary["test_accuracy"] == pytest.approx(accuracy(stripped), abs=1e-6)
    assert summary["dense_test_accuracy"] == pytest.approx(accuracy(dense), abs=1e-6)
    assert accuracy(dense) > 0.8
    before = re.search(r"mine.keras before training: ([0-9.]+)% of the validation", output)
    x, y = data.load("made").x_validation, data.load("made").y_validation
    right = (model.predict(x, verbose=0).argmax(axis=1) == y).mean()
    assert float(before[1]) == pytest.approx(100 * right, abs=0.01)
    # It starts from what was learned: far better than the quarter of guessing, from the first.
    first = next(csv.DictReader((tmp_path / "r" / "history.csv").open()))
    assert float(first["val_accuracy"]) > 0.6
    assert not (tmp_path / "r" / "checkpoints").exists()


def test_run_on_probabilities_uses_their_loss(tmp_path, train_here):
    model = cnn(softmax=True)
    model.save(tmp_path / "soft.keras")
    status, output = train_here(
        *CNN, "--init-from", tmp_path / "soft.keras", "--run-dir", "r", "--no-dense-baseline"
    )
    assert status == 0, output
    rows = list(csv.DictReader((tmp_path / "r" / "history.csv").open()))
    switched = keras.saving.load_model(tmp_path / "r" / "model.keras")
    images = data.load("made")
    given = switched.predict(images.x_validation, verbose=0)[
        np.arange(len(images.y_validation)), images.y_validation
    ]
    assert float(rows[-1]["val_loss"]) == pytest.approx(-np.log(given).mean(), rel=1e-3)


def stop_after_an_epoch(patch):
    """Let a run end with an error once it has written its first checkpoint."""
    from keras_switcher.callbacks import SaveCheckpoints

    after = SaveCheckpoints.on_epoch_end

    def stop(self, epoch, logs=None):
        after(self, epoch, logs)
        raise OSError(28, "No space left on device")

    patch.setattr(SaveCheckpoints, "on_epoch_end", stop)


def test_another_file_under_the_same_name_is_noticed_on_resume(tmp_path, train_here):
    path = tmp_path / "start.keras"
    model = cnn()
    model.save(path)
    flags = [*CNN, "--init-from", path, "--run-dir", tmp_path / "r", "--freeze-trunk"]
    with pytest.MonkeyPatch.context() as patch:
        stop_after_an_epoch(patch)
        status, output = train_here(*flags)
    assert status == 1, output
    model.layers[1].set_weights([w + 1 for w in model.layers[1].get_weights()])
    model.save(path)
    status, output = train_here(*flags, "--resume")
    assert status == 2
    assert re.search("The checkpoint is of another run. Expected .*initial weights", output)


def test_the_dense_network_starts_from_the_file_as_it_was(tmp_path, train_here, monkeypatch):
    path = tmp_path / "start.keras"
    cnn().save(path)
    told = []

    def lost(config, data, start):
        # After the training of the switched network, and before that of the dense one.
        path.unlink(missing_ok=True)
        told.append([w.numpy() for w in start.network.weights])
        return dense_model(config, data, start)

    monkeypatch.setattr("keras_switcher.learning.dense_model", lost)
    status, output = train_here(*CNN, "--init-from", path, "--run-dir", "r")
    assert status == 0, output
    for kept, weight in zip(told[0], cnn().get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)


def test_frozen_run_that_was_stopped_ends_with_the_same_numbers(trained, tmp_path, train_here):
    shutil.copy(trained[0], tmp_path / "first.keras")
    flags = [*CNN, "--init-from", "first.keras", "--freeze-trunk", "--run-dir"]
    assert train_here(*flags, "whole")[0] == 0
    with pytest.MonkeyPatch.context() as patch:
        stop_after_an_epoch(patch)
        assert train_here(*flags, "stopped")[0] == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrozenTrunk, "_computed", None)
        # The file may be elsewhere by now, but it must be the same.
        (tmp_path / "first.keras").rename(tmp_path / "moved.keras")
        status, output = train_here("--run-dir", "stopped", "--resume")
        assert status == 2 and "If it was moved, give it with its new path" in output
        moved = ("--run-dir", "stopped", "--resume", "--init-from", "moved.keras")
        status, output = train_here(*moved)
    assert status == 0, output
    assert "Going on after epoch 1 of the switched network." in output
    whole, stopped = (
        json.loads((tmp_path / run / "summary.json").read_text()) for run in ("whole", "stopped")
    )
    times = ("seconds", "dense_seconds", "init_from", "model")
    assert {**stopped, **dict.fromkeys(times)} == {**whole, **dict.fromkeys(times)}


def saved(tmp_path, model):
    model.save(tmp_path / "m.keras")
    return str(tmp_path / "m.keras")


def test_what_does_not_fit_is_refused(tmp_path):
    images = data.load("made")
    with pytest.raises(
        FileNotFoundError, match="Expected --init-from to be a .keras file that exists.*nowhere"
    ):
        load_initial(str(tmp_path / "nowhere.keras"), images)
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(ValueError, match="Can't load --init-from .*text.keras as a Keras model"):
        load_initial(str(tmp_path / "text.keras"), images)
    with zipfile.ZipFile(tmp_path / "empty.keras", "w"):
        pass
    with pytest.raises(ValueError, match="Can't load --init-from .*empty.keras as a Keras model"):
        load_initial(str(tmp_path / "empty.keras"), images)
    broken = cnn()
    broken.weights[1].assign(np.full(broken.weights[1].shape, np.nan))
    with pytest.raises(ValueError, match=r"weights that are finite.*bias' has nan"):
        load_initial(saved(tmp_path, broken), images)
    broken.weights[1].assign(np.full(broken.weights[1].shape, np.inf))
    with pytest.raises(ValueError, match=r"weights that are finite.*bias' has nan or infinity"):
        load_initial(saved(tmp_path, broken), images)
    scores = keras.layers.Dense(4, name="fc 1")
    named = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), scores])
    with pytest.raises(ValueError, match=r"names that TensorFlow takes.*with 'fc 1'"):
        load_initial(saved(tmp_path, named), images)
    named = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    named.name = "_mine"
    with pytest.raises(ValueError, match="names that TensorFlow takes.*with '_mine'"):
        load_initial(saved(tmp_path, named), images)
    # As TensorFlow takes these.
    inputs = keras.Input(SHAPE, name="in put")
    scores = keras.layers.Dense(4, name="_fc")(keras.layers.Flatten()(inputs))
    load_initial(saved(tmp_path, keras.Model(inputs, scores)), images)
    with pytest.raises(ValueError, match="a model of dense layers.*are switched already"):
        load_initial(saved(tmp_path, switch(cnn())), images)
    inputs = keras.Input(SHAPE)
    flat = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ValueError, match="a model with dense layers.*GlobalAveragePooling2D"):
        load_initial(saved(tmp_path, flat), images)
    with pytest.raises(ValueError, match=r"images of made, \(20, 20, 1\).*takes \(28, 28, 1\)"):
        load_initial(saved(tmp_path, untrained(shape=(28, 28, 1))), images)
    with pytest.raises(ValueError, match=r"each of the 4 classes of made.*returns \(7,\)"):
        load_initial(saved(tmp_path, untrained(classes=7)), images)
    flat = keras.layers.Flatten()(inputs)
    scores = [keras.layers.Dense(4)(flat), keras.layers.Dense(4)(flat)]
    with pytest.raises(ValueError, match="one input and one output.*1 inputs and 2 outputs"):
        load_initial(saved(tmp_path, keras.Model(inputs, scores)), images)
    subclassed = Subclassed()
    subclassed(np.zeros((1, *SHAPE)))
    with pytest.raises(ValueError, match="a Sequential or Functional model.*, a Subclassed with"):
        load_initial(saved(tmp_path, subclassed), images)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--freeze-trunk"], "Expected --init-from with --freeze-trunk"),
        (
            ["--init-from", "x.keras", "--freeze-trunk", "--strategy", "mirrored"],
            "Expected --strategy none with --freeze-trunk",
        ),
        (["--init-from", "nowhere.keras"], "Expected --init-from to be a .keras file"),
        (
            ["--init-from", "x.keras", "--precision", "mixed_bfloat16"],
            "Expected --precision float32 with --init-from",
        ),
        (
            ["--init-from", "x.keras", "--width", "0.5"],
            "Expected no --width with --init-from: the network is that of the file. Received: 0.5",
        ),
        (
            ["--init-from", "x.keras", "--model", "vgg16", "--fc-units", "512"],
            "Expected no --fc-units with --init-from",
        ),
    ],
)
def test_flags_that_do_not_go_together(flags, message, train_here, tmp_path):
    status, output = train_here("--dataset", "made", "--run-dir", "r", *flags)
    assert status == 2
    assert message in output
    assert not (tmp_path / "r").exists()
