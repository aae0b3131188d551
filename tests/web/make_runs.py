"""Make what the browser tests show: real runs, exported, and what Python's LiteRT says of them."""

import json
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export import flatbuffer
from export.command import main as export_command
from export.runtime import run
from keras_switcher import data, models
from keras_switcher.training import main as train_command

IMAGES = 100


def digits(folder: Path) -> None:
    """A sparse LeNet-300-100, trained on real digits."""
    flags = ["--model", "lenet300", "--dataset", "mnist5k", "--epochs", "20", "--no-dense-baseline"]
    _done(train_command([*flags, "--run-dir", str(folder)]))
    _done(export_command([str(folder), "--float16", "--no-measure"]))
    _reference(folder / "export", data.load("mnist5k").x_test[:IMAGES])


def halves(folder: Path) -> None:
    """Layers of which half is off: behind DENSIFY, beside sparse ones; and int8 throughout."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = models.build("lenet300", (28, 28, 1), 10)
    for name, density in (("dense1", 0.05), ("dense2", 0.5)):
        kernel, bias = model.get_layer(name).get_weights()
        on = rng.random(kernel.shape) < density
        model.get_layer(name).set_weights([3 * kernel * on, bias])
    images = data.load("mnist5k")
    arrays = {"x_test": images.x_test[:IMAGES], "x_train": images.x_train[:IMAGES]}
    _export_file(folder, model, "--quantize", "int8", **arrays)
    _reference(folder / "export", arrays["x_test"])


def blocks(folder: Path) -> None:
    """Sparse weights in blocks, 1x4 in float32 and 1x16 in int8."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    inputs = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dense(1024, "relu", name="first")(x)
    x = keras.layers.Dense(1024, "relu", name="second")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="logits")(x))
    for name in ("first", "second"):
        layer = model.get_layer(name)
        kernel, bias = layer.get_weights()
        on = np.repeat(rng.random((kernel.shape[0] // 16, kernel.shape[1])) < 0.05, 16, axis=0)
        layer.set_weights([4 * kernel * on, bias])
    images = data.load("mnist5k").x_test[:IMAGES]
    _export_file(folder, model, x_test=images)
    _reference(folder / "export", images)


def colours(folder: Path) -> None:
    """A small network of colour pictures, trained to tell their main colour."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)

    def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
        classes = rng.integers(0, 3, count)
        noise = rng.integers(0, 120, (count, 32, 32, 3))
        main = np.eye(3)[classes][:, None, None] * rng.integers(60, 136, (count, 1, 1, 1))
        return (noise + main).astype(np.uint8), classes

    x_train, y_train = pictures(600)
    x_test, y_test = pictures(200)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3), name="picture"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, "relu", name="first"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(x_train, y_train, epochs=4, batch_size=32, verbose=0)
    kernel, bias = model.get_layer("first").get_weights()
    # Whole features are left out, those of the picture's corner, and single connections.
    on = np.abs(kernel) > np.quantile(np.abs(kernel), 0.8)
    on.reshape(8, 8, 8, -1)[:2, :2] = False
    model.get_layer("first").set_weights([kernel * on, bias])
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    _export_file(folder, model, x_test=x_test, y_test=y_test, x_train=x_train)
    _reference(folder / "export", x_test[:IMAGES])


def shares(folder: Path) -> None:
    """A softmax for digits as Keras loads them, without channels; int8 rounds its shares."""
    keras.utils.set_random_seed(0)
    images = data.load("mnist5k")
    model = keras.Sequential(
        [
            keras.Input((28, 28), name="image"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(32, "relu", name="first"),
            keras.layers.Dense(10, "softmax", name="shares"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    x_train = images.x_train[..., 0]
    model.fit(x_train, images.y_train, epochs=3, verbose=0)
    arrays = {"x_test": images.x_test[:IMAGES, ..., 0], "y_test": images.y_test[:IMAGES]}
    _export_file(folder, model, "--quantize", "int8", **arrays, x_train=x_train[:500])
    _reference(folder / "export", arrays["x_test"])


def wide(folder: Path) -> None:
    """One sigmoid for wide pictures: is the upper half the brighter one?"""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 2, 400)
    bright = 80 * np.stack([1 - classes, classes], axis=1)[:, [1] * 8 + [0] * 8]
    pictures = rng.integers(0, 176, (400, 16, 48, 3)) + bright[:, :, None, None]
    model = keras.Sequential(
        [
            keras.Input((16, 48, 3), name="picture"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.AveragePooling2D((8, 48)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, "relu", name="first"),
            keras.layers.Dense(1, "sigmoid", name="upper"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy")
    model.fit(pictures.astype("float32"), classes, epochs=20, verbose=0)
    _export_file(folder, model, x_test=pictures.astype(np.uint8), y_test=classes)
    _reference(folder / "export", pictures[:IMAGES])


def vectors(folder: Path) -> None:
    """A model that takes no picture."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,), name="measurements")
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(8, "relu")(inputs)))
    _export_file(folder, model, x_test=np.random.default_rng(0).normal(size=(50, 12)))


def indices(folder: Path) -> None:
    """A model that takes integers."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,), name="words", dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(20, 8)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(8, "relu")(x)))
    words = np.random.default_rng(0).integers(0, 20, (50, 12)).astype(np.int32)
    _export_file(folder, model, x_test=words)


def pair(folder: Path) -> None:
    """A model of two inputs."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((4,), name="left"), keras.Input((4,), name="right")]
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(inputs)))
    _export_file(folder, model)


