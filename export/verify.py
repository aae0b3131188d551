"""Check that a file does what its Keras model does on examples, with and without XNNPACK."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from . import runtime
from .convert import Precision
from .source import Examples

# Tolerance for a float file, which adds the same numbers in another order: a share of the largest
# output, or a multiple of the Keras model's own rounding error, up to a larger share.
_FLOAT, _ROUNDINGS, _MOST = 1e-5, 16, 1e-3
# How far float16 and int8 files may be from the model where there are no labels to measure an
# accuracy with, as a share of the largest output.
_ROUNDED = {Precision.FLOAT16: 0.01, Precision.DYNAMIC: 0.1, Precision.INT8: 0.2}
# Number of examples that are also run without XNNPACK.
_WITHOUT_DELEGATE = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """The results of the Keras model on the examples.

    Args:
        inputs: The examples as it takes them, by name, each (examples, ...).
        outputs: Its outputs by name, each (examples, ...).
        accuracy: Share of the examples that it classifies correctly; `None` without labels.
        rounding: How far each output is from that in float64, by name, where it is known.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    accuracy: float | None
    rounding: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def tolerance(self, name: str) -> float:
        """Return how far a float32 file may be: 1e-5 of the output's largest absolute value.

        It is 16 times the rounding error of the model's own output if that is more, as with a
        softmax of large logits, but then at most 1e-3 of its largest value: a runtime adds numbers
        one by one that Keras adds in blocks. Where that error is not known, it is at least 1e-5.

        Args:
            name: The output.
        """
        largest = self.largest(name)
        if name not in self.rounding:
            return _FLOAT * max(1.0, largest)
        own = min(_ROUNDINGS * self.rounding[name], _MOST * largest)
        return max(_FLOAT * largest, own, float(np.finfo(np.float32).tiny))

    def largest(self, name: str) -> float:
        """Return the largest absolute value of an output."""
        return float(np.abs(self.outputs[name].astype(np.float64)).max())


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of verifying a file.

    Args:
        max_difference: Largest absolute difference from the Keras model, over all outputs and
            with and without XNNPACK.
        same_class: Share of examples with the same class; `None` if the model is not a classifier.
        accuracy: Share of the examples that it classifies correctly; `None` without labels.
        problems: What is wrong; empty if the file passes.
    """

    max_difference: float
    same_class: float | None
    accuracy: float | None
    problems: tuple[str, ...]


def accuracy(outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> float:
    """Return the share of examples whose highest score is that of their label.

    Args:
        outputs: One output: scores, (examples, classes), or probabilities of the second of two
            classes, (examples, 1).
        labels: Class numbers, (examples,).
    """
    (scores,) = outputs.values()
    chosen = scores[:, 0] > 0.5 if scores.shape[-1] == 1 else scores.argmax(axis=-1)
    return float(np.mean(chosen == labels))


def verify(
    path: Path,
    precision: Precision,
    examples: Examples,
    reference: Reference,
    *,
    accuracy_drop: float,
    timeout: float,
) -> Verdict:
    """Run a file on the examples and compare it with its Keras model.

    Args:
        path: The file.
        precision: The numbers that it computes in, which determine how close it must be.
        examples: The examples.
        reference: The results of the Keras model on them.
        accuracy_drop: How much accuracy a file of lower precision may lose, as a share.
        timeout: Seconds that the runtime has.

    Returns:
        The verdict.

    Raises:
        RuntimeFailure: If the runtime refuses the file, crashes on it or takes too long.
    """
    inputs = reference.inputs
    # Faster for large models, and the same for small ones.
    threads = os.cpu_count() or 1
    outputs = runtime.run(path, inputs, threads=threads, timeout=timeout)
    first = {name: values[:_WITHOUT_DELEGATE] for name, values in inputs.items()}
    plain = runtime.run(path, first, delegate=False, timeout=timeout)
    problems = []
    found = None if examples.labels is None else accuracy(outputs, examples.labels)
    same = _same_class(outputs, reference)
    differences = {
        name: max(difference(run[name], reference.outputs[name]) for run in (outputs, plain))
        for name in outputs
    }
    if not all(np.isfinite(v).all() for v in (*outputs.values(), *plain.values())):
        problems.append("it puts out values that are not finite")
    elif precision is not Precision.FLOAT32 and examples.labels is not None:
        for run, how in ((outputs, ""), (plain, " without XNNPACK")):
            problems += _lost_accuracy(run, examples.labels, reference, accuracy_drop, how)
    # Made-up inputs may lie where rounded weights matter more than they do for data.
    elif examples.are_real or precision in (Precision.FLOAT32, Precision.FLOAT16):
        problems += _too_far(differences, precision, reference)
    return Verdict(max(differences.values()), same, found, tuple(problems))


def _lost_accuracy(
    outputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    reference: Reference,
    accuracy_drop: float,
    how: str,
) -> list[str]:
    count = len(next(iter(outputs.values())))
    first = {name: values[:count] for name, values in reference.outputs.items()}
    expected, found = (accuracy(scores, labels[:count]) for scores in (first, outputs))
    if found >= expected - accuracy_drop:
        return []
    return [
        f"its accuracy{how} is {100 * found:.2f} %, that of the Keras model "
        f"{100 * expected:.2f} %; expected a drop of at most {100 * accuracy_drop:.2f} points"
    ]


def _too_far(
    differences: Mapping[str, float], precision: Precision, reference: Reference
) -> list[str]:
    problems = []
    for name, difference in differences.items():
        most, why = reference.tolerance(name), ""
        if precision is not Precision.FLOAT32:
            share = _ROUNDED[precision]
            most = max(most, share * reference.largest(name))
            why = f", {share:.0%} of its largest output"
        if difference > most:
            where = f" in output '{name}'" if len(differences) > 1 else ""
            problems.append(
                f"it differs from the Keras model by {difference:.3g}{where}; expected at most "
                f"{most:.3g}{why}"
            )
    return problems


def difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference between outputs, of any type, of as many examples.

    Args:
        values: Outputs, (examples, ...).
        expected: Outputs of at least as many examples.
    """
    # Booleans have no difference, and one of unsigned integers is never below 0.
    return float(np.abs(values - expected[: len(values)].astype(np.float64)).max())


def _same_class(outputs: Mapping[str, np.ndarray], reference: Reference) -> float | None:
    """Return the share of examples with the same highest score.

    Scores that differ by no more than the tolerance in the Keras model count as equal.
    """
    name, expected = next(iter(reference.outputs.items()))
    if len(reference.outputs) != 1 or expected.ndim != 2 or expected.shape[1] < 2:
        return None
    chosen = outputs[name].argmax(axis=-1)
    rows = np.arange(len(chosen))
    expected = expected.astype(np.float64)
    return float(
        np.mean(expected.max(axis=-1) - expected[rows, chosen] <= reference.tolerance(name))
    )
