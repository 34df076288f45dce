"""What a screen's batches hold, what is learned from which cells, and the simulator's truth."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.kinds.data import Batch
from core.registry import installed
from core.train.streams import Streams
from plugins.data.screen_cut import ScreenCut
from plugins.data.screen_law import generator
from plugins.data.screen_prepare import ScreenPrepare, ScreenScale, choose_genes, statistics
from plugins.data.screen_sets import ScreenSource
from plugins.data.screen_table import LEAST
from screens import FORMS, GENES, LABELS, adata, opened, read, saved, simulated, table

CELLS = table(cells=5)
RAW = ScreenScale(transform="none", reason="", target_sum=1.0)


@pytest.fixture(autouse=True)
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files written here are sound: the look at their structure, a process each, is left out."""
    monkeypatch.setattr("plugins.data.anndata_file._probe", lambda path: None)


def whole(source: ScreenSource, split: str) -> dict[str, Batch]:
    return {unit.units[0]: unit for unit in source.split(split, Streams(0)).units()}


def test_codes_are_canonical() -> None:
    """Codes of perturbations rise and end in 0; they name the members of the unit; covariates name its level."""
    source = opened(CELLS)
    names, levels = source.names("perturbations"), source.names("cell_type")
    assert names[0] == "control"
    for split in ("train", "valid", "test"):
        for name, unit in whole(source, split).items():
            condition, _, kind = name.partition("|")
            (code_P,) = {tuple(row) for row in unit.fields["perturbation"][0].tolist()}
            filled = [code for code in code_P if code]
            assert list(code_P) == sorted(filled) + [0] * (len(code_P) - len(filled))
            assert "+".join(names[code] for code in filled) == ("" if condition == "control" else condition)
            assert {levels[code] for code in unit.fields["covariate"][0, :, 0].tolist()} == {kind}


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_controls_are_of_the_same_stratum(seed: int, epoch: int) -> None:
    """Every control cell is a true control of the cell type of its item, and comes from the whole pool in time."""
    source = opened(CELLS)
    pools = {name.partition("|")[2]: unit.fields["expression"][0].numpy()
             for name, unit in whole(source, "train").items() if name.startswith("control")}  # fmt: skip
    split = source.split("train", Streams(seed))
    for index in range(split.batches(epoch)):
        batch = split.batch(epoch, index)
        shown = (batch.fields[name].numpy() for name in ("control", "level"))
        for unit, control_NG, level_NG, real_N in zip(batch.units, *shown, batch.real_BN, strict=True):
            pool = {row.tobytes() for row in pools[unit.partition("|")[2]]}
            mean_G = pools[unit.partition("|")[2]].mean(0, dtype=np.float64)
            np.testing.assert_allclose(level_NG[real_N.numpy()], np.tile(mean_G, (int(real_N.sum()), 1)), rtol=1e-5)
            assert {row.tobytes() for row in control_NG[real_N.numpy()]} <= pool


def test_controls_are_drawn_anew_in_training_and_never_in_units() -> None:
    """An epoch later an item has another control cell; over many epochs each control cell comes about as often."""
    source = opened(table(kinds=("T",), cells=6))
    split = source.split("train", Streams(0))
    drawn: Counter[bytes] = Counter()
    for epoch in range(40):
        for index in range(split.batches(epoch)):
            batch = split.batch(epoch, index)
            drawn.update(row.tobytes() for row in batch.fields["control"][batch.real_BN].numpy())
    assert len(drawn) == 6
    assert max(drawn.values()) < 1.25 * min(drawn.values())
    assert not np.array_equal(split.batch(0, 0).fields["control"], split.batch(1, 0).fields["control"])


def test_sets_hold_one_condition_of_one_stratum() -> None:
    """Cells of a set share perturbations and covariates, and sets of a unit differ in size by one at most."""
    source = opened(CELLS)
    split = source.split("train", Streams(1))
    sizes: dict[str, list[int]] = {}
    for index in range(split.batches(0)):
        batch = split.batch(0, index)
        for unit, real_N, code_NP in zip(batch.units, batch.real_BN, batch.fields["perturbation"], strict=True):
            assert len({tuple(row) for row in code_NP[real_N].tolist()}) == 1
            sizes.setdefault(unit, []).append(int(real_N.sum()))
    assert all(max(counts) - min(counts) <= 1 for counts in sizes.values())


