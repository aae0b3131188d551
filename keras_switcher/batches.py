"""The batches that training and evaluation read from arrays of examples."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_switcher import augmentation as augmentations
from keras_switcher.checks import is_integer


def training_batches(
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    epochs: int,
    initial_epoch: int = 0,
    augmentation: str = "none",
) -> tf.data.Dataset:
    """Return shuffled batches of several epochs as one continuous data set.

    The order of an epoch and the augmentation of its images depend only on the seed and the epoch's
    number, so a run resumed at epoch e sees the same batches as an uninterrupted run from there on.
    Each epoch has `len(x) // batch_size` full batches; the examples left over differ from epoch to
    epoch.

    Args:
        x: Images, (examples, ...).
        y: Integer labels, (examples,).
        batch_size: Examples in a batch.
        seed: Seed of the order.
        epochs: Number of the epoch to stop before, as in `fit`.
        initial_epoch: Number of the epoch to start at, as in `fit`.
        augmentation: A registered name of `keras_switcher.augmentation`: "none", "crop" or
            "crop_flip".

    Returns:
        A `tf.data.Dataset` of (images, int32 labels), for `fit` with
        `steps_per_epoch=len(x) // batch_size`.

    Raises:
        ValueError: If the batch size is below 1 or above the number of examples, the epochs are
            negative or in the wrong order, or the augmentation is unknown.

    Example:
        ```python
        batches = training_batches(x, y, 128, seed=0, epochs=20, initial_epoch=5)
        model.fit(batches, steps_per_epoch=len(x) // 128, epochs=20, initial_epoch=5)
        ```
    """
    examples = _check_batches(x, y, batch_size)
    if batch_size > examples:
        raise ValueError(
            "`batch_size` must not exceed the number of training examples; choose a smaller "
            f"batch or more data. Received: batch_size={batch_size}, {examples} examples"
        )
    if not (is_integer(initial_epoch) and is_integer(epochs) and 0 <= initial_epoch <= epochs):
        raise ValueError(
            "`initial_epoch` and `epochs` must be integers with 0 <= initial_epoch <= epochs. "
            f"Received: initial_epoch={initial_epoch!r}, epochs={epochs!r}"
        )
    if not is_integer(seed):
        raise ValueError(f"`seed` must be an integer. Received: seed={seed!r}")
    steps = examples // batch_size
    take = _examples_on_cpu(x, y)
    augment = augmentations.registry.get(augmentation)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(examples), seed=epoch_seed, alg="philox"
        )
        indices = tf.reshape(shuffled[: steps * batch_size], (steps, batch_size))
        seeds = tf.map_fn(
            lambda step: tf.random.experimental.stateless_fold_in(epoch_seed, step),
            tf.range(steps, dtype=tf.int64),
        )
        return tf.data.Dataset.from_tensor_slices((indices, seeds))

    def load(indices: tf.Tensor, batch_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = take(indices)
        return augment(images, batch_seed), labels

    batches = tf.data.Dataset.range(initial_epoch, epochs).flat_map(order).map(load)
    batches = batches.apply(
        tf.data.experimental.assert_cardinality((epochs - initial_epoch) * steps)
    )
    return _in_background(batches)


def evaluation_batches(
    x: np.ndarray,
    y: np.ndarray,
    batch_size: int,
    strategy: tf.distribute.Strategy | None = None,
) -> Any:
    """Return batches of every example once, in order; the last batch may be smaller.

    With more than one replica, the batches are about equally large, so that each replica has a part
    of each batch: the loss of an empty part is not a number.

    Args:
        x: Images, (examples, ...).
        y: Integer labels, (examples,).
        batch_size: Examples in a batch.
        strategy: The distribution strategy of the model to evaluate.

    Returns:
        A `tf.data.Dataset` of (images, int32 labels), or the distributed data set that a strategy
        with more than one replica makes of it.

    Raises:
        ValueError: If the batch size is below 1, or there are no examples, or fewer than two
            for each replica.
    """
    examples = _check_batches(x, y, batch_size)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        return _shared_batches(x, y, batch_size, strategy)
    batches = tf.data.Dataset.range(examples).batch(batch_size).map(_examples_on_cpu(x, y))
    return _in_background(batches)


def _shared_batches(
    x: np.ndarray, y: np.ndarray, batch_size: int, strategy: tf.distribute.Strategy
) -> tf.distribute.DistributedDataset:
    replicas, examples = strategy.num_replicas_in_sync, len(x)
    if examples < 2 * replicas:
        raise ValueError(
            "Evaluation needs two examples for each replica; take more examples or fewer devices. "
            f"Received: {examples} examples, {replicas} replicas"
        )
    batches = min(max(2, math.ceil(examples / batch_size)), examples // replicas)
    # Part p of batch b goes to replica p. The parts of the first batch are equal because, under
    # `MirroredStrategy`, Keras 3.15 averages that batch over the replicas to see its shapes.
    least, more = divmod(examples, batches * replicas)
    sizes = np.full(batches * replicas, least)
    sizes[slice(0, more) if more >= replicas else slice(len(sizes) - more, None)] += 1
    edges = np.concatenate([[0], np.cumsum(sizes)])
    take = _examples_on_cpu(x, y)

    def parts(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local
        own = np.arange(batches * replicas).reshape(batches, replicas)[:, first : first + local]
        starts, ends = edges[:-1][own.ravel()], edges[1:][own.ravel()]
        ranges = tf.data.Dataset.from_tensor_slices((starts, ends)).map(tf.range)
        return _in_background(ranges.map(take))

    return strategy.distribute_datasets_from_function(parts)


def _check_batches(x: np.ndarray, y: np.ndarray, batch_size: int) -> int:
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            "Batches need as many labels as images, and at least one. "
            f"Received: {len(x)} images, {len(y)} labels"
        )
    if not is_integer(batch_size) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be a positive integer. Received: batch_size={batch_size!r}"
        )
    return len(x)


def _examples_on_cpu(
    x: np.ndarray, y: np.ndarray
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    # The mapped function captures these two tensors by reference, so they are not constants of a
    # graph (whose limit is 2 GiB), and no epoch copies them. One gather makes a whole batch.
    with tf.device("CPU:0"):
        images = tf.constant(x)
        labels = tf.constant(np.asarray(y, np.int32))

    def take(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(images, indices), tf.gather(labels, indices)

    return take


def _in_background(batches: tf.data.Dataset) -> tf.data.Dataset:
    # A batch takes a fraction of a training step, so one thread is enough and leaves the other
    # cores to the step.
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    # There are no files to share out, so the workers of a distribution strategy share out the
    # batches.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.prefetch(2).with_options(options)
