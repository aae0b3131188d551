"""Image data sets as arrays."""

from keras_switcher.data.embedded import EMBEDDED, mnist5k
from keras_switcher.data.examples import (
    DATASETS,
    Examples,
    ImageData,
    Loader,
    StrPath,
    check_labels,
    load,
)
from keras_switcher.data.tfds_images import TfdsImages

__all__ = [
    "DATASETS",
    "EMBEDDED",
    "Examples",
    "ImageData",
    "Loader",
    "StrPath",
    "TfdsImages",
    "check_labels",
    "load",
    "mnist5k",
]

DATASETS.register("mnist")(
    TfdsImages(
        "mnist",
        download_url="https://storage.googleapis.com/cvdf-datasets/mnist/t10k-labels-idx1-ubyte.gz",
        fallback="mnist5k",
    )
)
DATASETS.register("cifar10")(
    TfdsImages("cifar10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz")
)
DATASETS.register("cifar100")(
    TfdsImages("cifar100", "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz")
)
DATASETS.register("mnist5k")(mnist5k)
