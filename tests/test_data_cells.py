"""Cutting, scaling and dealing cells: what holds for any table."""

from __future__ import annotations

import math
import re

import attrs
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.params import in_force
from core.train.streams import Streams
from plugins.data import cells as cells_module
from plugins.data.cells import CellTable, ordered
from plugins.data.cut import Cut, divide
from plugins.data.prepare import Prepare
from plugins.data.sets import CellSource, Sets

MODERATE = settings(deadline=None, max_examples=40)


def table(sizes: list[int], *, genes: int = 5, dims: int = 2, seed: int = 0, sparse: bool = False) -> CellTable:
    """Random counts and places; section i has sizes[i] cells, in mixed order."""
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    counts = rng.poisson(1.5, (count, genes)).astype(np.float32)
    return CellTable(
        counts=sp.csr_matrix(counts) if sparse else counts,
        position_nP=rng.normal(size=(count, dims)) * 50 + 1000,
        section_n=rng.permutation(np.repeat(np.arange(len(sizes)), sizes)),
        sections=tuple(f"s{i}" for i in range(len(sizes))),
        type_n=rng.integers(-1, 3, count),
        types=("a", "b", "c"),
        genes=tuple(f"g{i}" for i in range(genes)),
        where={"expression": "the matrix", "position": "the places", "section": "the sections"},
    )


def opened(
    data: CellTable, *, size: int = 16, per_batch: int = 2, cut: Cut | None = None, **prepare: object
) -> CellSource:
    return CellSource(
        "test",
        data,
        content=data.content(),
        sets=Sets(size=size, per_batch=per_batch),
        cut=cut or Cut(),
        prepare=Prepare(**prepare),  # type: ignore[arg-type]
        said={},
    )


cuts = st.builds(
    Cut,
    by=st.sampled_from(["auto", "cell"]),
    test=st.floats(0.05, 0.4),
    valid=st.floats(0.05, 0.25),
    seed=st.integers(0, 3),
)


class TestCut:
    """Every cell goes to one split, by content and not by chance."""

    @MODERATE
    @given(st.lists(st.integers(25, 60), min_size=1, max_size=7), cuts)
    def test_divides(self, sizes: list[int], cut: Cut) -> None:
        """Splits are disjoint, cover all rows, hold two cells or more of a section and are about as large as asked."""
        data = table(sizes)
        rows = divide(data, cut).rows
        assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(sum(sizes)))
        whole = cut.by == "auto" and len(sizes) > 1
        for name, share in (("valid", cut.valid), ("test", cut.test)):
            per_section = np.bincount(data.section_n[rows[name]], minlength=len(sizes))
            assert (per_section[per_section > 0] >= 2).all()
            if not whole:
                assert all(abs(got - share * size) <= 2 for got, size in zip(per_section, sizes, strict=True))
        if whole:
            held = set(data.section_n[rows["test"]])
            assert len(held) == max(1, round(cut.test * len(sizes)))
            assert not held & set(data.section_n[np.concatenate([rows["train"], rows["valid"]])])
            if len(sizes) >= 4:
                assert not set(data.section_n[rows["train"]]) & set(data.section_n[rows["valid"]])

    @MODERATE
    @given(st.lists(st.integers(25, 40), min_size=1, max_size=5), cuts, st.integers(0, 5))
    def test_order_of_rows(self, sizes: list[int], cut: Cut, seed: int) -> None:
        """Shuffling the rows of a table moves no cell to another split."""
        data = table(sizes)
        shuffle = np.random.default_rng(seed).permutation(data.cells)
        other = attrs.evolve(
            data, counts=data.counts[shuffle], position_nP=data.position_nP[shuffle], section_n=data.section_n[shuffle]
        )
        for name, rows in divide(data, cut).rows.items():
            assert set(shuffle[divide(other, cut).rows[name]]) == set(rows)

    def test_other_sections(self) -> None:
        """A section is cut the same, whatever other sections there are."""
        both, cut = table([40, 40]), Cut(by="cell")
        rows = np.flatnonzero(both.section_n == 0)
        alone = attrs.evolve(
            both,
            counts=both.counts[rows],
            position_nP=both.position_nP[rows],
            section_n=np.zeros(40, int),
            sections=("s0",),
        )
        assert set(rows[divide(alone, cut).rows["test"]]) == set(divide(both, cut).rows["test"]) & set(rows)

    def test_named_section(self) -> None:
        """A section that is named is the test split, and no other is."""
        data = table([30, 30, 30])
        division = divide(data, Cut(section="s1"))
        assert set(data.section_n[division.rows["test"]]) == {1}
        assert "s1" in division.sentence

    @pytest.mark.parametrize(
        ("sizes", "cut", "says"),
        [
            ([30, 30], Cut(test=0.6, valid=0.4), "their sum is to be < 1"),
            ([30], Cut(by="section"), "set cut.by = 'cell'"),
            ([30], Cut(section="s0"), "has one section only"),
            ([30, 30], Cut(section="s11"), "there are s0, s1. Did you mean"),
            ([30, 5], Cut(by="cell"), "section 's1' has 5 cells, too few for 2 valid and 2 test"),
            ([3, 30], Cut(), "section 's0' has 3 cells, too few for 2 valid"),
            ([30] * 4, Cut(test=0.7, valid=0.2), "leave none of the 4 sections"),
        ],
    )
    def test_refusals(self, sizes: list[int], cut: Cut, says: str) -> None:
        """A cut that contradicts itself or the data is refused with the fix."""
        with pytest.raises(UserError, match=says):
            divide(table(sizes), cut)

    @pytest.mark.parametrize(
        ("sizes", "cut", "says"),
        [
            ([40], Cut(), "neighbours of test cells are in train"),
            ([40, 40], Cut(), "test holds out whole: s1; .* neighbours of valid cells are in train"),
            ([40] * 4, Cut(), "valid holds out whole: s2"),
        ],
    )
    def test_sentence(self, sizes: list[int], cut: Cut, says: str) -> None:
        """The card says how cells were divided and what leaks."""
        assert re.search(says, opened(table(sizes), cut=cut).describe().facts["split"])


