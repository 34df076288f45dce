"""What every extractor must do. N items, G columns, K chosen columns, D width.

@pytest.mark.parametrize("extractor", [Pca(), Pca(k=3, times="value")], ids=repr)
class TestExtractors(ExtractorLaws): ...
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core.errors import UserError
from core.kinds.extractor import Extractor, Fitted, Latents
from core.testing.draws import Drawable, drawn, law, refusals, seeds
from core.train.streams import Streams

COLUMNS, ITEMS = 20, 19
"""of the items that are fitted on: enough for 16 components, and so few that none is left out"""
few = settings(law, max_examples=5)


class ExtractorLaws:
    """Laws of `core.kinds.extractor.Extractor`; parametrise a subclass over `extractor`, a plugin or a strategy."""

    def items(self, names: tuple[str, ...], seed: int, count: int) -> np.ndarray:
        """`count` different items (count, G), not negative, about half of the entries 0; a subclass may know others."""
        rng = np.random.default_rng(seed)
        values = rng.gamma(2.0, 1.0, (count, len(names))) * (rng.random((count, len(names))) < 0.5)
        values[:, seed % len(names)] = 1.0 + np.arange(count) / count  # no two are alike, and none is empty
        return values.astype(np.float32)

    @few
    @given(data=st.data(), seed=seeds)
    def test_shape(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """One finite float32 vector an entry, of the width that was known before the fit; also for no items at all."""
        plugin = drawn(data, extractor)
        width = plugin.width
        fitted, values = self._fit(plugin, extractor, seed)
        found = _latents(fitted, values)
        assert fitted.width == width > 0
        assert found.z_NKD.shape == (*values.shape, width)
        assert found.z_NKD.dtype == torch.float32
        assert torch.isfinite(found.z_NKD).all()
        assert found.covered_NK.dtype == torch.bool
        assert found.covered_NK.shape == values.shape
        assert found.covered_NK.any()
        assert _latents(fitted, values[:0]).z_NKD.shape == (0, COLUMNS, width)

    @few
    @given(data=st.data(), seed=seeds)
    def test_normalised(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """Over the covered entries of the fit a channel has mean 0 and deviation `std`, or does not vary and is 0."""
        fitted, values = self._fit(drawn(data, extractor), extractor, seed)
        found = _latents(fitted, values)
        z_MD = found.z_NKD[found.covered_NK].double()
        std_D = z_MD.std(0, correction=0)
        flat_D = (z_MD == 0).all(0)
        assert fitted.std > 0
        assert not flat_D.all()
        torch.testing.assert_close(z_MD.mean(0), torch.zeros_like(std_D), rtol=0, atol=1e-4 * fitted.std)
        torch.testing.assert_close(std_D[~flat_D], torch.full_like(std_D[~flat_D], fitted.std), rtol=1e-4, atol=0)

    @few
    @given(data=st.data(), seed=seeds)
    def test_covered(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """What is not covered is exactly 0; unless `dense` an entry of value 0 is not, nor is any of an empty item.

        Of a `relative` extractor every entry is covered.
        """
        plugin = drawn(data, extractor)
        fitted, values = self._fit(plugin, extractor, seed)
        found = _latents(fitted, np.concatenate([values, np.zeros_like(values[:1])]) if not plugin.dense else values)
        assert (found.z_NKD[~found.covered_NK] == 0).all()
        if plugin.relative and plugin.vocabulary() is None:
            assert found.covered_NK.all()
        if not plugin.dense:
            assert not found.covered_NK[:-1][torch.from_numpy(values == 0)].any()
            assert not found.covered_NK[-1].any()

    @few
    @given(data=st.data(), seed=seeds)
    def test_unknown_columns(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """A column whose name is not in the vocabulary is covered in no item."""
        plugin = drawn(data, extractor)
        fitted, values = self._fit(plugin, extractor, seed)
        known = plugin.vocabulary()
        if known is not None:
            found = _latents(fitted, values).covered_NK.any(0).tolist()
            assert all(name in known for name, covered in zip(fitted.names, found, strict=True) if covered)

    @few
    @given(data=st.data(), seed=seeds)
    def test_deterministic(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """Two fits and two calls give the same bits, wherever torch's global generator stands; items stay as given."""
        plugin = drawn(data, extractor)
        fitted, values = self._fit(plugin, extractor, seed)
        kept, before = values.copy(), torch.get_rng_state()
        first = _latents(fitted, values)
        with torch.random.fork_rng():
            torch.manual_seed(seed % 1000)
            again, _ = self._fit(plugin, extractor, seed)
            second = _latents(again, values)
        assert torch.equal(torch.get_rng_state(), before)
        _same(second, first)
        np.testing.assert_array_equal(values, kept)

    @few
    @given(data=st.data(), seed=seeds)
    def test_frozen(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """No gradient enters, training modes and steps of a network that holds it change nothing, nor does autocast."""
        fitted, values = self._fit(drawn(data, extractor), extractor, seed)
        before, first = fitted.state(), _latents(fitted, values)
        network = nn.Linear(fitted.width, 1)
        network.latents = fitted  # type: ignore[assignment]
        assert {name for name, _ in network.named_parameters()} == {*network.state_dict()} == {"weight", "bias"}
        network.train()
        x_NG = torch.from_numpy(values).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            found = fitted(x_NG)
        assert not found.z_NKD.requires_grad
        optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
        nn.functional.linear(found.z_NKD, network.weight, network.bias).square().mean().backward()
        optimiser.step()
        assert x_NG.grad is None
        _same(found, first)
        _same(_latents(fitted, values), first)
        after = fitted.state()
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before)

    @few
    @given(data=st.data(), seed=seeds)
    def test_column_order(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """Columns in another order, from the fit on, get the same latents at their new places."""
        plugin = drawn(data, extractor)
        fitted, values = self._fit(plugin, extractor, seed)
        order = np.random.default_rng(seed).permutation(COLUMNS)
        turned = plugin.fit(values[:, order], [fitted.names[i] for i in order], Streams(seed % 97))
        whole, there = _latents(fitted, values), _latents(turned, values[:, order])
        _close(there, Latents(whole.z_NKD[:, order], whole.covered_NK[:, order]), fitted.std)

    @few
    @given(data=st.data(), seed=seeds, item=st.integers(0, ITEMS - 1))
    def test_own_item(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int, item: int) -> None:
        """An item alone gets what it gets among others, in any order of these."""
        fitted, values = self._fit(drawn(data, extractor), extractor, seed)
        whole = _latents(fitted, values)
        order = np.random.default_rng(seed).permutation(ITEMS)
        for rows in (order, np.array([item])):
            _close(_latents(fitted, values[rows]), Latents(whole.z_NKD[rows], whole.covered_NK[rows]), fitted.std)

    @few
    @given(data=st.data(), seed=seeds, columns=st.lists(st.integers(0, COLUMNS - 1), max_size=COLUMNS))
    def test_columns(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int, columns: list[int]) -> None:
        """Chosen columns are those columns of the whole, in the order asked for."""
        fitted, values = self._fit(drawn(data, extractor), extractor, seed)
        whole = _latents(fitted, values)
        chosen = fitted(torch.from_numpy(values), torch.tensor(columns, dtype=torch.int64))
        _close(chosen, Latents(whole.z_NKD[:, columns], whole.covered_NK[:, columns]), fitted.std)

    @few
    @given(data=st.data(), seed=seeds)
    def test_new_items(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """Items that were not fitted on get finite latents too."""
        plugin = drawn(data, extractor)
        fitted, _ = self._fit(plugin, extractor, seed)
        found = _latents(fitted, self.items(fitted.names, seed + 1, 5))
        assert torch.isfinite(found.z_NKD).all()
        assert (found.z_NKD[~found.covered_NK] == 0).all()

    @few
    @given(data=st.data(), seed=seeds)
    def test_state(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int) -> None:
        """A restored state gives the same bits, for columns in any order; names of another set are refused."""
        plugin = drawn(data, extractor)
        fitted, values = self._fit(plugin, extractor, seed)
        state, whole = fitted.state(), _latents(fitted, values)
        assert all(type(array) is np.ndarray and array.dtype.kind in "fiub" for array in state.values())
        _same(_latents(plugin.restore(state), values), whole)
        order = np.random.default_rng(seed).permutation(COLUMNS)
        turned = plugin.restore(state, [fitted.names[i] for i in order])
        _close(
            _latents(turned, values[:, order]), Latents(whole.z_NKD[:, order], whole.covered_NK[:, order]), fitted.std
        )
        with pytest.raises(UserError):
            plugin.restore(state, fitted.names[1:])
        with pytest.raises(UserError):
            plugin.restore({})

    @few
    @given(data=st.data(), seed=seeds, wild=st.sampled_from([np.nan, np.inf, -np.inf]))
    def test_refused(self, extractor: Drawable[Extractor], data: st.DataObject, seed: int, wild: float) -> None:
        """Values that are not finite, names that repeat and a wrong number of columns are refused, in fit and use."""
        plugin = drawn(data, extractor)
        fitted, values = self._fit(plugin, extractor, seed)
        broken = values.copy()
        broken[seed % ITEMS, seed % COLUMNS] = wild
        streams = Streams(0)
        for given_values, names in (
            (broken, fitted.names),
            (values, (*fitted.names[1:], fitted.names[-1])),
            (values, fitted.names[1:]),
            (values[:0], fitted.names),
        ):
            with pytest.raises(UserError):
                plugin.fit(given_values, names, streams)
        for given_values in (broken, values[:, 1:]):
            with pytest.raises(ValueError):
                _latents(fitted, given_values)

    def _fit(self, plugin: Extractor, source: Drawable[Extractor], seed: int) -> tuple[Fitted, np.ndarray]:
        known = plugin.vocabulary()
        names = [f"c{i}" for i in range(COLUMNS)]
        if known is not None:
            # The last columns stay unknown; half of the rest would be too few to tell an order.
            chosen = sorted(known)[: COLUMNS - 4]
            names = [*chosen, *(f"unknown {i}" for i in range(COLUMNS - len(chosen)))]
        values = self.items(tuple(names), seed, ITEMS)
        with refusals(source):
            return plugin.fit(values, names, Streams(seed % 97)), values


def _latents(fitted: Fitted, values_NG: np.ndarray) -> Latents:
    return fitted(torch.from_numpy(np.ascontiguousarray(values_NG)))


def _same(found: Latents, wanted: Latents) -> None:
    assert torch.equal(found.covered_NK, wanted.covered_NK)
    assert torch.equal(found.z_NKD, wanted.z_NKD)


def _close(found: Latents, wanted: Latents, std: float) -> None:
    assert torch.equal(found.covered_NK, wanted.covered_NK)
    torch.testing.assert_close(found.z_NKD, wanted.z_NKD, rtol=1e-4, atol=1e-4 * std)
