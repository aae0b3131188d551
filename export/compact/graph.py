"""A functional model as the list of its layers, each with its calls."""

import dataclasses
from typing import Any

import keras

from keras_switcher.graphs import calls

from .rule import Rule
from .rules import rule_of


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A layer, and the calls in which it works on the same features.

    Args:
        operation: The layer, or operation on tensors.
        calls: Its symbolic calls. A layer with weights has all its calls in one part; one without
            weights has a part for each call.
        rule: What it does with features; `None` if that is not known, so that it stays as it is.
    """

    operation: Any
    calls: list[Any]
    rule: Rule | None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A model as a graph.

    Args:
        inputs: Its symbolic inputs.
        outputs: Its symbolic outputs.
        calls: All symbolic calls but those of the input layers, each after those it depends on.
        parts: Its layers, each where it is called first.
        gather: Whether a gather may leave out entries of a vector that its layer has to make.
    """

    inputs: list[Any]
    outputs: list[Any]
    calls: list[Any]
    parts: list[Part]
    gather: bool

    @classmethod
    def of(cls, model: keras.Model, group: int, gather: bool) -> "Graph":
        """Read a functional or Sequential model.

        Args:
            model: The model.
            group: Number of inputs of a dense layer that stay or go together.
            gather: Whether entries of a vector may be left out by a gather.
        """
        ordered = calls(model)
        of_operation: dict[int, list[Any]] = {}
        for call in ordered:
            of_operation.setdefault(id(call.operation), []).append(call)
        parts = []
        for call in ordered:
            operation = call.operation
            together = of_operation[id(operation)]
            if not getattr(operation, "weights", ()):
                parts.append(Part(operation, [call], rule_of(operation, [call], together, group)))
            elif call is together[0]:
                parts.append(
                    Part(operation, together, rule_of(operation, together, together, group))
                )
        return cls(list(model.inputs), list(model.outputs), ordered, parts, gather)
