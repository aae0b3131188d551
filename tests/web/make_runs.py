"""Make what the browser tests show: real runs, exported, and what Python's LiteRT says of them."""

import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export import flatbuffer
from export.command import main as export_command
from export.runtime import run
from keras_switcher import data
from keras_switcher.training import main as train_command

IMAGES = 100


def digits(folder: Path) -> None:
    """A sparse LeNet-300-100, trained on real digits."""
    flags = ["--model", "lenet300", "--dataset", "mnist5k", "--epochs", "20"]
    _done(train_command([*flags, "--run-dir", str(folder)]))
    _done(export_command([str(folder), "--float16", "--no-measure"]))
    _reference(folder / "export", data.load("mnist5k").x_test[:IMAGES])


def halves(folder: Path, run_folder: Path) -> None:
    """The same run in the forms that the default leaves out: DENSIFY, and int8 throughout."""
    flags = ["--optimize", "size", "--quantize", "int8", "--no-measure", "--out", str(folder)]
    # Ranges of activations cost this small network more accuracy than weights do.
    _done(export_command([str(run_folder), *flags, "--accuracy-drop", "0.02"]))
    _reference(folder, data.load("mnist5k").x_test[:IMAGES])


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


def vectors(folder: Path) -> None:
    """A model that takes no picture."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,), name="measurements")
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dense(8, "relu")(inputs)))
    _export_file(folder, model, x_test=np.random.default_rng(0).normal(size=(50, 12)))


def refused(folder: Path, good: Path) -> None:
    """An export with files that no runtime takes: cut short, with an index far out, left out."""
    shutil.copytree(good, folder)
    compact = folder / "model_compact.tflite"
    compact.write_bytes(compact.read_bytes()[:2000])
    _crash(folder / "model_sparse.tflite")
    content = json.loads((folder / "export.json").read_text())
    for entry in content["artifacts"]:
        if entry["kind"] == "int8":
            (folder / entry["file"]).unlink()
            entry["problems"] = ["its accuracy is 0.5; expected at least 0.9"]
    (folder / "export.json").write_text(json.dumps(content))


def _crash(path: Path) -> None:
    """Have a sparse weight's indices point far outside of the memory that a browser gives."""
    model = flatbuffer.read(path.read_bytes())
    for tensor in model.subgraphs[0].tensors:
        if tensor.sparsity is not None and tensor.sparsity.traversalOrder is not None:
            columns = tensor.sparsity.dimMetadata[1]
            far = schema.Int32VectorT()
            far.values = np.full_like(columns.arrayIndices.values, 0x1FFFFFFF, dtype=np.int32)
            columns.arrayIndicesType = schema.SparseIndexVector.Int32Vector
            columns.arrayIndices = far
    path.write_bytes(flatbuffer.write(model))


def _export_file(folder: Path, model: keras.Model, **arrays: np.ndarray) -> None:
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    np.savez(folder / "examples.npz", **arrays)
    flags = [str(folder / "model.keras"), "--examples", str(folder / "examples.npz")]
    drop = ["--accuracy-drop", "0.02", "--no-measure"]
    _done(export_command([*flags, *drop, "--out", str(folder / "export")]))


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
    halves(out / "halves", out / "digits")
    blocks(out / "blocks")
    colours(out / "colours")
    vectors(out / "vectors")
    refused(out / "refused", out / "digits" / "export")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
