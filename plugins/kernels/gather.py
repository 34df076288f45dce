"""Each query reads the sources of its own list.

B batch, H heads, Q query and S source tokens, N = B * Q, K key width, V value width, C candidates of a query.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Clusters, Mask
from core.params import params
from plugins.kernels._clustered import Clustered
from plugins.kernels.reference import without_padding


@params
class Gather(Kernel):
    """Attention under a mask that lists the sources of each query: neighbours, aligned windows.

    O(Q * C) time and memory, any sparsifier; keys and values are copied for every query, so it pays where lists are
    much shorter than the sources (a mask lists nothing otherwise). Where the mask knows clusters of queries that share
    sources, softmax is taken in a dense matrix a cluster, with keys and values copied once for each.
    """

    priority: ClassVar[int] = 16

    def refuses(self, request: Request) -> str | None:
        if request.form != "listed":
            return f"gather serves masks that list the sources of a query, and this one is of form {request.form}"
        return "gather takes no bias: one over all pairs is Q x S already" if request.bias else None

    def pairs(self, request: Request, mask: Mask, queries: int, sources: int) -> int:
        return 0 if mask.listed is None else queries * mask.listed.shape[-1]

    def attend(
        self,
        q_BHQK: Tensor,
        k_BHSK: Tensor,
        v_BHSV: Tensor,
        mask: Mask,
        sparsifier: nn.Module,
        *,
        real_BS: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        listed = mask.listed
        if listed is None or bias is not None:
            raise ValueError("gather serves masks that list few sources a query, without a bias; choose kernel = auto")
        if listed.shape[-1] == 0 or q_BHQK.numel() == 0 or k_BHSK.shape[2] == 0:
            return q_BHQK.new_zeros(*q_BHQK.shape[:3], v_BHSV.shape[-1])
        k_BHSK, v_BHSV = without_padding(k_BHSK, v_BHSV, real_BS)
        if mask.clustered is not None and getattr(sparsifier, "fused", False):
            return _by_clusters(q_BHQK, k_BHSK, v_BHSV, mask.clustered, real_BS)
        batch, sources = len(q_BHQK), k_BHSK.shape[2]
        listed_BQC = listed.to(q_BHQK.device).expand(batch, -1, -1)
        flat_BQC = listed_BQC.clamp(min=0) + sources * torch.arange(batch, device=q_BHQK.device)[:, None, None]
        visible_BQC = listed_BQC >= 0
        if real_BS is not None:
            visible_BQC = visible_BQC & real_BS.flatten()[flat_BQC]
        # Every query is a sample of its own with one query and C sources.
        q_NH1K = q_BHQK.transpose(1, 2).flatten(0, 1)[:, :, None]
        k_NHCK, v_NHCV = (_read(t, flat_BQC) for t in (k_BHSK, v_BHSV))
        if getattr(sparsifier, "fused", False):
            visible_N11C = visible_BQC.flatten(0, 1)[:, None, None]
            out_NH1V = F.scaled_dot_product_attention(q_NH1K, k_NHCK, v_NHCV, attn_mask=visible_N11C)
        else:
            logits_NH1C = q_NH1K @ k_NHCK.transpose(-1, -2) / math.sqrt(q_BHQK.shape[-1])
            logits_BHQC = logits_NH1C[:, :, 0].unflatten(0, (batch, -1)).transpose(1, 2)
            weights_BHQC = sparsifier(logits_BHQC, visible_BQC[:, None])
            out_NH1V = weights_BHQC.transpose(1, 2).flatten(0, 1)[:, :, None] @ v_NHCV
        return out_NH1V[:, :, 0].unflatten(0, (batch, -1)).transpose(1, 2)


def _by_clusters(q_BHQK: Tensor, k_BHSK: Tensor, v_BHSV: Tensor, clusters: Clusters, real_BS: Tensor | None) -> Tensor:
    """Softmax attention inside clusters of queries, each over all sources that one of its queries sees."""
    batch, sources, queries = len(q_BHQK), k_BHSK.shape[2], q_BHQK.shape[2]
    set_B11 = torch.arange(batch)[:, None, None]
    source_BnU = clusters.source_BnU + sources * set_B11
    visible_BnqU = clusters.visible_BnqU
    if real_BS is not None:
        visible_BnqU = visible_BnqU & real_BS.flatten()[source_BnU][:, :, None]
    tokens = (t.transpose(1, 2).flatten(0, 1) for t in (q_BHQK, k_BHSK, v_BHSV))
    query_Bnq = clusters.query_Bnq + queries * set_B11
    lists = (t.flatten(0, 1) for t in (query_Bnq, source_BnU, visible_BnqU))
    out_NqHV: Tensor = Clustered.apply(*tokens, *lists)
    rows_BmHV = out_NqHV.flatten(0, 1).unflatten(0, (batch, -1))
    place_BQ11 = clusters.place_BQ[..., None, None].expand(-1, -1, *rows_BmHV.shape[2:])
    return rows_BmHV.gather(1, place_BQ11).transpose(1, 2)


def _read(t_BHSK: Tensor, flat_BQC: Tensor) -> Tensor:
    """The listed rows, (N, H, C, K). An embedding, as its backward pass is the fastest scatter that PyTorch has."""
    rows = t_BHSK.transpose(1, 2).flatten(2).flatten(0, 1)
    return F.embedding(flat_BQC.flatten(0, 1), rows).unflatten(-1, (t_BHSK.shape[1], -1)).transpose(1, 2)
