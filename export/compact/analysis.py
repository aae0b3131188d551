"""Which features are constant, which are needed, and which the new model has."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .features import Constants, Mask, Surroundings, union, width
from .graph import Graph, Part


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What is known and decided about every symbolic tensor of a graph, by the tensor's identity.

    Args:
        graph: The model.
        constants: Features with a known value.
        needed: Features that reach an output of the model, and that no bias can replace.
        kept: Features of the new model: those needed, and those that can't be removed alone.
    """

    graph: Graph
    constants: dict[int, Constants]
    needed: dict[int, Mask]
    kept: dict[int, Mask]

    @classmethod
    def of(cls, graph: Graph) -> "Analysis":
        """Analyse a graph."""
        constants = _constants(graph)
        needed = _needed(graph, constants)
        return cls(graph, constants, needed, _kept(graph, needed))

    def around(self, part: Part) -> Surroundings:
        """Return what was decided about the tensors around a layer."""
        call = part.calls[0]
        output = id(call.output_tensors[0])
        return Surroundings(
            _common_constants(part, self.constants),
            [self.kept[id(tensor)] for tensor in call.input_tensors],
            union(self.needed[id(each.output_tensors[0])] for each in part.calls),
            self.kept[output],
        )

    def made(self, part: Part | None, tensor: Any) -> Mask:
        """Return the features that a layer of the new model puts out.

        Args:
            part: The layer; `None` for an input of the model.
            tensor: Its output in the graph.
        """
        kept = self.kept[id(tensor)]
        if part is None or part.rule is None:
            return np.ones_like(kept)
        return part.rule.made([self.kept[id(t)] for t in part.calls[0].input_tensors], kept)


def _constants(graph: Graph) -> dict[int, Constants]:
    """Follow constants from the inputs to the outputs."""
    found = {id(tensor): Constants.none(width(tensor)) for tensor in _tensors(graph)}

    def step(part: Part) -> bool:
        if part.rule is None:
            return False
        made = part.rule.constants(_common_constants(part, found))
        before = found[id(part.calls[0].output_tensors[0])]
        found.update({id(call.output_tensors[0]): made for call in part.calls})
        return int(made.known.sum()) > int(before.known.sum())

    _repeat(graph.parts, step)
    return found


def _needed(graph: Graph, constants: dict[int, Constants]) -> dict[int, Mask]:
    """Follow needs from the outputs to the inputs."""
    needed = {id(tensor): np.zeros(width(tensor), bool) for tensor in _tensors(graph)}
    for tensor in graph.outputs:
        needed[id(tensor)][:] = True

    def step(part: Part) -> bool:
        if part.rule is None:
            return _grow(needed, ((t, True) for call in part.calls for t in call.input_tensors))
        wanted = union(needed[id(call.output_tensors[0])] for call in part.calls)
        if part.rule.mixes:
            wanted = np.ones_like(wanted)
        wants = part.rule.needs(_common_constants(part, constants), wanted)
        return _grow(needed, _over_calls(part, wants, wanted))

    _repeat(graph.parts[::-1], step)
    return needed


def _kept(graph: Graph, needed: dict[int, Mask]) -> dict[int, Mask]:
    """Add the features that can't be removed without others that stay."""
    kept = {key: mask.copy() for key, mask in needed.items()}

    def can_be_gathered(tensor: Any) -> bool:
        # Only from a vector: there, a dense layer gains by it.
        return graph.gather and len(tensor.shape) == 2 and not (tensor.sparse or tensor.ragged)

    def step(part: Part) -> bool:
        if part.rule is None:
            tensors = [t for call in part.calls for t in call.output_tensors]
            return _grow(kept, ((t, True) for t in tensors if not can_be_gathered(t)))
        outputs = union(kept[id(call.output_tensors[0])] for call in part.calls)
        inputs = [
            union(kept[id(tensor)] for tensor in position)
            for position in zip(*(call.input_tensors for call in part.calls), strict=True)
        ]
        inputs, outputs = part.rule.couple(inputs, outputs)
        if not graph.gather:
            outputs = outputs | part.rule.made(inputs, outputs)
        return _grow(kept, _over_calls(part, inputs, outputs))

    def close() -> None:
        while any([step(part) for part in (*graph.parts[::-1], *graph.parts)]):
            pass

    _grow(kept, ((t, True) for t in graph.inputs if not can_be_gathered(t)))
    close()
    # Even in a model or a branch whose outputs are all constant, every tensor keeps a feature.
    for tensor in reversed(list(_tensors(graph))):
        mask = kept[id(tensor)]
        if len(mask) and not mask.any():
            mask[0] = True
            close()
    return kept


def _tensors(graph: Graph) -> Iterable[Any]:
    yield from graph.inputs
    for call in graph.calls:
        yield from call.output_tensors


def _common_constants(part: Part, constants: dict[int, Constants]) -> list[Constants]:
    """Return which features of each input are the same constant in all calls of a layer."""
    return [
        functools.reduce(Constants.common, (constants[id(tensor)] for tensor in position))
        for position in zip(*(call.input_tensors for call in part.calls), strict=True)
    ]


def _over_calls(part: Part, inputs: list[Mask], output: Mask) -> Iterable[tuple[Any, Mask]]:
    """Yield each tensor of each call, with the mask for its position."""
    for call in part.calls:
        yield from zip(call.input_tensors, inputs, strict=True)
        yield call.output_tensors[0], output


def _grow(masks: dict[int, Mask], additions: Iterable[tuple[Any, Mask | bool]]) -> bool:
    """Add features to the masks of tensors; return whether any was new."""
    grown = False
    for tensor, addition in additions:
        mask = masks[id(tensor)]
        if np.any(addition & ~mask):
            mask |= addition
            grown = True
    return grown


def _repeat(parts: list[Part], step: Callable[[Part], bool]) -> None:
    """Take a step at each layer, in order, and repeat this as long as shared layers need it.

    A layer that is called once comes after all layers that it depends on; one that is called again
    does not.
    """
    shared = any(len(part.calls) > 1 for part in parts)
    while any([step(part) for part in parts]) and shared:
        pass
