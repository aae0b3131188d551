"""The loss of a classifier with integer labels, with label smoothing."""

from typing import Any

import keras
from keras import ops

from keras_switcher.registry import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class SmoothedCrossentropy(keras.losses.Loss):
    """`SparseCategoricalCrossentropy` with label smoothing, which Keras has for one-hot labels.

    Args:
        label_smoothing: Share of each label's weight, in [0, 1), that is spread evenly over all
            classes.
        from_logits: Whether predictions are logits, and not probabilities.
        **kwargs: Of `keras.losses.Loss`.

    Call arguments:
        y_true: Integer labels of shape (batch,) or (batch, 1).
        y_pred: Predictions of shape (batch, classes).

    Returns:
        The loss, reduced as `reduction` says.

    Raises:
        ValueError: If the share lies outside [0, 1).

    Reference:
        [Szegedy et al., 2016](https://arxiv.org/abs/1512.00567), section 7.
    """

    def __init__(
        self, label_smoothing: float = 0.0, *, from_logits: bool = False, **kwargs: Any
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "Expected `label_smoothing` in [0, 1). Received: "
                f"label_smoothing={label_smoothing!r}"
            )
        super().__init__(**{"name": "smoothed_crossentropy", **kwargs})
        self.label_smoothing = label_smoothing
        self.from_logits = from_logits

    def call(self, y_true: Any, y_pred: Any) -> Any:
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        return keras.losses.categorical_crossentropy(
            ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype),
            y_pred,
            from_logits=self.from_logits,
            label_smoothing=self.label_smoothing,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
        }
