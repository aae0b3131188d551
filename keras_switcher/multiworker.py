"""The workers of a run as configured, and TensorFlow's errors when one is lost."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import keras_switcher
from keras_switcher.checks import ConfigError
from keras_switcher.cluster import (
    TF_CONFIG,
    find_cluster,
    refuse_lone_workers,
    to_tf_config,
    without_proxy,
)
from keras_switcher.commands import load_tensorflow
from keras_switcher.config import Config, influences
from keras_switcher.files import RunError
from keras_switcher.meeting import joined
from keras_switcher.workers import WorkerLost, Workers


@contextmanager
def joined_as_configured(config: Config) -> Iterator[Workers]:
    """Meet the other workers, if the strategy has more than this one.

    Args:
        config: The configuration of the run.

    Yields:
        The workers.

    Raises:
        ConfigError: If the environment names no cluster, or the workers don't agree.
        RunError: If they don't meet in time.
    """
    strategy = config.execution.strategy
    if strategy != "multiworker":
        refuse_lone_workers(strategy)
        yield Workers()
        return
    if TF_CONFIG not in os.environ:
        # The resolver for Slurm needs it.
        load_tensorflow(config.run.verbose)
    cluster = find_cluster()
    facts = {
        **{name: version(name) for name in ("tensorflow", "keras")},
        "keras_switcher": keras_switcher.__version__,
        **influences(config),
    }
    with joined(cluster, facts, config.execution.worker_timeout) as workers:
        # TensorFlow's server reads these.
        os.environ.update({TF_CONFIG: to_tf_config(cluster), **without_proxy(cluster.addresses)})
        yield workers


@contextmanager
def lost_workers_named(workers: Workers) -> Iterator[None]:
    """Say which worker is lost where TensorFlow only says that a collective failed.

    Args:
        workers: The workers of the run.

    Raises:
        WorkerLost: Instead of TensorFlow's error, if a worker is lost.
    """
    import tensorflow as tf

    signs = (
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
        tf.errors.UnavailableError,
    )
    try:
        yield
    except (RunError, ConfigError):
        raise
    except Exception as error:
        if workers.count == 1:
            raise
        if lost := workers.loss(wait=isinstance(error, signs)):
            raise lost from error
        if isinstance(error, signs):
            reason = str(error).partition("aborted by: ")[2] or str(error)
            reason = " ".join(reason.partition("The error could be from")[0].split())
            raise WorkerLost(f"The workers have lost touch: {reason}") from error
        raise