def test_values_are_log1p_of_normalised_counts() -> None:
    """Against the formula, cell by cell, whatever genes are kept."""
    source = opened(CELLS, prepare=ScreenPrepare(target_sum=50.0, genes=5))
    counts = np.asarray(CELLS.values, np.float64)
    wanted = np.log1p(counts * (50.0 / counts.sum(1, keepdims=True)))[:, [GENES.index(gene) for gene in source.genes]]
    for unit in whole(source, "test").values():
        rows = unit.fields["index"][0].numpy()
        np.testing.assert_allclose(unit.fields["expression"][0], wanted[rows], rtol=1e-5)
    np.testing.assert_array_equal(source.restore("expression", wanted), wanted)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), sparse=st.booleans(), block=st.integers(1, 9))
def test_statistics_are_those_of_the_plain_formula(seed: int, sparse: bool, block: int) -> None:
    """Mean, deviation and zero rate of the rows, dense or sparse, whatever the blocks."""
    rng = np.random.default_rng(seed)
    values = (rng.poisson(0.7, (40, len(GENES))) * rng.random((40, len(GENES)))).astype(np.float32)
    cells = attrs.evolve(
        table(("ctrl", "A"), kinds=("T",), cells=20), values=sp.csr_matrix(values) if sparse else values
    )
    rows, kept = np.sort(rng.permutation(40)[:17]), np.array([1, 3, 8])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("plugins.data.screen_table.BLOCK", block * len(GENES))
        found = statistics(cells, rows, RAW, kept)
    x = values[rows][:, kept].astype(np.float64)
    np.testing.assert_allclose(found.mean_G, x.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.sd_G, x.std(0), rtol=1e-9)
    np.testing.assert_allclose(found.zero_G, (x == 0).mean(0), rtol=1e-12)


def test_variable_genes_are_those_of_the_plain_formula() -> None:
    """Normalised dispersion within bins of the mean, dense and sparse alike; forced genes come on top."""
    rng = np.random.default_rng(3)
    values = (rng.poisson(rng.gamma(0.6, 3.0, (60, 400))) * rng.uniform(0.5, 1.5, (60, 400))).astype(np.float32)
    names = tuple(f"g{i}" for i in range(400))
    cells = attrs.evolve(table(("ctrl", "A"), kinds=("T",), cells=30), values=np.log1p(values), genes=names)
    rows = np.arange(0, 60, 2)
    x = values[rows].astype(np.float64)
    mean, spread = x.mean(0), x.var(0)
    live = spread > 0
    score = np.full(400, -np.inf)
    level, dispersion = np.log1p(mean[live]), np.log(spread[live] / mean[live])
    edges = np.linspace(level.min(), level.max(), 21)[1:-1]
    place = np.digitize(level, edges, right=True)
    scaled = np.empty(live.sum())
    for number in set(place.tolist()):
        inside = dispersion[place == number]
        scaled[place == number] = 0 if len(inside) == 1 else (inside - inside.mean()) / inside.std()
    score[live] = scaled
    wanted = set(np.argsort(-score, kind="stable")[:50].tolist())
    least = names[int(np.argmin(score))]
    for form in (np.asarray, sp.csr_matrix):
        found, extra = choose_genes(attrs.evolve(cells, values=form(cells.values)), rows, RAW, 50, {least, "absent"})
        assert set(found.tolist()) == wanted | {names.index(least)}
        assert extra == 1
        assert list(found) == sorted(found)


