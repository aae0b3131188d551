"""`MultiWorkerStrategy`: TensorFlow's strategy for several machines, adapted to Keras 3."""

import signal
import threading
from typing import Any

import tensorflow as tf


class MultiWorkerStrategy(tf.distribute.MultiWorkerMirroredStrategy):
    """A `tf.distribute.MultiWorkerMirroredStrategy` that works with `fit` of Keras 3.15.

    Keras asks TensorFlow's strategy for two things that it can't do (keras#20585): to reduce along
    an axis the replicas' metrics, which are scalars, and to reduce a whole batch, with its images
    and labels, only to see its shapes. Here both return the values of this worker, for any model.
    So what Keras logs for a batch covers only this worker's part of it. What it logs for an epoch
    comes from the metrics' variables, which cover all workers.

    Args:
        *args: As for `tf.distribute.MultiWorkerMirroredStrategy`.
        **kwargs: As for `tf.distribute.MultiWorkerMirroredStrategy`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        super().__init__(*args, **kwargs)
        # TensorFlow's coordination service takes SIGTERM for a notice of preemption, which only its
        # own checkpoints look for, and the program would no longer receive the signal.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)

    def reduce(self, reduce_op: Any, value: Any, axis: Any = None) -> Any:
        """Reduce as TensorFlow does, but take only this worker's part of batches and of scalars.

        Args:
            reduce_op: As for `tf.distribute.Strategy.reduce`.
            value: A value per replica, or a batch: a tuple of such values.
            axis: As for `tf.distribute.Strategy.reduce`. Scalars have none.
        """
        if isinstance(value, tuple):
            return tf.nest.map_structure(lambda v: self.experimental_local_results(v)[0], value)
        local = self.experimental_local_results(value)
        if axis is not None and all(scalar.shape.rank == 0 for scalar in local):
            # A collective for each, in every step, would only make the logs of a batch complete.
            return tf.reduce_mean(tf.stack(local), axis=0)
        return super().reduce(reduce_op, value, axis)
