"""What TensorFlow keeps of a model that a search no longer needs."""

from tensorflow.python.framework import ops


def forget_gradients() -> None:
    """Make TensorFlow forget the custom gradients of this process, and so the graphs they hold.

    It registers one for ever whenever a function with `custom_gradient` is traced. The graph stays
    with it, tens of MiB for each trial, as neither `clear_session` nor the garbage collector can
    free it. Functions that were traced before this call can't be differentiated afterwards.

    Reference:
        tensorflow#97697.
    """
    # There is no public way. A later TensorFlow may not need this.
    registry = getattr(ops.gradient_registry, "_registry", {})
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        del registry[name]
