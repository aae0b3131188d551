"""Image data sets of TensorFlow Datasets, downloaded where they are missing."""

import json
import logging
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorflow as tf

from keras_switcher.data.examples import DATASETS, Examples, StrPath

logger = logging.getLogger(__name__)

# How long a download host has to answer before it counts as out of reach.
PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class TfdsImages:
    """Loads an image data set of TensorFlow Datasets, downloading it if it is missing.

    Args:
        dataset: The name in TensorFlow Datasets.
        download_url: URL of a file of the download. It is requested before TensorFlow Datasets
            starts, which would spend minutes on retries without a network.
        fallback: Registered name of a data set to use if there is neither the data nor a network;
            `None` raises an error instead.

    Example:
        ```python
        from keras_switcher.data import DATASETS, TfdsImages

        DATASETS.register("fashion")(TfdsImages("fashion_mnist", "http://..."))
        ```
    """

    dataset: str
    download_url: str
    fallback: str | None = None

    def __call__(self, data_dir: StrPath | None) -> Examples:
        """Loads the data set from a folder, the network or the fallback."""
        if os.environ.get("TFDS_DATA_DIR") == "":
            # TensorFlow Datasets would take it for the current folder, as it is set.
            del os.environ["TFDS_DATA_DIR"]
        where = data_dir if data_dir is not None else os.environ.get("TFDS_DATA_DIR")
        if where is not None:
            where = os.fspath(Path(where).expanduser())
            if Path(where).exists() and not Path(where).is_dir():
                raise NotADirectoryError(
                    "The folder of the data sets must be a folder. "
                    f"Received: data_dir={os.fspath(where)!r}"
                )
        builder = self._builder(where)
        if not builder.is_prepared():
            if not answers(self.download_url, PROBE_SECONDS):
                return self._without_data(data_dir, Path(builder.data_dir))
            logger.info("Downloading %s into %s", builder.info.full_name, builder.data_dir)
            self._download(builder)
        try:
            x_train, y_train = _decoded(builder, "train")
            x_test, y_test = _decoded(builder, "test")
        except (tf.errors.DataLossError, tf.errors.NotFoundError) as error:
            raise self._damaged(builder.data_dir, error.message) from error
        classes = builder.info.features[builder.info.supervised_keys[1]]
        return Examples(
            source=f"tfds {builder.info.full_name}",
            x_train=x_train,
            y_train=y_train,
            x_test=x_test,
            y_test=y_test,
            num_classes=classes.num_classes,
            class_names=tuple(classes.names),
        )

    def _builder(self, where: str | None) -> Any:
        # Imported late: whoever uses only the batches need not wait for it.
        import tensorflow_datasets as tfds
        from google.protobuf.json_format import ParseError

        try:
            return tfds.builder(self.dataset, data_dir=where)
        except (ParseError, json.JSONDecodeError) as error:
            # Of the files that describe it.
            folder = Path(tfds.core.constants.DATA_DIR if where is None else where, self.dataset)
            raise self._damaged(folder, str(error)) from error

    def _damaged(self, folder: StrPath, reason: str) -> OSError:
        return OSError(
            f"The data set {self.dataset!r} in {os.fspath(folder)} is damaged or incomplete. "
            f"Delete that folder to have it made again. Received: {' '.join(reason.split())[:300]}"
        )

    def _download(self, builder: Any) -> None:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
        from tensorflow_datasets.core.download.extractor import ExtractError

        try:
            builder.download_and_prepare()
        except (tfds.download.DownloadError, NonMatchingChecksumError, ExtractError) as error:
            reason = " ".join(str(error).split())
            raise OSError(
                f"Can't download the data set {self.dataset!r}: {reason[:300]} Does a proxy or a "
                "login page answer in the place of its host? Try again, or name a folder that "
                "TensorFlow Datasets prepared by --data-dir or TFDS_DATA_DIR."
            ) from error

    def _without_data(self, data_dir: StrPath | None, looked_in: Path) -> Examples:
        host = urlsplit(self.download_url).hostname
        tried = (
            f"The data set {self.dataset!r} is not in {looked_in}, and its download host {host} "
            f"did not answer"
        )
        named, place = data_dir is not None, "data_dir"
        variable = os.environ.get("TFDS_DATA_DIR")
        if not named and variable is not None:
            # A folder that is not there is a slip of the pen, as one named by `data_dir` would be.
            data_dir, place = variable, "TFDS_DATA_DIR"
            named = not Path(variable).expanduser().is_dir()
        if named or self.fallback is None:
            hint = ""
            if data_dir is not None and self.dataset in Path(data_dir).parts[-2:]:
                hint = f" (its parent: the one that contains '{self.dataset}/')"
            otherwise = f", or leave it out to do with '{self.fallback}'" if self.fallback else ""
            raise FileNotFoundError(
                f"{tried}. Name a folder that TensorFlow Datasets prepared{hint}, or one to "
                f"download into where there is a network{otherwise}. "
                f"Received: {place}={None if data_dir is None else os.fspath(data_dir)!r}"
            )
        examples = DATASETS.get(self.fallback)(None)
        warnings.warn(
            f"{tried}.\n"
            f"USING {self.fallback!r} INSTEAD: {examples.source}, {len(examples.y_train):,} for "
            f"training and {len(examples.y_test):,} for testing. Results on it say nothing about "
            f"{self.dataset!r}.\n"
            "For the full data set, run once with a network, or set --data-dir or TFDS_DATA_DIR "
            "to a folder that TensorFlow Datasets prepared.",
            stacklevel=4,
        )
        return examples


def _decoded(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads a prepared split of an image data set into memory."""
    import tensorflow_datasets as tfds

    image = builder.info.supervised_keys[0]
    shape = builder.info.features[image].shape
    encoded, labels = builder.as_dataset(
        split=split,
        batch_size=-1,
        as_supervised=True,
        decoders={image: tfds.decode.SkipDecoding()},
        read_config=tfds.ReadConfig(try_autocache=False),
    )

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        # One loop over all images takes half as long as a data set that maps them one by one.
        return tf.map_fn(
            lambda one: tf.io.decode_image(one, channels=shape[-1], expand_animations=False),
            encoded,
            fn_output_signature=tf.TensorSpec(shape, tf.uint8),
            parallel_iterations=32,
        )

    with tf.device("CPU:0"):
        traced = tf.function(decode).get_concrete_function(tf.TensorSpec((None,), tf.string))
        return traced(encoded).numpy(), labels.numpy()


def answers(url: str, seconds: float) -> bool:
    """Returns whether a download would start; is certain to return within that many seconds."""
    # The library that TFDS downloads with, for the same proxies and the same certificates.
    import requests

    answered = threading.Event()

    def ask() -> None:
        try:
            if requests.head(url, timeout=seconds, allow_redirects=True).ok:
                answered.set()
        except (requests.RequestException, OSError) as error:
            logger.debug("No answer from %s: %s", url, error)

    # No socket timeout covers a name server that hangs, so let it hang only this thread.
    thread = threading.Thread(target=ask, name="download-probe", daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()
