"""Laws of losses that compare two samples, group by group. N and M rows, F features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from core.kinds.loss import Loss, SampleLoss
from core.testing.draws import Drawable, close, drawn, randn, seeds
from core.testing.losses.family import ANYTHING, Called, Drawn, LossFamilyLaws, Terms, counts, law


class SampleLossLaws(LossFamilyLaws):
    """Laws of `core.kinds.loss.SampleLoss`; parametrise a subclass over `loss`."""

    width: ClassVar[int] = 3
    rows: ClassVar[int] = 6
    """on each side of a group, where the loss does not ask for more"""

    def draw(self, loss: Loss, seed: int, count: int) -> Drawn:
        return self.case(*self.arrays(seed, 4 * count, 3))

    def arrays(self, seed: int, rows: int, kinds: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prediction, target, and their groups from 0 to `kinds`, -1 for rows that do not count."""
        groups = [
            torch.randint(-1, kinds, (rows,), generator=torch.Generator().manual_seed(seed + i)) for i in range(2)
        ]
        # The target is rounded, so that it is the same in each dtype.
        target_MF = randn(seed + 1, rows, self.width, dtype=torch.bfloat16).double()
        return randn(seed, rows, self.width), target_MF, groups[0], groups[1]

    def case(self, predicted_NF: Tensor, target_MF: Tensor, group_N: Tensor, group_M: Tensor) -> Drawn:
        def call(loss: Called, moving: Sequence[Tensor]) -> Terms:
            groups = (x.to(moving[0].device) for x in (group_N, group_M))
            return loss(moving[0], target_MF.to(moving[0]), *groups)

        return Drawn((predicted_NF,), call)

    @pytest.mark.parametrize("content", ANYTHING, ids=str)
    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_uncounted(
        self, loss: Drawable[SampleLoss], content: float, data: st.DataObject, count: int, seed: int
    ) -> None:
        """Rows of a group below 0, whatever they hold, count as if they were not there; their gradient is 0."""
        plugin = drawn(data, loss)
        x_NF, y_MF, group_N, group_M = self.arrays(seed, 4 * count, 2)
        in_N, in_M = group_N >= 0, group_M >= 0
        spoilt_NF, spoilt_MF = x_NF.masked_fill(~in_N[:, None], content), y_MF.masked_fill(~in_M[:, None], content)
        padded = self.case(spoilt_NF, spoilt_MF, group_N, group_M).outcome(plugin)
        alone = self.case(x_NF[in_N], y_MF[in_M], group_N[in_N], group_M[in_M]).outcome(plugin)
        assert (padded[1][~in_N] == 0).all()
        close([padded[0], padded[1][in_N]], alone)

    @law
    @given(data=st.data(), count=counts, seed=seeds)
    def test_order(self, loss: Drawable[SampleLoss], data: st.DataObject, count: int, seed: int) -> None:
        """Rows of the two samples are not paired: each may be shuffled on its own, and groups may be renumbered."""
        plugin = drawn(data, loss)
        rows = 4 * count
        x_NF, y_MF, group_N, group_M = self.arrays(seed, rows, 3)
        n, m = (torch.randperm(rows, generator=torch.Generator().manual_seed(seed + i)) for i in range(2))
        names = torch.tensor([7, 2, 40, -1])
        value, grad_NF = self.case(x_NF, y_MF, group_N, group_M).outcome(plugin)
        turned = self.case(x_NF[n], y_MF[m], names[group_N][n], names[group_M][m]).outcome(plugin)
        close(turned, [value, grad_NF[n]])

    @law
    @given(data=st.data(), seed=seeds)
    def test_constant_target(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """The gradient reaches the prediction alone."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        x_NF, y_MF = (randn(seed + i, rows, self.width).requires_grad_() for i in range(2))
        one = torch.zeros(rows, dtype=torch.long)
        torch.stack([*plugin(x_NF, y_MF, one, one).values()]).sum().backward()
        assert x_NF.grad is not None
        assert (x_NF.grad != 0).any()
        assert y_MF.grad is None

    @law
    @given(data=st.data(), seed=seeds)
    def test_groups_apart(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """A batch scores the mean of its groups alone, and a group without a counterpart adds nothing."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        x_NF, y_MF = (randn(seed + i, 3 * rows, self.width) for i in range(2))
        third = torch.arange(3).repeat_interleave(rows)
        parts = [third == c for c in range(2)]
        alone = [self.case(x_NF[p], y_MF[p], third[p], third[p]).terms(plugin) for p in parts]
        both = self.case(x_NF, y_MF, third, torch.where(third == 2, 5, third)).terms(plugin)
        for name, value in both.items():
            close([value], [torch.stack([terms[name] for terms in alone]).mean()])

    @law
    @given(data=st.data(), seed=seeds)
    def test_shift(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """A far shift of the prediction costs more than none; moving both samples together costs nothing."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        x_NF, y_MF = (randn(seed + i, rows, self.width) for i in range(2))
        one = torch.zeros(rows, dtype=torch.long)
        plain, far, both = (plugin(x_NF + a, y_MF + b, one, one) for a, b in ((0.0, 0.0), (30.0, 0.0), (30.0, 30.0)))
        assert all(far[name] > plain[name] for name in plain)
        close([both[name] for name in plain], [*plain.values()])

    @law
    @given(data=st.data(), seed=seeds)
    def test_equal_rows(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """Rows that are all equal, or drawn twice, give finite values and gradients."""
        plugin = drawn(data, loss)
        rows = max(self.rows, plugin.enough())
        one = torch.zeros(rows, dtype=torch.long)
        same_MF = randn(seed, 1, self.width).repeat(rows, 1)
        twice_NF = randn(seed + 1, rows // 2 + 1, self.width).repeat(2, 1)[:rows]
        for x_NF, y_MF in ((twice_NF, same_MF), (same_MF, same_MF), (same_MF, twice_NF)):
            assert all(torch.isfinite(x).all() for x in self.case(x_NF, y_MF, one, one).outcome(plugin))

    @law
    @given(data=st.data(), seed=seeds)
    def test_shapes(self, loss: Drawable[SampleLoss], data: st.DataObject, seed: int) -> None:
        """Arrays that do not fit each other are refused with a sentence, not broadcast."""
        plugin = drawn(data, loss)
        x_NF, one = randn(seed, 6, self.width), torch.zeros(6, dtype=torch.long)
        with pytest.raises(ValueError, match=r"\("):
            plugin(x_NF, x_NF[:, :1], one, one)
        with pytest.raises(ValueError, match=r"\("):
            plugin(x_NF, x_NF, one, one[:1])
