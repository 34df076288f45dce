"""A loading for each column, times the scores of the item or the value of the entry.

N items, G columns, K chosen columns, D width.
"""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from core.kinds.extractor import Latents
from plugins.extractors._normalised import Raw

Times = Literal["scores", "value"]
Covers = Literal["expressed", "all"]


@final
class Loadings(Raw):
    """raw[n, g, d] = L[g, d] * s[n, d], with scores s = (x - centre) L; or L[g, d] * x[n, g]."""

    def __init__(self, loadings_GD: np.ndarray, centre_G: np.ndarray, times: Times, covers: Covers) -> None:
        self.width = loadings_GD.shape[1]
        # The order in memory decides how a product is summed, and so the last digits.
        self._loadings_GD = np.ascontiguousarray(loadings_GD, np.float32)
        self._centre_G = np.ascontiguousarray(centre_G, np.float32)
        self._times, self._covers = times, covers

    def __call__(self, values_NG: Tensor, columns_K: Tensor) -> Latents:
        device = values_NG.device
        loadings_GD = torch.from_numpy(self._loadings_GD).to(device)
        chosen_KD, chosen_NK = loadings_GD[columns_K], values_NG[:, columns_K]
        if self._times == "scores":
            scores_ND = (values_NG - torch.from_numpy(self._centre_G).to(device)) @ loadings_GD
            z_NKD = chosen_KD * scores_ND[:, None]
        else:
            z_NKD = chosen_KD * chosen_NK[..., None]
        known_K = (chosen_KD != 0).any(1)
        covered_NK = known_K.expand_as(chosen_NK) if self._covers == "all" else known_K & (chosen_NK != 0)
        return Latents(z_NKD, covered_NK)

    def state(self) -> dict[str, np.ndarray]:
        return {"loadings": self._loadings_GD.copy(), "centre": self._centre_G.copy()}
