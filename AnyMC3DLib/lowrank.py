"""A frozen linear layer with its low-rank pair as one step of the gradient.

y = W x + s B A x. Written as two layers and a sum, autograd passes three times over the output and keeps what lies
between. Here the forward pass is one product, what is kept is the input alone, and the gradients of A and B go
through `rank` columns; W itself gets none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def lowrank_linear(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """x [..., in] to [..., out] for weight [out, in], A [rank, in] and B [out, rank]."""
    return _LowRankLinear.apply(x, weight, bias, A, B, scale)


def merged_weight(weight: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """weight + scale B A, summed in the pair's precision."""
    flat = weight.flatten(1).to(B.dtype)
    return torch.addmm(flat, B, A.flatten(1), alpha=scale).view(weight.shape).to(weight.dtype)


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, A, B)
        ctx.scale = scale
        if _merges(x):
            return F.linear(x, merged_weight(weight, A, B, scale), bias)
        y = F.linear(x, weight, bias)
        y.view(-1, y.shape[-1]).addmm_(x.flatten(0, -2) @ A.to(x.dtype).T, (scale * B).to(x.dtype).T)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, A, B = ctx.saved_tensors
        rows, given = x.flatten(0, -2), gradient.flatten(0, -2)
        low_A, low_B = A.to(x.dtype), (ctx.scale * B).to(x.dtype)
        inner = given @ low_B
        of_x = of_A = of_B = None
        if ctx.needs_input_grad[0]:
            of_x = given @ merged_weight(weight, A, B, ctx.scale) if _merges(x) else given @ weight
            if not _merges(x):
                of_x.addmm_(inner, low_A)
            of_x = of_x.view(x.shape)
        if ctx.needs_input_grad[3]:
            of_A = (inner.T @ rows).to(A.dtype)
        if ctx.needs_input_grad[4]:
            of_B = (given.T @ (rows @ low_A.T)).to(B.dtype) * ctx.scale
        return of_x, None, None, of_A, of_B, None


def _merges(x: Tensor) -> bool:
    # In 16 bits a small change of a weight would be rounded away, and training would not see its own progress.
    return x.dtype in (torch.float32, torch.float64)
