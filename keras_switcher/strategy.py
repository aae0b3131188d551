"""`MultiWorkerStrategy`: TensorFlow's strategy for several machines, as Keras 3 needs it."""

import signal
import threading
from typing import Any

import tensorflow as tf


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """`tf.distribute.MultiWorkerMirroredStrategy` with which `fit` of Keras 3.15 works.

    Keras asks this strategy twice for what it can't do (keras#20585): to reduce the scalars that
    the metrics of the replicas are along an axis, and to reduce a whole batch, with its images and
    labels, only to see its shapes. Both are answered here, for any model, with the values of this
    worker: so what Keras logs for a batch is of this worker's part of it. What it logs for an epoch
    it reads from the metrics' variables, which are of all workers.

    Args:
        *args: As for `tf.distribute.MultiWorkerMirroredStrategy`.
        **kwargs: As for `tf.distribute.MultiWorkerMirroredStrategy`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        super().__init__(*args, **kwargs)
        # TensorFlow's coordination service takes SIGTERM for a notice of preemption that only its
        # own checkpoints ask for, and would leave the program deaf to it.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        """Reduce as TensorFlow does; but take what this worker has of a batch, and of scalars.

        Args:
            reduce_op: As for `tf.distribute.Strategy.reduce`.
            value: A value per replica, or a tuple of such values: a batch.
            axis: As for `tf.distribute.Strategy.reduce`. Scalars have none.
        """
        if isinstance(value, tuple):
            return tf.nest.map_structure(lambda v: self.experimental_local_results(v)[0], value)
        local = self.experimental_local_results(value)
        if axis is not None and all(scalar.shape.rank == 0 for scalar in local):
            # A collective for each, in every step, would only make the logs of a batch whole.
            return tf.reduce_mean(tf.stack(local), axis=0)
        return super().reduce(reduce_op, value, axis)