@pytest.mark.parametrize("by", ["additive", "covariate", "simulation"])
def test_cells_that_are_held_out_change_no_artefact(by: str) -> None:
    """Other numbers in valid and test cells leave genes, transform, statistics and training batches as they were."""
    cells = table(("ctrl", *LABELS[1:], "F", "A+F", "B+F"), cells=3)
    knobs: dict[str, Any] = {"cut": ScreenCut(by=by), "prepare": ScreenPrepare(genes=5)}
    source = opened(cells, **knobs)
    held = np.concatenate(
        [unit.fields["index"][0] for split in ("valid", "test") for unit in whole(source, split).values()]
    )
    values = np.array(cells.values)
    values[held] = np.random.default_rng(1).integers(0, 500, values[held].shape) + 0.25
    other = opened(attrs.evolve(cells, values=values), **knobs)
    assert other.preparation() == source.preparation()
    assert [str(fact) for fact in other.describe().facts.items()] == [str(f) for f in source.describe().facts.items()]
    ours, theirs = (one.split("train", Streams(2)) for one in (source, other))
    for index in range(ours.batches(0)):
        for name, field in ours.batch(0, index).fields.items():
            assert np.array_equal(field, theirs.batch(0, index).fields[name])
    trained = values.copy()
    trained[np.setdiff1d(np.arange(len(values)), held)] += 1
    assert opened(attrs.evolve(cells, values=trained), **knobs).preparation() != source.preparation()


def test_a_card_says_what_was_learned_from_what() -> None:
    """The audit names the training cells, the genes chosen, the vocabulary and the controls."""
    source = opened(CELLS, prepare=ScreenPrepare(genes=5))
    leaks = " ".join(source.describe().facts["leaks"])
    train = source.describe().splits["train"]
    for text in (
        f"the {train} cells of train",
        f"{len(source.genes)} of {len(GENES)} genes",
        "vocabulary",
        "control cells",
    ):
        assert text in leaks


def test_storage_changes_no_number(tmp_path: Path) -> None:
    """Dense, CSR and CSC files give equal batches, but for the last digit of a sum."""
    batches = []
    for form, convert in FORMS.items():
        source = read(saved(tmp_path / f"{form}.h5ad", adata(form=convert)), covariates=("kind",)).open()
        batches.append(source.split("train", Streams(0)).batch(0, 0))
    for batch in batches[1:]:
        assert batch.units == batches[0].units
        for name, field in batch.fields.items():
            np.testing.assert_allclose(field, batches[0].fields[name], rtol=1e-6)


def test_doses_are_told_and_not_matched(tmp_path: Path) -> None:
    """A dose is a covariate of perturbed cells; their control cells need none."""
    data = adata()
    dose = np.where(np.arange(len(data)) % 2, "1", "10").astype(object)
    dose[(data.obs["condition"] == "ctrl").to_numpy()] = None
    data.obs["dose"] = dose
    source = read(saved(tmp_path / "dosed.h5ad", data), dose="dose", covariates=("none",)).open()
    assert source.names("dose") == ("1", "10")
    units = {name: unit for split in ("train", "valid", "test") for name, unit in whole(source, split).items()}
    assert {"control|unknown", "A|1", "A|10"} <= units.keys()
    assert set(units["A|10"].fields["covariate"].flatten().tolist()) == {1}
    assert set(units["control|unknown"].fields["covariate"].flatten().tolist()) == {-1}


def test_units_without_a_second_cell_can_be_left_out(tmp_path: Path) -> None:
    """`few = drop` leaves single cells out and says so."""
    data = adata()
    data.obs["condition"] = data.obs["condition"].astype(object)
    data.obs.iloc[6, 0] = "lonely"
    source = read(saved(tmp_path / "few.h5ad", data), few="drop").open()
    assert source.describe().facts["left_out"] == ["lonely"]
    assert source.table.cells == len(data) - 1
    assert min(source.table.counts().values()) >= LEAST
    assert "lonely" not in source.names("perturbations")


def test_a_system_opens_a_file_by_its_own_reader() -> None:
    """A row that serves the chosen system is asked first, then those of no system; a name still chooses any."""
    registry = installed()
    rows = {name: registry.find("data", "a.h5ad", system=name).row.name for name in ("perturb", "spatial")}
    assert rows == {"perturb": "perturb_h5ad", "spatial": "h5ad"}
    assert registry.find("data", "a.h5ad").row.name == "h5ad"
    assert registry.find("data", "perturb_h5ad", system="spatial").row.name == "perturb_h5ad"


