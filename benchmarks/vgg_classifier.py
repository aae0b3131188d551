"""Train the classifier of VGG16, 512-4096-4096-10, sparse on MNIST, and save it for an export.

python benchmarks/vgg_classifier.py --granularity block4 --out runs/vgg-block4

Its 512 inputs are the features of two convolutions that learn with it. The files that it saves are
`classifier.keras`, a plain Keras model of only the three dense layers, and `features.npz`, the
inputs of these layers for training and test images, so that

python -m export runs/vgg-block4/classifier.keras --examples runs/vgg-block4/features.npz

exports and measures it.
"""

import argparse
import json
import os
import time
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers
from timing import count, names_of, share

from keras_switcher import data, granularity, strip, switch
from keras_switcher.batches import training_batches

UNITS = 4096


def main() -> None:
    """Train, strip, and write the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--granularity", default="connection", help="connection, block4, block16")
    parser.add_argument("--target-sparsity", type=share, default=0.95)
    parser.add_argument("--epochs", type=count, default=2)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--units", type=count, default=UNITS, help="of both hidden layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    with names_of(parser):
        granularity.get(args.granularity)
        images = data.load(args.dataset, args.data_dir)
    keras.utils.set_random_seed(args.seed)
    pixels = keras.Input(images.input_shape, name="image")
    x = layers.Rescaling(1 / 255)(pixels)
    for number, channels in enumerate((32, 32), start=1):
        x = layers.Conv2D(channels, 5, activation="relu", name=f"conv{number}")(x)
        x = layers.MaxPooling2D(2)(x)
    x = features = layers.Flatten(name="flatten")(x)
    for number in (1, 2):
        x = layers.Dense(args.units, activation="relu", name=f"fc{number}")(x)
    logits = layers.Dense(images.num_classes, name="logits")(x)
    sparse = switch(keras.Model(pixels, logits), granularity=args.granularity)
    sparse.compile(
        optimizer=keras.optimizers.Adam(3e-4),
        switcher_optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        target_sparsity=args.target_sparsity,
    )
    batch = 128
    started = time.perf_counter()
    sparse.fit(
        training_batches(images.x_train, images.y_train, batch, seed=args.seed, epochs=args.epochs),
        steps_per_epoch=len(images.x_train) // batch,
        epochs=args.epochs,
        shuffle=False,
        verbose=2,
    )
    seconds = time.perf_counter() - started

    stripped = strip(sparse)
    trunk = keras.Model(stripped.inputs, stripped.get_layer("flatten").output)
    x = given = keras.Input(features.shape[1:], name="features")
    for name in ("fc1", "fc2", "logits"):
        x = stripped.get_layer(name)(x)
    classifier = keras.Model(given, x, name="vgg_classifier")
    args.out.mkdir(parents=True, exist_ok=True)
    classifier.save(args.out / "classifier.keras")
    arrays = {
        "x_test": trunk.predict(images.x_test, verbose=0),
        "y_test": images.y_test,
        "x_train": trunk.predict(images.x_train[:1000], verbose=0),
    }
    np.savez_compressed(args.out / "features.npz", **arrays)
    scores = classifier.predict(arrays["x_test"], verbose=0)
    facts = {
        "granularity": args.granularity,
        "sparsity": float(sparse.sparsity),
        "test_accuracy": float(np.mean(scores.argmax(1) == images.y_test)),
        "epochs": args.epochs,
        "seconds": round(seconds, 1),
    }
    (args.out / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