def mask(folder: Path) -> None:
    """A model that answers a picture with a picture."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((28, 28, 1), name="image")
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(x))
    _export_file(folder, model)


def unlit(folder: Path) -> None:
    """A classifier whose outputs are no numbers for a black picture."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3), name="picture")
    x = keras.layers.Flatten()(inputs)
    shares = x / keras.ops.sum(x, axis=-1, keepdims=True)
    model = keras.Model(inputs, keras.layers.Dense(3)(shares))
    _export_file(folder, model)


def refused(folder: Path, good: Path, small: Path) -> None:
    """An export with files that no runtime takes, each for another reason.

    Its compact file is cut short; float16 has a sparse weight whose columns the runtime finds to be
    wrong; sparse has one, behind DENSIFY, with which it writes outside of its memory; int8 was left
    out by the export.
    """
    shutil.copytree(good, folder)
    compact = folder / "model_compact.tflite"
    compact.write_bytes(compact.read_bytes()[:2000])
    read = flatbuffer.read((small / "model_sparse.tflite").read_bytes())
    densified = {
        operator.inputs[0]
        for operator in read.subgraphs[0].operators
        if flatbuffer.operator_of(read, operator) == schema.BuiltinOperator.DENSIFY
    }
    sparse = {i for i, t in enumerate(read.subgraphs[0].tensors) if t.sparsity is not None}
    for tensors, target in ((sparse - densified, "float16"), (densified, "sparse")):
        if not tensors:
            raise SystemExit("Expected sparse weights, with and without DENSIFY.")
        changed = flatbuffer.read((small / "model_sparse.tflite").read_bytes())
        for index in tensors:
            _put_columns_far_out(changed.subgraphs[0].tensors[index])
        (folder / f"model_{target}.tflite").write_bytes(flatbuffer.write(changed))
    content = json.loads((folder / "export.json").read_text())
    for entry in content["artifacts"]:
        # As if the export itself had written them.
        entry["crc32"] = zlib.crc32((folder / entry["file"]).read_bytes())
        if entry["kind"] == "int8":
            (folder / entry["file"]).unlink()
            entry["problems"] = ["its accuracy is 0.5; expected at least 0.9"]
    (folder / "export.json").write_text(json.dumps(content))


def _put_columns_far_out(tensor: Any) -> None:
    columns = tensor.sparsity.dimMetadata[1]
    far = schema.Int32VectorT()
    far.values = np.full_like(columns.arrayIndices.values, 0x1FFFFFFF, dtype=np.int32)
    columns.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    columns.arrayIndices = far


def _export_file(folder: Path, model: keras.Model, *more: str, **arrays: Any) -> None:
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    flags = [str(folder / "model.keras")]
    if arrays:
        np.savez(folder / "examples.npz", **arrays)
        flags += ["--examples", str(folder / "examples.npz")]
    drop = ["--accuracy-drop", "0.02", "--no-measure"]
    _done(export_command([*flags, *drop, *more, "--out", str(folder / "export")]))


def _reference(folder: Path, images: np.ndarray) -> None:
    """Write the images, and what each file answers to them in Python."""
    facts = json.loads((folder / "page.json").read_text())
    (name,) = (entry["name"] for entry in facts["inputs"])
    inputs = {name: images.reshape(len(images), *facts["inputs"][0]["shape"]).astype(np.float32)}
    outputs = {}
    for path in sorted(folder.glob("*.tflite")):
        (values,) = run(path, inputs).values()
        outputs[path.name] = values.tolist()
    reference = {"images": images.reshape(len(images), -1).tolist(), "outputs": outputs}
    folder.with_name(f"{folder.name}.reference.json").write_text(json.dumps(reference))


def _done(status: int) -> None:
    if status:
        raise SystemExit(status)


def main(out: Path) -> None:
    """Make everything anew."""
    shutil.rmtree(out, ignore_errors=True)
    digits(out / "digits")
    halves(out / "halves")
    blocks(out / "blocks")
    colours(out / "colours")
    shares(out / "shares")
    wide(out / "wide")
    vectors(out / "vectors")
    indices(out / "indices")
    pair(out / "pair")
    mask(out / "mask")
    unlit(out / "unlit")
    refused(out / "refused", out / "digits" / "export", out / "halves" / "export")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
