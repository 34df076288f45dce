"""Covariance that features should not have. R real items, D features."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from core.kinds.loss import FeatureLoss
from core.params import params
from plugins.losses._inputs import check_features, chosen, full_precision


@final
@params
class VicregCov(FeatureLoss):
    """Different features should say different things: `1/D sum_{d != e} C_de^2`, C the unbiased covariance.

    Bardes et al. 2022, arXiv:2105.04906, eq. 3 and 4. It grows with the fourth power of the features' scale, so it
    belongs beside `vicreg_var`, which holds that scale up.
    """

    def __call__(self, features_ND: Tensor, real_N: Tensor) -> dict[str, Tensor]:
        """`{"vicreg_cov": scalar}` in fourth powers of the feature, float32 or wider; 0 for fewer than two items.

        Args:
            features_ND: one row an item.
            real_N: bool, False on padding.

        Raises:
            ValueError: `features_ND` is not (items, features).
        """
        check_features("vicreg_cov", features_ND, real_N)
        z_RD = chosen(features_ND, real_N)
        if len(z_RD) < 2:
            return {"vicreg_cov": 0.0 * z_RD.sum()}
        items, width = z_RD.shape
        with full_precision(z_RD):
            centred_RD = z_RD - z_RD.mean(0)
            covariance_DD = centred_RD.T @ centred_RD / (items - 1)
        same_DD = torch.eye(width, dtype=torch.bool, device=z_RD.device)
        return {"vicreg_cov": covariance_DD.masked_fill(same_DD, 0.0).square().sum() / width}
