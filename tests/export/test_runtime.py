import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flatbuffers
import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tflite_files import interpreter

from export.errors import InvalidFile, RuntimeFailure
from export.runtime import RUNNER, measure, run

ROOT = Path(__file__).parents[2]
BATCH = 4


def converted(path, model, batch, examples=None):
    """Writes a model as a TFLite file with named inputs and outputs; int8 if there are examples."""
    names = [tensor.name for tensor in model.inputs]

    def serve(*inputs):
        outputs = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        return dict(zip(model.output_names, keras.tree.flatten(outputs), strict=True))

    specs = [
        tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("classify", serve, input_signature=specs)
    archive.write_out(path.with_suffix(""), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(path.with_suffix("")), signature_keys=["classify"]
    )
    if examples is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            ("classify", {names[0]: example[None]}) for example in examples
        )
        converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())
    return path


def rewritten(source, target, change):
    """Writes a copy of a file whose object model was changed."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(source.read_bytes(), 0))
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(builder.Output())
    return target


def claim_too_many_connections(model):
    """Gives a weight the rows of a sparse tensor that ends gigabytes before its last row does."""
    graph = model.subgraphs[0]
    full = next(
        operator
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode
        == schema.BuiltinOperator.FULLY_CONNECTED
    )
    model.operatorCodes[full.opcodeIndex].version = 8
    weight = graph.tensors[full.inputs[1]]
    rows, columns = schema.DimensionMetadataT(), schema.DimensionMetadataT()
    rows.format, rows.denseSize = schema.DimensionType.DENSE, int(weight.shape[0])
    columns.format = schema.DimensionType.SPARSE_CSR
    columns.arraySegmentsType = columns.arrayIndicesType = schema.SparseIndexVector.Int32Vector
    columns.arraySegments, columns.arrayIndices = schema.Int32VectorT(), schema.Int32VectorT()
    columns.arraySegments.values = np.linspace(0, 2e9, rows.denseSize + 1).astype(np.int32)
    columns.arrayIndices.values = np.zeros(4, np.int32)
    weight.sparsity = schema.SparsityParametersT()
    weight.sparsity.traversalOrder = np.arange(2, dtype=np.int32)
    weight.sparsity.dimMetadata = [rows, columns]
    model.buffers[weight.buffer].data = np.ones(4, np.float32).view(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 5), name="image")
    x = keras.layers.Dense(16, "relu")(keras.layers.Flatten()(image))
    return keras.Model(image, keras.layers.Dense(3, name="logits")(x))


@pytest.fixture(scope="module")
def plain(folder, network):
    return converted(folder / "plain.tflite", network, 1)


@pytest.fixture(scope="module")
def two_sided():
    keras.utils.set_random_seed(1)
    given = keras.Input((3,), name="right"), keras.Input((3,), name="left")
    difference = keras.layers.Subtract(name="difference")(given)
    outputs = [difference, keras.layers.Dense(2, name="logits")(difference)]
    return keras.Model(list(given), outputs)


@pytest.fixture(scope="module")
def batched(folder, two_sided):
    return converted(folder / "batched.tflite", two_sided, BATCH)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((10, 6, 5), np.float32)


@pytest.fixture(scope="module")
def int8(folder, network, images):
    return converted(folder / "int8.tflite", network, 1, images)


@pytest.fixture(scope="module")
def nameless(folder, batched):
    def forget(model):
        model.signatureDefs = []

    return rewritten(batched, folder / "nameless.tflite", forget)


@pytest.fixture(scope="module")
def crashing(folder, plain):
    return rewritten(plain, folder / "crashing.tflite", claim_too_many_connections)


@pytest.mark.parametrize("delegate", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_are_those_of_keras(plain, network, images, delegate, threads):
    outputs = run(plain, {"image": images}, delegate=delegate, threads=threads)

    assert set(outputs) == {"logits"}
    np.testing.assert_allclose(outputs["logits"], network(images), atol=1e-6)


def test_the_same_run_twice_gives_the_same_bits(plain, images):
    first, second = (run(plain, {"image": images})["logits"] for _ in range(2))

    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("examples", [1, BATCH, BATCH + 1, 3 * BATCH - 1])
def test_a_last_batch_that_is_not_full_is_run_too(batched, two_sided, examples):
    left, right = np.random.default_rng(1).normal(size=(2, examples, 3)).astype(np.float32)

    outputs = run(batched, {"left": left, "right": right})

    difference, logits = two_sided([right, left])
    np.testing.assert_array_equal(outputs["difference"], difference)
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-6)


def test_a_file_without_a_signature_has_the_names_of_its_tensors(nameless, batched):
    left, right = np.random.default_rng(2).normal(size=(2, BATCH, 3)).astype(np.float32)
    file = interpreter(nameless.read_bytes())
    inputs = {
        tensor["name"]: left if "left" in tensor["name"] else right
        for tensor in file.get_input_details()
    }

    outputs = run(nameless, inputs)

    assert file.get_signature_list() == {}
    assert len(inputs) == 2
    expected = run(batched, {"left": left, "right": right})
    assert {value.tobytes() for value in outputs.values()} == {
        value.tobytes() for value in expected.values()
    }


def test_sizes_that_a_file_leaves_open_are_those_of_the_inputs(folder):
    sequence = keras.Input((None, 2), name="sequence")
    model = keras.Model(sequence, keras.layers.ReLU(name="positive")(sequence))
    path = converted(folder / "open.tflite", model, None)
    values = np.random.default_rng(0).normal(size=(5, 7, 2)).astype(np.float32)

    (details,) = interpreter(path.read_bytes()).get_input_details()
    assert details["shape_signature"].tolist() == [-1, -1, 2]
    np.testing.assert_array_equal(
        run(path, {"sequence": values})["positive"], np.maximum(values, 0)
    )
    assert measure([path], processes=1, seconds=0.05)[path][0].latency.median_us > 0


def test_an_int8_file_takes_and_gives_int8(int8, network, images):
    file = interpreter(int8.read_bytes())
    (image,), (logits,) = file.get_input_details(), file.get_output_details()
    assert (image["dtype"], logits["dtype"]) == (np.int8, np.int8)
    scale, zero_point = image["quantization"]
    steps = np.round(images / scale) + zero_point

    outputs = run(int8, {"image": np.clip(steps, -128, 127).astype(np.int8)})

    scale, zero_point = logits["quantization"]
    values = (outputs["logits"].astype(np.float32) - zero_point) * scale
    expected = np.asarray(network(images))
    np.testing.assert_allclose(values, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"picture": np.zeros((2, 6, 5), np.float32)}, r"\['image'\]. Received: \['picture'\]"),
        ({"image": np.zeros((2, 5, 6), np.float32)}, r"\(None, 6, 5\) .* Received: \(2, 5, 6\)"),
        ({"image": np.zeros((2, 30), np.float32)}, r"Received: \(2, 30\)"),
        ({"image": np.zeros((2, 6, 5))}, "dtype float32. Received: .*float64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(plain, inputs, message):
    with pytest.raises(RuntimeFailure, match=message):
        run(plain, inputs)


@pytest.mark.parametrize("counts", [(), (0, 0), (2, 3)])
def test_inputs_need_the_same_number_of_examples(batched, counts):
    inputs = {f"input_{i}": np.zeros((count, 3), np.float32) for i, count in enumerate(counts)}

    with pytest.raises(ValueError, match="the same number of examples, >= 1"):
        run(batched, inputs)


@pytest.mark.parametrize("delegate", [True, False])
def test_a_crash_of_the_runtime_is_an_error_that_names_it(crashing, images, delegate):
    with pytest.raises(RuntimeFailure) as caught:
        run(crashing, {"image": images}, delegate=delegate)

    expected = f"crashed (SIGSEGV): {crashing}, {'with' if delegate else 'without'} XNNPACK"
    assert expected in str(caught.value)


def test_what_the_runtime_says_about_a_file_is_in_the_error(folder, plain):
    def ask_for_the_impossible(model):
        for code in model.operatorCodes:
            code.version = 99

    path = rewritten(plain, folder / "future.tflite", ask_for_the_impossible)

    with pytest.raises(RuntimeFailure, match=f"{path}, with XNNPACK.*version '99'"):
        measure([path], processes=1, seconds=0.05)


def test_a_run_past_its_time_limit_is_killed(plain):
    start = time.monotonic()

    with pytest.raises(RuntimeFailure, match=f"within 1.5 s .--timeout.: {plain}, with XNNPACK"):
        measure([plain], seconds=100, timeout=1.5)

    assert time.monotonic() - start < 10
    assert psutil.Process().children() == []


def measuring_process(path, threads=1):
    """Starts a long measurement in another Python; returns it and the process that it started."""
    code = (
        # A job in the background of a shell is started with Ctrl-C ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from export.runtime import *\n"
        "measure("
        f"[Path({str(path)!r})], configurations=(({threads}, True),), seconds=100, timeout=101)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    for _ in range(300):
        children = psutil.Process(parent.pid).children()
        if children and str(RUNNER) in children[0].cmdline():
            return parent, children[0]
        time.sleep(0.1)
    parent.kill()
    raise AssertionError("It started no process.")


def test_ctrl_c_ends_the_process_that_runs_the_file(plain):
    parent, child = measuring_process(plain)
    time.sleep(0.3)

    with parent:
        parent.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in parent.communicate(timeout=30)[1]

    child.wait(timeout=10)


def test_the_runtime_gets_the_threads_that_it_is_timed_with(plain):
    counts = []
    for threads in (1, 3):
        parent, child = measuring_process(plain, threads)
        time.sleep(3)
        # The machine may be slow to get there.
        for _ in range(600 if counts else 0):
            if child.num_threads() >= counts[0] + 2:
                break
            time.sleep(0.1)
        counts.append(child.num_threads())
        with parent:
            parent.send_signal(signal.SIGINT)
            parent.communicate(timeout=30)

    assert counts[1] - counts[0] == 2


def test_a_process_that_nobody_waits_for_ends_by_itself(plain, tmp_path):
    request = {
        **{"task": "measure", "file": str(plain), "threads": 1, "delegate": True, "seconds": 100},
        "seconds_to_live": 1,
    }

    status = subprocess.run(
        [sys.executable, str(RUNNER)], input=json.dumps(request), text=True, timeout=30
    ).returncode

    assert status == -signal.SIGALRM


def test_the_process_imports_neither_tensorflow_nor_the_library(plain, tmp_path):
    request = {
        **{"task": "measure", "file": str(plain), "threads": 1, "delegate": True, "seconds": 0.05},
        "seconds_to_live": 60,
    }

    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", str(RUNNER)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert json.loads(done.stdout)["median_us"] > 0
    modules = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.split("\n")
    }
    assert {"numpy", "ai_edge_litert"} <= modules
    assert not modules & {"tensorflow", "keras", "keras_switcher", "export"}


def test_what_others_write_to_standard_output_is_not_in_the_answer(plain, tmp_path, monkeypatch):
    chatter = "import atexit, os; atexit.register(os.write, 1, b'chatter')"
    (tmp_path / "sitecustomize.py").write_text(chatter)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    assert measure([plain], processes=1, seconds=0.05)[plain][0].latency.median_us > 0


@pytest.mark.parametrize(
    "task", [lambda path: run(path, {"image": np.zeros(1)}), lambda path: measure([path])]
)
def test_what_is_no_file_or_no_model_is_refused(tmp_path, task):
    text, loop = tmp_path / "text.tflite", tmp_path / "loop.tflite"
    text.write_text("weights")
    os.symlink(loop, loop)

    for path, message in [
        (tmp_path / "missing.tflite", "missing.tflite: No such file or directory"),
        (tmp_path, "Is a directory"),
        (loop, "Could not read"),
        (text, "Expected a TFLite model.*Received: .*text.tflite, which starts with b'weights'"),
    ]:
        with pytest.raises(InvalidFile, match=message):
            task(path)


@pytest.mark.parametrize("length", [8, 20, 0.5])
def test_a_file_that_breaks_off_is_an_error(folder, plain, length):
    content = plain.read_bytes()
    path = folder / f"short-{length}.tflite"
    path.write_bytes(content[: length if length >= 1 else int(length * len(content))])

    with pytest.raises(RuntimeFailure, match=str(path)):
        measure([path], processes=1, seconds=0.05)


def test_a_larger_network_is_slower_and_heavier(folder, plain):
    given = keras.Input((2048,), name="features")
    model = keras.Model(given, keras.layers.Dense(1024, name="units")(given))
    path = converted(folder / "large.tflite", model, 1)
    weights = 4 * 2048 * 1024

    measured = measure(
        [plain, path], configurations=((1, True), (1, False), (2, True)), processes=1, seconds=0.2
    )

    assert list(measured) == [plain, path]
    for small, large in zip(measured[plain], measured[path], strict=True):
        assert 0 < small.latency.median_us < large.latency.median_us
        assert small.latency.median_us <= small.latency.p90_us
    assert [(m.latency.clock, m.latency.threads, m.latency.delegate) for m in measured[path]] == [
        ("cpu", 1, True),
        ("cpu", 1, False),
        ("wall", 2, True),
    ]
    if sys.platform == "linux":
        packed, mapped, _ = (m.memory for m in measured[path])
        # XNNPACK makes a copy of the weights; the builtin kernels read them in the file.
        assert weights <= packed.heap_bytes < 1.5 * weights
        assert mapped.heap_bytes < weights / 10
        assert weights <= mapped.peak_bytes < packed.peak_bytes
        assert measured[plain][0].memory.heap_bytes < weights / 10
    else:
        assert measured[path][0].memory.heap_bytes is None


def test_any_file_can_be_timed(folder, int8, nameless):
    word = keras.Input((4,), dtype="int32", name="word")
    model = keras.Model(word, keras.layers.Embedding(2, 3, name="vector")(word))
    table = converted(folder / "table.tflite", model, 1)

    measured = measure([int8, nameless, table], processes=1, seconds=0.05)

    assert all(m.latency.median_us > 0 for (m,) in measured.values())


def test_files_take_turns_and_the_least_disturbed_process_counts(plain, int8, monkeypatch):
    seen = []

    def answer(request, folder, timeout):
        seen.append(Path(json.loads(request)["file"]))
        figure = [5.0, 1.0, 9.0][seen.count(plain) - 1] if seen[-1] == plain else 1.0
        answer = {"clock": "cpu", "median_us": figure, "p90_us": 2 * figure}
        return 0, json.dumps({**answer, "heap_bytes": int(figure), "peak_bytes": None}), ""

    monkeypatch.setattr("export.runtime._answered", answer)

    (measured,) = measure([plain, int8], processes=3)[plain]

    assert (measured.latency.median_us, measured.latency.p90_us) == (1.0, 2.0)
    assert (measured.memory.heap_bytes, measured.memory.peak_bytes) == (1, None)
    assert [{*pair} for pair in zip(seen[::2], seen[1::2], strict=True)] == [{plain, int8}] * 3


@pytest.mark.parametrize(
    "figures", [{"processes": 0}, {"seconds": 0.0}, {"configurations": ((0, True),)}]
)
def test_figures_out_of_range_are_refused(plain, figures):
    with pytest.raises(ValueError, match="Expected processes >= 1, threads >= 1 and seconds > 0"):
        measure([plain], **figures)
