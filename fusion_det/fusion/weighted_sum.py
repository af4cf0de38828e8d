"""The sum of maps with one number each, and its gradients, in few passes over memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor


class _WeightedSum(torch.autograd.Function):
    """``y = sum_i w_i x_i``; backward is made of differentiable calls, so it can be differentiated again.

    Like all functions of this package without a ``setup_context``: with one, torch inspects the signature at every call, 0.1 ms.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *inputs)
        first, *others = weights.unbind()
        total = inputs[0] * first
        for weight, x in zip(others, inputs[1:], strict=True):
            # addcmul would round the weight to a 16-bit map's type, a product with one number does not
            total = total.addcmul_(x, weight) if x.dtype == weight.dtype else total.add_(x * weight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights, *inputs = ctx.saved_tensors
        needs_weights, *needs = ctx.needs_input_grad
        of_inputs = [gradient * weight if need else None for weight, need in zip(weights.unbind(), needs, strict=True)]
        of_weights = torch.stack([_inner(gradient, x) for x in inputs]).to(weights.dtype) if needs_weights else None
        return of_weights, *of_inputs


def weighted_sum(inputs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``sum_i weights[i] * inputs[i]`` for one number per input, weights [N] float32, in the inputs' type.

    The gradients of the weights are inner products that are summed and kept in float32: where the weights are normalised, only
    their differences count, which a product rounded to bf16 would lose.
    """
    common = reduce(torch.promote_types, (x.dtype for x in inputs))
    return _WeightedSum.apply(weights, *(x.to(common) for x in inputs))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of two maps [B, C, H, W], at least float32; without a product in memory where both lie alike."""
    if a.is_contiguous(memory_format=torch.channels_last) and b.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    if a.dtype in (torch.float32, torch.float64) and a.is_contiguous() and b.is_contiguous():
        return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum(dtype=torch.promote_types(a.dtype, torch.float32))
