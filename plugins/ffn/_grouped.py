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

from core.nn.overflow import autocast_dtype, saturated

Spans: TypeAlias = list[tuple[int, int]]
"""the rows [begin, end) that each expert serves; rows in no span become zeros"""

BLOCK = 512
"""rows that a sum over channels reads at a time: on a CPU fresh memory for all rows costs more than the sum"""


def fetch(rows_ND: Tensor, source_R: Tensor, target_NK: Tensor) -> Tensor:
    """`rows_ND[source_R]`, (R, D).

    Args:
        rows_ND: one row a token.
        source_R: for each sorted row its token.
        target_NK: for each assignment the sorted row that stands for it, the inverse of `source_R`.
    """
    return _Move.apply(rows_ND, source_R[:, None], target_NK)


def serve(rows_RI: Tensor, matrix_EIO: Tensor, bias_EO: Tensor | None, spans: Spans) -> Tensor:
    """Each row times the matrix of its expert, plus its bias, (R, O); zeros for rows that no span holds.

    Under autocast the product is taken in autocast's dtype, as that of a linear layer.
    """
    half = autocast_dtype(rows_RI)
    if half is not None:
        rows_RI, matrix_EIO = saturated(rows_RI.to(half)), matrix_EIO.to(half)
        bias_EO = None if bias_EO is None else bias_EO.to(half)
    return _Serve.apply(rows_RI, matrix_EIO, bias_EO, spans)


def serve_and_combine(
    rows_RI: Tensor,
    matrix_EIO: Tensor,
    bias_EO: Tensor | None,
    weights_NK: Tensor,
    source_R: Tensor,
    target_NK: Tensor,
    spans: Spans,
) -> Tensor:
    """`serve`, and the weighted sum over each token's rows, sum_k weights[n, k] served[target[n, k]], (N, O).

    Args:
        rows_RI: sorted rows.
        matrix_EIO: as in `serve`.
        bias_EO: as in `serve`.
        weights_NK: weight of each assignment; the sum is taken in its dtype.
        source_R: as in `fetch`.
        target_NK: as in `fetch`.
        spans: as in `serve`.
    """
    if rows_RI.dtype == weights_NK.dtype and autocast_dtype(rows_RI) is None:
        return _ServeAndCombine.apply(rows_RI, matrix_EIO, bias_EO, weights_NK, source_R, target_NK, spans)
    return _combine(saturated(serve(rows_RI, matrix_EIO, bias_EO, spans)), weights_NK, source_R, target_NK)


def _combine(rows_RO: Tensor, weights_NK: Tensor, source_R: Tensor, target_NK: Tensor) -> Tensor:
    """The weighted sum over each token's rows, (N, O)."""
    return _Move.apply(_by_row(weights_NK, target_NK)[:, None] * rows_RO, target_NK, source_R[:, None])


def _by_row(weights_NK: Tensor, target_NK: Tensor) -> Tensor:
    """The weight of each sorted row, (R,)."""
    return weights_NK.new_empty(target_NK.numel()).scatter(0, target_NK.flatten(), weights_NK.flatten())


class _Move(torch.autograd.Function):
    """Each new row is the sum of the old rows at its places; `back` says where each old row went."""

    @staticmethod
    def forward(ctx: Any, rows_ND: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(places, back)
        return _sum_of(rows_ND, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        places, back = ctx.saved_tensors
        return _Move.apply(grad, back, places), None, None


class _ServeAndCombine(torch.autograd.Function):
    """The two steps in one, as their gradients need no memory of all rows between them."""

    @staticmethod
    def forward(
        ctx: Any,
        rows_RI: Tensor,
        matrix_EIO: Tensor,
        bias_EO: Tensor | None,
        weights_NK: Tensor,
        source_R: Tensor,
        target_NK: Tensor,
        spans: Spans,
    ) -> Tensor:
        ctx.save_for_backward(rows_RI, matrix_EIO, bias_EO, weights_NK, source_R, target_NK)
        ctx.spans = spans
        return _sum_of(_Serve.apply(rows_RI, matrix_EIO, bias_EO, spans), target_NK, weights_NK)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, ...]:
        rows_RI, matrix_EIO, bias_EO, weights_NK, source_R, target_NK = ctx.saved_tensors
        if torch.is_grad_enabled():
            served_RO = _Serve.apply(rows_RI, matrix_EIO, bias_EO, ctx.spans)
            out_NO = _combine(served_RO, weights_NK, source_R, target_NK)
            inputs = [t for t in (rows_RI, matrix_EIO, weights_NK, bias_EO) if t is not None]
            slopes = [*torch.autograd.grad(out_NO, inputs, grad_NO, create_graph=True), None]
            return slopes[0], slopes[1], slopes[3], slopes[2], None, None, None
        weights_R = _by_row(weights_NK, target_NK)
        to_rows_RI, to_matrix_EIO = torch.zeros_like(rows_RI), torch.empty_like(matrix_EIO)
        to_bias_EO = None if bias_EO is None else torch.empty_like(bias_EO)
        to_weights_R = torch.zeros_like(weights_R)
        for e, (begin, end) in enumerate(ctx.spans):
            grad_PO = _sum_of(grad_NO, source_R[begin:end, None])
            # <grad, W row + b> = <W^T grad, row> + <grad, b>: what the expert answered is not needed again.
            to_rows_PI = torch.mm(grad_PO, matrix_EIO[e].T, out=to_rows_RI[begin:end])
            for first in range(begin, end, BLOCK):
                part = slice(first, min(end, first + BLOCK))
                to_weights_R[part] = torch.linalg.vecdot(to_rows_RI[part], rows_RI[part])
            if bias_EO is not None:
                to_weights_R[begin:end] += grad_PO @ bias_EO[e]
            to_rows_PI *= weights_R[begin:end, None]
            grad_PO *= weights_R[begin:end, None]
            torch.mm(rows_RI[begin:end].T, grad_PO, out=to_matrix_EIO[e])
            if to_bias_EO is not None:
                torch.sum(grad_PO, 0, out=to_bias_EO[e])
        return to_rows_RI, to_matrix_EIO, to_bias_EO, to_weights_R[target_NK], None, None, None


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