class TestSimulator:
    """What `screen` promises of its truth."""

    def effects(self, **changes: Any) -> tuple[dict[str, np.ndarray], Any]:
        data = simulated(genes=30, modules=3, types=2, **changes)
        _, law = data._simulate()
        return {"+".join(members): law.effect(members, 1) for members in data.conditions()}, law

    def test_doubles_add_up_without_epistasis(self) -> None:
        """Without interaction and shift a double's effect is the sum; with a shift it is counted once; else neither."""
        plain, _ = self.effects(epistasis=0.0, shift=0.0)
        shifted, law = self.effects(epistasis=0.0)
        bent, _ = self.effects(shift=0.0)
        for name in [name for name in plain if "+" in name]:
            one, other = name.split("+")
            np.testing.assert_allclose(plain[name], plain[one] + plain[other], atol=1e-12)
            np.testing.assert_allclose(shifted[name], shifted[one] + shifted[other] - law.shift_G, atol=1e-12)
        gaps = [np.abs(bent[n] - sum(bent[one] for one in n.split("+"))).max() for n in bent if "+" in n]
        assert np.mean(np.array(gaps) > 1e-6) > 0.5

    def test_effects_are_of_few_dimensions(self) -> None:
        """But for a gene's own rise and the shift, effects of all conditions span the modules."""
        data = simulated(genes=30, modules=3, shift=0.0)
        _, law = data._simulate()
        plain = attrs.evolve(law, own_SG=np.zeros_like(law.own_SG))
        assert np.linalg.matrix_rank(np.stack([plain.effect(m, 0) for m in data.conditions()]), tol=1e-8) == 3

    def test_cells_follow_the_law(self) -> None:
        """Means of many cells are those of the law: library size, zeros on top, cells that were missed."""
        _, law = self.effects(wobble=1e-6, efficacy=0.7)
        law = attrs.evolve(law, wobble=0.0)
        rng = generator("test", 0)
        members = next(iter(law.place))
        counts = law.draw((members,), 0, 40000, rng)
        base = np.exp(law.base_G)
        reached, missed = base * np.exp(law.effect((members,), 0)), base
        wanted = law.depth * (1 - law.dropout) * (0.7 * reached + 0.3 * missed) / base.sum()
        np.testing.assert_allclose(counts.mean(0), wanted, rtol=0.05)
        assert (counts == 0).mean() > law.dropout

    def test_the_oracle_draws_from_the_law_of_the_data(self) -> None:
        """Fresh cells have mean and zeros of the condition's own cells, within sampling error, and are others."""
        source = simulated(genes=30, cells=400, doubles=6).open()
        for unit in source.split("test", Streams(0)).units():
            truth, fresh = unit.fields["expression"][0].numpy(), source.oracle(unit)["expression"]
            error = np.sqrt((truth.var(0) + fresh.var(0)) / len(truth))
            assert (np.abs(truth.mean(0) - fresh.mean(0)) < 5 * error).all()
            assert np.abs((truth == 0).mean(0) - (fresh == 0).mean(0)).max() < 0.15
            assert not np.array_equal(truth, fresh)

    def test_perturbed_cells_share_a_shift(self) -> None:
        """With a shift, effects point alike; without it, hardly."""

        def alike(shift: float) -> float:
            effects, _ = self.effects(shift=shift, epistasis=0.0)
            stacked = np.stack([effect for name, effect in effects.items() if name and "+" not in name])
            unit = stacked / np.linalg.norm(stacked, axis=1, keepdims=True)
            return float((unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean())

        assert alike(1.5) > alike(0.0) + 0.3

    def test_pairs_are_spread(self) -> None:
        """Each perturbation is in about as many doubles as any other, and no double comes twice."""
        doubles = [members for members in simulated(singles=8, doubles=20).conditions() if len(members) == 2]
        assert len(set(doubles)) == 20
        used = Counter(name for members in doubles for name in members)
        assert max(used.values()) - min(used.values()) <= 2

    @pytest.mark.parametrize(
        ("knobs", "says"),
        [({"singles": 17}, "perturbations are genes"), ({"doubles": 29}, "make 28 pairs")],
    )
    def test_impossible_screens_are_refused(self, knobs: dict, says: str) -> None:
        """More perturbations than genes, more doubles than pairs."""
        with pytest.raises(ValueError, match=says):
            simulated(**knobs)

    def test_more_than_memory_is_refused(self) -> None:
        """Before anything is drawn."""
        with pytest.raises(UserError, match="more than the simulator holds"):
            simulated(cells=10**8).open()
