"""Computes the pieces of a transformer that have weights, fast on a CPU: matrices and norms.

In bfloat16 a matrix stays PyTorch's, since NumPy has no such numbers: a token costs the time that its weights take to
come from memory, and they are half as many bytes. All between the matrices is float32 either way.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional


class Linear(NamedTuple):
    """A matrix (inputs, outputs) and a bias (outputs) or None, in float32.

    It stands the other way round than PyTorch's: a row of one token is multiplied up to twice as fast so.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return (N, outputs) of rows (N, inputs)."""
        product = rows @ self.weight
        return product if self.bias is None else product + self.bias

    @property
    def inputs(self) -> int:
        """Return how wide the rows are that it takes."""
        return self.weight.shape[0]


class HalfLinear(NamedTuple):
    """A matrix (outputs, inputs) in bfloat16 and a bias (outputs) in float32 or None."""

    weight: torch.Tensor
    bias: np.ndarray | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return (N, outputs), float32, of rows (N, inputs), float32."""
        halves = torch.from_numpy(rows).bfloat16()
        if len(rows) > 1:
            product = functional.linear(halves, self.weight)
        else:  # oneDNN takes twice the time that reading the weights does; without it PyTorch's own loop runs
            was_enabled = torch.backends.mkldnn.enabled
            torch.backends.mkldnn.enabled = False  # ty: ignore[invalid-assignment]  # typed as its descriptor
            try:
                product = functional.linear(halves, self.weight)
            finally:
                torch.backends.mkldnn.enabled = was_enabled
        product = product.float().numpy()
        return product if self.bias is None else product + self.bias

    @property
    def inputs(self) -> int:
        """Return how wide the rows are that it takes."""
        return self.weight.shape[1]


def make_linear(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear | HalfLinear:
    """Return a matrix (outputs, inputs) in the precision that it comes in, as a copy."""
    bias = None if bias is None else bias.detach().float().numpy().copy()
    if weight.dtype == torch.bfloat16:
        return HalfLinear(weight.detach().clone(memory_format=torch.contiguous_format), bias)
    return Linear(np.ascontiguousarray(weight.detach().numpy().T), bias)


class Norm(NamedTuple):
    """RMS norm, or layer norm where there is a bias; `weight` and `epsilon` count the sum of squares, not the mean."""

    weight: np.ndarray
    bias: np.ndarray | None
    epsilon: np.float32

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (..., D) normed over their last axis."""
        if self.bias is not None:
            rows = rows - rows.mean(-1, keepdims=True)
        rows = rows / np.sqrt(np.vecdot(rows, rows) + self.epsilon)[..., None] * self.weight
        return rows if self.bias is None else rows + self.bias
