"""TFLite files for tests: converted networks, and single dense layers with any weights."""

import contextlib
import functools
import io
import json
import tempfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from export import metadata
from export.csr import Storage, can_store
from export.errors import InvalidFile
from export.flatbuffer import read, write
from export.sparsify import store
from export.validate import validate_model
from export.weights import weights

RESOLVERS = (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)


def convert(model, mode="float32"):
    """Returns the file that TensorFlow's converter makes of a Keras model; batch 1."""
    shape = (1, *model.inputs[0].shape[1:])
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "classify",
        lambda image: {"scores": model(image, training=False)},
        input_signature=[tf.TensorSpec(shape, name="image")],
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["classify"])
        optimizations = {tf.lite.Optimize.DEFAULT} if mode not in ("float32", "sparse") else set()
        if mode.startswith("sparse"):
            optimizations.add(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
        converter.optimizations = list(optimizations)
        if mode.endswith("float16"):
            converter.target_spec.supported_types = [tf.float16]
        if mode == "int8":
            random = np.random.default_rng(0)
            images = [random.normal(size=shape).astype("float32") for _ in range(8)]
            converter.representative_dataset = lambda: ([image] for image in images)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        return converter.convert()


def pruned(model, sparsity=0.8, block=1):
    """Zeroes kernels at random; those of dense layers in blocks of inputs."""
    random = np.random.default_rng(1)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel, *others = layer.get_weights()
            rows = kernel.shape[0] if kernel.ndim > 2 else -(-kernel.shape[0] // block)
            mask = random.random((rows, *kernel.shape[1:])) >= sparsity
            if kernel.ndim == 2:
                mask = np.repeat(mask, block, axis=0)[: kernel.shape[0]]
            layer.set_weights([kernel * mask, *others])
    return model


def mlp(inputs=48, units=32, outputs=4):
    keras.utils.set_random_seed(0)
    image = keras.Input((inputs,))
    x = keras.layers.Dense(units, "relu", bias_initializer="normal")(image)
    return keras.Model(image, keras.layers.Dense(outputs, bias_initializer="normal")(x))


def cnn():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same", bias_initializer="normal")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.AveragePooling2D(2, padding="same")(x)
    x = keras.layers.Flatten()(x)
    x = keras.ops.take(x, [0, 3, 5, 9, 11], axis=1)
    return keras.Model(image, keras.layers.Dense(4, "softmax")(x))


def narrow():
    keras.utils.set_random_seed(0)
    image = keras.Input((30,))
    return keras.Model(image, keras.layers.Dense(120)(image))


def layers():
    """A network of many kinds of layers."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(image)
    x = keras.layers.LeakyReLU()(keras.layers.BatchNormalization()(x))
    y = keras.layers.Conv2D(4, 1, activation="sigmoid")(x)
    x = keras.layers.Multiply()([x, y])
    x = keras.layers.ZeroPadding2D(1)(keras.layers.Concatenate()([x, y]))
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = keras.layers.Activation("gelu")(keras.layers.PReLU()(x))
    x = keras.layers.Subtract()([x, keras.layers.Activation("tanh")(x)])
    x = keras.layers.Activation("swish")(keras.layers.Activation("elu")(x))
    x = keras.layers.MaxPooling2D(2, padding="same")(keras.layers.Permute((2, 1, 3))(x))
    mean, top = keras.layers.GlobalAveragePooling2D()(x), keras.layers.GlobalMaxPooling2D()(x)
    x = keras.layers.Dense(12, "selu")(keras.layers.Maximum()([mean, top]))
    x = keras.layers.LayerNormalization()(keras.layers.Activation("softplus")(x))
    x = keras.layers.Reshape((12, 1))(keras.layers.Activation("hard_sigmoid")(x))
    x = keras.layers.Flatten()(keras.layers.Conv1D(4, 3, padding="same")(x))
    return keras.Model(image, keras.layers.Dense(5, "softmax")(x))


NETWORKS = {"mlp": mlp, "cnn": cnn, "narrow": narrow, "layers": layers}


@functools.cache
def converted(network, mode="float32", sparsity=0.0, block=1):
    """Returns a converted network of `NETWORKS`, pruned first; once for each choice."""
    return convert(pruned(NETWORKS[network](), sparsity, block), mode)


@functools.cache
def _layer(mode):
    """Returns the file of one dense layer, 40 inputs and 32 units: enough to be quantised."""
    keras.utils.set_random_seed(0)
    image = keras.Input((40,))
    dense = keras.layers.Dense(32, bias_initializer="normal")(image)
    return convert(keras.Model(image, dense), mode)


def dense_layer(array, mode="float32"):
    """Returns the file of one dense layer with the given weights, of shape (units, inputs).

    It is the converter's file of another such layer, with weights, bias and shapes exchanged.
    """
    units, inputs = array.shape
    random = np.random.default_rng(2)
    sizes = {32: units, 40: inputs}
    model = read(_layer(mode))
    for tensor in model.subgraphs[0].tensors:
        shape = [int(size) for size in tensor.shape]
        tensor.shape = [sizes.get(size, size) for size in shape]
        data = model.buffers[tensor.buffer].data
        scale = None if tensor.quantization is None else tensor.quantization.scale
        if shape == [32, 40]:
            model.buffers[tensor.buffer].data = np.ascontiguousarray(array).view("u1").ravel()
        elif data is not None:
            bias = random.normal(size=units).astype("f4")
            if scale is not None:
                bias = (bias * 1000).astype("i4")
            model.buffers[tensor.buffer].data = bias.view("u1")
        if scale is not None and len(scale) == 32:
            tensor.quantization.scale = np.full(units, scale[0])
            tensor.quantization.zeroPoint = np.zeros(units, "i8")
    return write(model)


def stored(content, storage):
    """Returns a file with every weight in a storage that can be, and how many those are."""
    model = read(content)
    chosen = {
        weight.tensor: storage
        for weight in weights(model)
        if can_store(weight.array, storage, weight.hybrid) is None
    }
    return write(store(model, chosen)), len(chosen)


def sparse_file(storage):
    """Returns a small file with a weight in a storage."""
    mode = "dynamic" if storage is Storage.BLOCK16 else "float32"
    random = np.random.default_rng(3)
    array = random.normal(size=(6, 64)) * np.repeat(random.random((6, 4)) < 0.5, 16, axis=1)
    array[0] = 0
    array = (array * 40).astype("i1") if mode == "dynamic" else array.astype("f4")
    content, count = stored(dense_layer(array, mode), storage)
    assert count == 1
    return content


def interpreter(content, resolver=OpResolverType.AUTO):
    runtime = Interpreter(
        model_content=content, num_threads=1, experimental_op_resolver_type=resolver
    )
    runtime.allocate_tensors()
    return runtime


def run(content, resolver=OpResolverType.AUTO, seed=0):
    """Returns the inputs and the outputs of a file for a random image."""
    runtime = interpreter(content, resolver)
    (image,) = runtime.get_input_details()
    values = np.random.default_rng(seed).normal(size=image["shape"]).astype(image["dtype"])
    runtime.set_tensor(image["index"], values)
    runtime.invoke()
    return values, runtime.get_tensor(runtime.get_output_details()[0]["index"])


def facts(model):
    """Returns what `metadata.describe` wrote into a model."""
    (entry,) = [e for e in model.metadata if e.name in (metadata.ENTRY, metadata.ENTRY.encode())]
    return json.loads(bytes(bytearray(model.buffers[entry.buffer].data)))


def refused(model):
    """Returns with which words the validator refuses a model."""
    with pytest.raises(InvalidFile) as error:
        validate_model(model)
    message = str(error.value)
    assert "expected" in message and "Received: " in message
    return message