def reference(data: CellTable, train: np.ndarray, transform: str, target: float, clip: float) -> np.ndarray:
    """The preparation of expression cell by cell and gene by gene, in float64."""
    counts = data.counts.toarray() if sp.issparse(data.counts) else data.counts
    out = np.zeros(counts.shape)
    for n, row in enumerate(counts.astype(np.float64)):
        total = sum(row)
        for g, value in enumerate(row):
            scaled = value * target / total if transform == "counts" and total else value
            out[n, g] = math.log(1 + scaled) if transform in ("counts", "log1p") else scaled
    for g in range(out.shape[1]):
        column = [out[n, g] for n in train]
        mean = sum(column) / len(column)
        spread = math.sqrt(sum((value - mean) ** 2 for value in column) / len(column))
        out[:, g] = 0 if spread < 1e-9 else np.clip((out[:, g] - mean) / spread, -clip, clip)
    return out


def everything(source: CellSource, field: str) -> np.ndarray:
    """A field of all cells, by row of the table."""
    units = [unit for name in ("train", "valid", "test") for unit in source.split(name, Streams(0)).units()]
    index = np.concatenate([unit.fields["index"][0] for unit in units])
    return np.concatenate([unit.fields[field][0] for unit in units])[np.argsort(index)]


class TestPreparation:
    """Numbers against a slow reference, and what may not depend on what."""

    @MODERATE
    @given(
        st.sampled_from(["auto", "counts", "log1p", "none"]),
        st.booleans(),
        st.sampled_from([1.0, 1e4]),
        st.sampled_from([1.5, 10.0]),
        st.integers(0, 3),
    )
    def test_expression(self, transform: str, sparse: bool, target: float, clip: float, seed: int) -> None:
        """Expression equals the definition in float64: transform, standardise by training cells, clip."""
        data = table([30, 25], sparse=sparse, seed=seed)
        knobs = {"transform": transform, "target_sum": target, "clip": clip}
        source = opened(data, **in_force(Prepare, knobs))
        train = divide(data, Cut()).rows["train"]
        want = reference(data, train, "counts" if transform == "auto" else transform, target, clip)
        np.testing.assert_allclose(everything(source, "expression"), want, rtol=1e-4, atol=2e-5)

    @MODERATE
    @given(st.lists(st.integers(25, 40), min_size=1, max_size=3), st.sampled_from([2, 3]), st.integers(0, 3))
    def test_position(self, sizes: list[int], dims: int, seed: int) -> None:
        """Sections are centred, training cells deviate by 1 an axis, restoring gives input units."""
        data = table(sizes, dims=dims, seed=seed)
        source = opened(data)
        place = everything(source, "position")
        back = source.restore("position", place)
        for code in range(len(sizes)):
            here = data.section_n == code
            assert np.abs(place[here].mean(axis=0)).max() < 1e-5
            np.testing.assert_allclose(
                back[here], data.position_nP[here] - data.position_nP[here].mean(axis=0), atol=1e-3
            )
        train = divide(data, Cut()).rows["train"]
        assert np.square(place[train]).mean() == pytest.approx(1.0, rel=1e-4)

    def test_restore_expression(self) -> None:
        """Restored expression is the transformed scale where nothing was clipped, also for a constant gene."""
        data = table([40])
        counts = np.array(data.counts)
        counts[:, 0] = 3
        source = opened(attrs.evolve(data, counts=counts), transform="log1p", clip=1e3)
        assert source.describe().facts["constant_genes"] == 1
        assert (everything(source, "expression")[:, 0] == 0).all()
        np.testing.assert_allclose(
            source.restore("expression", everything(source, "expression")), np.log1p(counts), atol=1e-5
        )

    def test_held_out_cells_teach_nothing(self) -> None:
        """Changing the expression of held-out cells changes no number of a training cell."""
        data = table([40, 40])
        rows = divide(data, Cut()).rows
        counts = np.array(data.counts)
        counts[rows["test"]] *= 7
        counts[rows["valid"]] += 2
        before, after = opened(data), opened(attrs.evolve(data, counts=counts))
        train = rows["train"]
        assert np.array_equal(everything(before, "expression")[train], everything(after, "expression")[train])
        assert not np.array_equal(everything(before, "expression"), everything(after, "expression"))

    def test_sparse_is_dense(self) -> None:
        """A sparse matrix gives the batches and the card of the dense one, to the last bit."""
        a, b = opened(table([40, 40])), opened(table([40, 40], sparse=True))
        assert a.describe() == b.describe()
        assert np.array_equal(everything(a, "expression"), everything(b, "expression"))

    def test_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Walking a matrix in small blocks gives the numbers of one walk, up to rounding."""
        whole = everything(opened(table([40, 40])), "expression")
        monkeypatch.setattr(cells_module, "BLOCK", 15)
        np.testing.assert_allclose(everything(opened(table([40, 40])), "expression"), whole, rtol=1e-6, atol=1e-6)

    def test_large_mean(self) -> None:
        """A small spread on a large mean keeps its deviations."""
        data = table([60])
        counts = 1000 + np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32) * 0.5
        source = opened(attrs.evolve(data, counts=counts), transform="none", clip=100.0)
        train = divide(data, Cut()).rows["train"]
        assert everything(source, "expression")[train].std(axis=0) == pytest.approx(np.ones(5), rel=1e-4)

    def test_empty_cell(self) -> None:
        """A cell without a count keeps its zeros: it is what zeros are on the transformed scale."""
        data = table([40])
        counts = np.array(data.counts)
        counts[3] = 0
        source = opened(attrs.evolve(data, counts=counts), clip=1e3)
        np.testing.assert_allclose(source.restore("expression", everything(source, "expression"))[3], 0, atol=1e-5)

    @pytest.mark.parametrize(
        ("change", "chosen"),
        [
            (lambda x: x, "counts, because"),
            (lambda x: x + 0.5, "none, because fractional"),
            (lambda x: x * 30 + 0.5, "log1p, because"),
            (lambda x: x - 1, "none, because values are negative"),
        ],
    )
    def test_auto(self, change: object, chosen: str) -> None:
        """`auto` takes counts for whole numbers, log1p for large fractions, and says why."""
        data = table([40])
        facts = opened(attrs.evolve(data, counts=change(data.counts))).describe().facts  # type: ignore[operator]
        assert facts["transform"].startswith(chosen)

    @pytest.mark.parametrize("transform", ["counts", "log1p"])
    def test_negative(self, transform: str) -> None:
        """A logarithm of negative values is refused with the fix."""
        data = table([40])
        with pytest.raises(
            UserError, match=r"the matrix holds negative values \(down to -1\).* set transform = 'none'"
        ):
            opened(attrs.evolve(data, counts=data.counts - 1), transform=transform)


class TestSets:
    """How cells are dealt into batches."""

    @MODERATE
    @given(
        st.lists(st.integers(25, 60), min_size=1, max_size=4),
        st.integers(2, 40),
        st.integers(1, 4),
        st.integers(0, 3),
        st.integers(0, 3),
    )
    def test_dealt_evenly(self, sizes: list[int], size: int, per_batch: int, seed: int, epoch: int) -> None:
        """Sets are as few and as even as their largest size allows; all batches but the last are full."""
        source = opened(table(sizes), size=size, per_batch=per_batch)
        split = source.split("train", Streams(seed))
        batches = [split.batch(epoch, i) for i in range(split.batches(epoch))]
        lengths: dict[str, list[int]] = {}
        for batch in batches:
            for unit, real_N in zip(batch.units, batch.real_BN, strict=True):
                lengths.setdefault(unit, []).append(int(real_N.sum()))
        for dealt in lengths.values():
            assert max(dealt) <= size
            assert max(dealt) - min(dealt) <= 1
            assert len(dealt) == math.ceil(sum(dealt) / size)
        assert [len(batch.units) for batch in batches[:-1]] == [per_batch] * (len(batches) - 1)
        card = source.describe()
        assert card.sizes["set_size"] == max(map(max, lengths.values()))
        assert card.sizes["sets_per_batch"] == len(batches[0].units)

    def test_fields(self) -> None:
        """Expression, position, cell type and index of a batch are those of the rows that `index` names."""
        data = table([30, 30], dims=3)
        source = opened(data)
        batch = source.split("train", Streams(0)).batch(0, 0)
        rows = batch.fields["index"][batch.real_BN].numpy()
        assert np.array_equal(batch.fields["cell_type"][batch.real_BN].numpy(), data.type_n[rows])
        assert batch.fields["position"].shape == (*batch.real_BN.shape, 3)
        assert batch.fields["expression"].shape == (*batch.real_BN.shape, 5)
        assert np.array_equal(batch.fields["position"][batch.real_BN].numpy(), everything(source, "position")[rows])
        names = [source.names(what) for what in ("genes", "cell_types", "sections")]
        assert names == [data.genes, data.types, data.sections]
        assert source.oracle(batch) == {}


class TestTable:
    """What is refused before anything is computed."""

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            (lambda t: {"genes": ("a", "b", "a", "c", "b")}, "the matrix names 2 gene.* the first is 'a'"),
            (
                lambda t: {"position_nP": np.where(np.arange(41)[:, None] == 4, np.nan, t.position_nP)},
                "for 1 of 41 .* row 4",
            ),
            (
                lambda t: {"position_nP": t.position_nP * 0 + 7.0},
                "the places puts all 41 cells of section 's0' at one place",
            ),
            (lambda t: {"section_n": np.array([0] * 40 + [1]), "sections": ("s0", "s1")}, "'s1' has a single cell"),
            (lambda t: {"counts": np.where(np.eye(41, 5) > 0, np.inf, t.counts)}, "5 NaN or infinite.*'g0'"),
        ],
    )
    def test_refusals(self, change: object, says: str) -> None:
        """Content that no model can use is refused in words that name the input, the place and the fix."""
        data = table([41])
        with pytest.raises(UserError, match=says):
            opened(attrs.evolve(data, **change(data)))  # type: ignore[operator]

    def test_sparse_nan(self) -> None:
        """A NaN among the stored values of a sparse matrix is found, and its gene named."""
        data = table([40], sparse=True)
        counts = data.counts.copy()
        counts[7, 3] = np.nan
        with pytest.raises(UserError, match=r"holds 1 NaN or infinite value.*'g3'"):
            opened(attrs.evolve(data, counts=counts))

    @pytest.mark.parametrize(
        ("names", "want"),
        [
            ({"s10", "s9", "s1"}, ("s1", "s9", "s10")),
            ({"0.11", "-0.29", "-0.04"}, ("-0.29", "-0.04", "0.11")),
            ({"b", "a", ""}, ("", "a", "b")),
            ({"nan", "2", "10"}, ("2", "10", "nan")),
        ],
    )
    def test_ordered(self, names: set[str], want: tuple[str, ...]) -> None:
        """Names are ordered by the numbers in them."""
        assert ordered(names) == want

    @given(st.sets(st.text(max_size=5), max_size=6))
    def test_ordered_any(self, names: set[str]) -> None:
        """Any names can be ordered, each once."""
        assert sorted(ordered(names)) == sorted(names)
