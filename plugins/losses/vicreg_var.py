"""Variance that features must not lose. R real items, D features."""

from __future__ import annotations

from typing import final

from torch import Tensor

from core.kinds.loss import FeatureLoss
from core.params import knob, params
from plugins.losses._inputs import check_features, chosen, mean


@final
@params
class VicregVar(FeatureLoss):
    """Every feature should spread over the batch: `mean_d max(0, gamma - sqrt(Var_i z_id + epsilon))`.

    Bardes et al. 2022, arXiv:2105.04906, eq. 1 and 2, with the unbiased variance. 0 once each feature's standard
    deviation reaches gamma, which keeps an invariance term from mapping everything to one point.
    """

    gamma: float = knob(1.0, "standard deviation to reach, in units of the feature", gt=0.0)
    squared: bool = knob(False, "square the shortfall of each feature")
    epsilon: float = knob(1e-4, "added to the variance, so that a constant feature has a gradient", gt=0.0)

    def __call__(self, features_ND: Tensor, real_N: Tensor) -> dict[str, Tensor]:
        """`{"vicreg_var": scalar}` in units of the feature, float32 or wider; 0 for fewer than two items.

        Args:
            features_ND: one row an item.
            real_N: bool, False on padding.

        Raises:
            ValueError: `features_ND` is not (items, features).
        """
        check_features("vicreg_var", features_ND, real_N)
        z_RD = chosen(features_ND, real_N)
        if len(z_RD) < 2:
            return {"vicreg_var": 0.0 * z_RD.sum()}
        shortfall_D = (self.gamma - (z_RD.var(0) + self.epsilon).sqrt()).clamp(min=0)
        return {"vicreg_var": mean(shortfall_D.square() if self.squared else shortfall_D)}
