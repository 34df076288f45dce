"""Rows sorted by expert: fetched, served by a matrix of their expert, and summed back.

N tokens, K experts a token, R = N * K rows, E experts, D width, I inputs and O outputs of a matrix. Every backward
pass is made of the same operations as the forward passes, so that gradients have gradients, and each sum has a fixed
order: nothing depends on the order of threads.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Spans: TypeAlias = list[tuple[int, int]]
"""the rows [begin, end) that each expert serves; rows in no span become zeros"""

BLOCK = 512
"""rows that a sum over channels reads at a time on a CPU: fresh memory for all rows costs more than the sum"""


def fetch(rows_ND: Tensor, source_R: Tensor, target_NK: Tensor) -> Tensor:
    """`rows_ND[source_R]`, (R, D).

    Args:
        rows_ND: one row a token.
        source_R: for each sorted row its token.
        target_NK: for each assignment the sorted row that stands for it, the inverse of `source_R`.
    """
    return _Fetch.apply(rows_ND, source_R, target_NK)


def combine(rows_RD: Tensor, weights_NK: Tensor, source_R: Tensor, target_NK: Tensor) -> Tensor:
    """The weighted sum over each token's rows, sum_k weights[n, k] rows[target[n, k]], (N, D).

    Args:
        rows_RD: sorted rows, of the dtype of the weights.
        weights_NK: weight of each assignment.
        source_R: as in `fetch`.
        target_NK: as in `fetch`.
    """
    return _Combine.apply(rows_RD, weights_NK, source_R, target_NK)


def serve(rows_RI: Tensor, matrix_EIO: Tensor, bias_EO: Tensor | None, spans: Spans) -> Tensor:
    """Each row times the matrix of its expert, plus its bias, (R, O); zeros for rows that no span holds.

    Under autocast the product is taken in autocast's dtype, as that of a linear layer.
    """
    kind = "cpu" if rows_RI.is_meta else rows_RI.device.type
    if torch.is_autocast_enabled(kind):
        half = torch.get_autocast_dtype(kind)
        rows_RI, matrix_EIO = rows_RI.to(half), matrix_EIO.to(half)
        bias_EO = None if bias_EO is None else bias_EO.to(half)
    return _Serve.apply(rows_RI, matrix_EIO, bias_EO, spans)


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, source_R: Tensor, target_NK: Tensor) -> Tensor:
        ctx.save_for_backward(source_R, target_NK)
        return _sum_of(rows_ND, source_R[:, None])

    @staticmethod
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None, None]:
        source_R, target_NK = ctx.saved_tensors
        return _Gather.apply(grad_RD, source_R, target_NK), None, None


class _Gather(torch.autograd.Function):
    """The unweighted sum over each token's rows."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, source_R: Tensor, target_NK: Tensor) -> Tensor:
        ctx.save_for_backward(source_R, target_NK)
        return _sum_of(rows_RD, target_NK)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        source_R, target_NK = ctx.saved_tensors
        return _Fetch.apply(grad_ND, source_R, target_NK), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, weights_NK: Tensor, source_R: Tensor, target_NK: Tensor) -> Tensor:
        ctx.save_for_backward(rows_RD, weights_NK, source_R, target_NK)
        return _sum_of(rows_RD, target_NK, weights_NK)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows_RD, weights_NK, source_R, target_NK = ctx.saved_tensors
        weights_R = weights_NK.new_empty(target_NK.numel()).scatter(0, target_NK.flatten(), weights_NK.flatten())
        if torch.is_grad_enabled() or grad_ND.is_meta:
            grad_RD = _Fetch.apply(grad_ND, source_R, target_NK)
            return grad_RD * weights_R[:, None], torch.linalg.vecdot(grad_RD, rows_RD)[target_NK], None, None
        slope_RD, slope_R = torch.empty_like(rows_RD), torch.empty_like(weights_R)
        block = BLOCK if grad_ND.device.type == "cpu" else max(1, len(rows_RD))
        for begin in range(0, len(rows_RD), block):
            part = slice(begin, begin + block)
            grad_PD = _sum_of(grad_ND, source_R[part, None])
            slope_R[part] = torch.linalg.vecdot(grad_PD, rows_RD[part])
            torch.mul(grad_PD, weights_R[part, None], out=slope_RD[part])
        return slope_RD, slope_R[target_NK], None, None


class _Serve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows_RI: Tensor, matrix_EIO: Tensor, bias_EO: Tensor | None, spans: Spans) -> Tensor:
        ctx.save_for_backward(rows_RI, matrix_EIO)
        ctx.spans, ctx.biased = spans, bias_EO is not None
        out_RO = rows_RI.new_empty(len(rows_RI), matrix_EIO.shape[2])
        reached = 0
        for e, (begin, end) in enumerate(spans):
            out_RO[reached:begin].zero_()
            reached = end
            if begin == end:
                continue
            if bias_EO is None:
                torch.mm(rows_RI[begin:end], matrix_EIO[e], out=out_RO[begin:end])
            else:
                torch.addmm(bias_EO[e], rows_RI[begin:end], matrix_EIO[e], out=out_RO[begin:end])
        out_RO[reached:].zero_()
        return out_RO

    @staticmethod
    def backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        rows_RI, matrix_EIO = ctx.saved_tensors
        slopes: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            slopes[0] = _Serve.apply(grad_RO, matrix_EIO.transpose(1, 2), None, ctx.spans)
        if ctx.needs_input_grad[1]:
            slopes[1] = _Outer.apply(rows_RI, grad_RO, len(matrix_EIO), ctx.spans)
        if ctx.biased and ctx.needs_input_grad[2]:
            slopes[2] = _per_expert(grad_RO, len(matrix_EIO), ctx.spans)
        return slopes[0], slopes[1], slopes[2], None


class _Outer(torch.autograd.Function):
    """For each expert the sum over its rows of the outer product of two rows, (E, I, O)."""

    @staticmethod
    def forward(ctx: Any, left_RI: Tensor, right_RO: Tensor, experts: int, spans: Spans) -> Tensor:
        ctx.save_for_backward(left_RI, right_RO)
        ctx.spans = spans
        out_EIO = left_RI.new_empty(experts, left_RI.shape[1], right_RO.shape[1])
        for e, (begin, end) in enumerate(spans):
            torch.mm(left_RI[begin:end].T, right_RO[begin:end], out=out_EIO[e])
        return out_EIO

    @staticmethod
    def backward(ctx: Any, grad_EIO: Tensor) -> tuple[Tensor, Tensor, None, None]:
        left_RI, right_RO = ctx.saved_tensors
        slope_RI = _Serve.apply(right_RO, grad_EIO.transpose(1, 2), None, ctx.spans)
        return slope_RI, _Serve.apply(left_RI, grad_EIO, None, ctx.spans), None, None


def _per_expert(rows_RO: Tensor, experts: int, spans: Spans) -> Tensor:
    """The sum of each expert's rows, (E, O)."""
    if rows_RO.is_meta:
        return rows_RO.new_empty(experts, rows_RO.shape[1])
    return torch.stack([rows_RO[begin:end].sum(0) for begin, end in spans])


def _sum_of(rows_RD: Tensor, places_NK: Tensor, weights_NK: Tensor | None = None) -> Tensor:
    """sum_k weights[n, k] rows[places[n, k]], (N, D), without a copy of the rows that are read."""
    if rows_RD.is_meta:
        return rows_RD.new_empty(len(places_NK), rows_RD.shape[1])
    return F.embedding_bag(places_NK, rows_RD, per_sample_weights=weights_NK, mode="sum")
