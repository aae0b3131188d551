"""An operator of a file with its tensors, as the checks see it."""

import dataclasses
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from .errors import InvalidFile
from .tensor_checks import Tensor, require

F32 = schema.TensorType.FLOAT32
F16 = schema.TensorType.FLOAT16
INT8 = schema.TensorType.INT8
UINT8 = schema.TensorType.UINT8
INT32 = schema.TensorType.INT32
BOOL = schema.TensorType.BOOL

_FUSED = {
    schema.ActivationFunctionType.NONE,
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU_N1_TO_1,
    schema.ActivationFunctionType.RELU6,
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operator whose tensors were checked one by one.

    Args:
        where: Its name in messages.
        version: Version of the operator.
        inputs: The tensors that it reads; `None` where an optional one is missing.
        outputs: The tensors that it writes.
        options: Its options, of the class that it should have, or `None` where it needs none.
    """

    where: str
    version: int
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: Any

    def input(self, place: int) -> Tensor:
        """Return an input that must not be missing."""
        tensor = self.inputs[place]
        if tensor is None:
            raise InvalidFile(f"{self.where}: expected a tensor as input {place}. Received: none")
        return tensor

    def require(self, condition: Any, expected: str, received: object) -> None:
        """Raise `InvalidFile` unless a condition holds."""
        require(condition, self.where, expected, received)

    def require_types(self, tensor: Tensor, *types: int) -> None:
        """Check that a tensor has one of these types, and one scale if it is int8 or uint8."""
        names = {value: name for name, value in vars(schema.TensorType).items()}
        self.require(
            tensor.type in types,
            f"{tensor.where} of {' or '.join(names[number] for number in types)}",
            names[tensor.type],
        )
        if tensor.type in (INT8, UINT8):
            self.require(
                len(tensor.scales) == 1, f"one scale of {tensor.where}", len(tensor.scales)
            )

    def require_shape(self, tensor: Tensor, shape: tuple[int, ...]) -> None:
        """Check the shape of a tensor."""
        self.require(tensor.shape == shape, f"shape {shape} of {tensor.where}", tensor.shape)

    def require_rank(self, tensor: Tensor, rank: int) -> None:
        """Check the number of axes of a tensor."""
        self.require(len(tensor.shape) == rank, f"{rank} axes of {tensor.where}", tensor.shape)

    def require_fused_activation(self) -> None:
        """Check that the fused activation is one that kernels have."""
        received = self.options.fusedActivationFunction
        self.require(received in _FUSED, "a fused activation of none or a kind of ReLU", received)

    def constant_integers(self, place: int) -> list[int]:
        """Return the values of an int32 input, which must be a constant."""
        tensor = self.input(place)
        self.require_types(tensor, INT32)
        values = tensor.values
        if values is None:
            raise InvalidFile(f"{self.where}: expected a constant input {place}. Received: none")
        return [int(value) for value in values.reshape(-1)]

    def axis(self, axis: int, tensor: Tensor) -> int:
        """Return an axis, which may be given counted from the end, as counted from the start."""
        rank = len(tensor.shape)
        self.require(-rank <= axis < rank, f"an axis of {tensor.where}", axis)
        return axis % rank
