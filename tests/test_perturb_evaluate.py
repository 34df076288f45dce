"""`core evaluate PREDICTED REAL`: two files, no model."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from core import hdf5
from core.cli import main
from realdata import realdata
from tests.made_screens import GENES, GOLDEN, screen

FEW = "pearson_delta,mse,overlap_at_n,centroid_accuracy"


def table(groups: dict[str, np.ndarray], genes: tuple[str, ...] = GENES, column: str = "condition") -> anndata.AnnData:
    """Cells with their condition, in the order given."""
    obs = pd.DataFrame({column: [name for name, cells in groups.items() for _ in cells]})
    obs.index = obs.index.astype(str)
    return anndata.AnnData(np.concatenate([*groups.values()]), obs, pd.DataFrame(index=[*genes]))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`p.h5ad`, `r.h5ad`: the made screen, all conditions predicted; `some.h5ad`: four of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("plugins.systems.perturb.files.probe", lambda path: None)
    controls, real, predicted = screen()
    table({"ctrl": controls, **real}).write_h5ad("r.h5ad")
    table(predicted).write_h5ad("p.h5ad")
    table({name: predicted[name] for name in ("G4", "G5", "G8", "G1+G2")}).write_h5ad("some.h5ad")
    return tmp_path


def scores(path: Path) -> dict[tuple[str, str], dict]:
    """Scores of the first stratum by arm and metric."""
    doc = json.loads(path.read_text())
    return {(s["arm"], s["metric"]): s for s in doc["strata"][0]["scores"]}


def test_figures_of_cell_eval(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All metrics of two files are those of cell-eval; the table by condition holds them."""
    assert main(["evaluate", "p.h5ad", "r.h5ad", "--metrics", "all", "--no-ceiling", "-o", "out.json"]) == 0
    found = scores(files / "out.json")
    names = sorted(screen()[1])
    for metric, values in GOLDEN.items():
        by_condition = found["model", metric]["by_condition"]
        if len(values) == 1:
            assert found["model", metric]["value"] == pytest.approx(values[0], abs=1e-6)
            continue
        for name, value in zip(names, values, strict=True):
            assert by_condition.get(name) == (None if value is None else pytest.approx(value, abs=1e-6))
    with (files / "out.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert {row["condition"] for row in rows} == {*names}
    assert {row["arm"] for row in rows} == {"model", "control mean", "control resample"}
    told = capsys.readouterr().out
    assert "pearson_delta ↑" in told
    assert "only controls stand" in told
    assert "pearson_perturbed is left out" in told


def test_baselines_and_ceiling(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conditions that are not predicted train the baselines; the ceiling stands above what is simple."""
    assert main(["evaluate", "some.h5ad", "r.h5ad", "--metrics", FEW, "-o", "out.json"]) == 0
    doc = json.loads((files / "out.json").read_text())
    stratum = doc["strata"][0]
    assert stratum["baseline"] == "perturbed mean"
    assert len({s["arm"] for s in stratum["scores"]}) == 11
    assert stratum["ceiling"]["pearson_delta"] > scores(files / "out.json")["perturbed mean", "pearson_delta"]["value"]
    assert scores(files / "out.json")["model", "pearson_delta"]["calibrated"] > 0.5
    told = capsys.readouterr().out
    assert "4 real conditions are not predicted (G1, G2, G3, G7)" in told
    assert "additive: G4 not seen alone" in told


def test_what_must_not_matter(files: Path) -> None:
    """Order of cells and genes, spelling of conditions, sparse storage and predicted controls change no score."""
    _, _, predicted = screen()
    rng = np.random.default_rng(0)
    spelled = {"G1+G2": "G2+G1", "G4": "G4+ctrl", "G8": "control+G8"}
    other = {spelled.get(name, name): rng.permutation(predicted[name]) for name in ("G8", "G4", "G1+G2", "G5")}
    other["non-targeting"] = screen()[0] * np.float32(1.3)
    moved = table(other, column="perturbation")
    moved.X = sp.csc_matrix(moved.X)
    moved = moved[rng.permutation(len(moved)), rng.permutation(len(GENES))].copy()
    moved.write_h5ad("moved.h5ad")
    real = anndata.read_h5ad("r.h5ad")
    real.obs["perturbation"] = real.obs.pop("condition")
    real.write_h5ad("real.h5ad")
    words = ["--metrics", FEW, "--no-baselines", "--no-ceiling"]
    assert main(["evaluate", "some.h5ad", "r.h5ad", *words, "-o", "a.json"]) == 0
    assert main(["evaluate", *words, "moved.h5ad", "real.h5ad", "-o", "b.json"]) == 0
    a, b = scores(files / "a.json"), scores(files / "b.json")
    assert a.keys() == b.keys()
    for place, one in a.items():
        assert one["by_condition"] == pytest.approx(b[place]["by_condition"], abs=1e-9)


def test_real_against_itself(files: Path) -> None:
    """The real cells as a prediction have the best value of every metric; names of files do not matter."""
    assert main(["evaluate", "cells", "r.h5ad", "r.h5ad", "--no-ceiling", "-o", "out.json"]) == 0
    found = {metric: s for (arm, metric), s in scores(files / "out.json").items() if arm == "model"}
    for metric, s in found.items():
        nothing_differs = metric in ("overlap_at_N", "precision_at_N")  # one condition has no effect
        if s["best"] is not None and not nothing_differs:
            assert s["value"] == pytest.approx(s["best"], abs=1e-9), metric


def test_common_genes(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Genes are matched by name; what one side lacks is told and not judged."""
    predicted = anndata.read_h5ad("some.h5ad")
    predicted = predicted[:, [*GENES[::-1][:-10]]].copy()
    predicted.var_names = [*predicted.var_names[:-1], "other"]
    predicted.write_h5ad("few.h5ad")
    assert main(["evaluate", "few.h5ad", "r.h5ad", "--metrics", "mse", "--no-ceiling", "-o", "out.json"]) == 0
    told = capsys.readouterr().out
    assert "11 of 70 real genes are not predicted (G0, G1, G2, G3, G4 and 6 more) and not judged" in told
    assert "1 predicted genes are not in r.h5ad and not judged" in told
    assert json.loads((files / "out.json").read_text())["genes"] == 59


def test_strata(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each stratum is judged by its own controls; one without controls is left out with a sentence."""
    controls, real, predicted = screen()
    whole = {"ctrl": controls, **real}
    made = anndata.concat([table(whole), table(real), table(whole)], index_unique="-", keys=["a", "b", "c"])
    sizes = [len(controls) + 24 * 8, 24 * 8, len(controls) + 24 * 8]
    made.obs["line"] = np.repeat(["K562", "lost", "A549"], sizes)
    made.write_h5ad("lines.h5ad")
    mine = anndata.concat([table(predicted)] * 3, index_unique="-", keys=["a", "b", "c"])
    mine.obs["line"] = np.repeat(["A549", "K562", "lost"], 24 * 8)
    mine.write_h5ad("mine.h5ad")
    words = ["evaluate", "mine.h5ad", "lines.h5ad", "--stratum", "line", "--metrics", "mse", "--no-ceiling"]
    assert main([*words, "-o", "out.json"]) == 0
    doc = json.loads((files / "out.json").read_text())
    assert [s["stratum"] for s in doc["strata"]] == ["A549", "K562"]
    first, second = (s["scores"][0]["value"] for s in doc["strata"])
    assert first == pytest.approx(second)
    assert "lost is left out: no real controls" in capsys.readouterr().out


def test_counts(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Surplus predicted cells are drawn out unless they are to be kept; counts become log1p where a total is given."""
    _, _, predicted = screen()
    table({name: np.concatenate([cells, cells]) for name, cells in predicted.items()}).write_h5ad("twice.h5ad")
    words = ["evaluate", "twice.h5ad", "r.h5ad", "--metrics", "mse,de_nsig_counts_pred", "--no-ceiling"]
    assert main(words) == 0
    assert "another number of predicted" not in capsys.readouterr().out
    assert main([*words, "--counts", "keep"]) == 0
    assert "G4 (48 for 24)" in capsys.readouterr().out
    raw = {name: np.round(np.expm1(cells)) * 20 for name, cells in predicted.items()}
    table(raw).write_h5ad("raw.h5ad")
    words[1] = "raw.h5ad"
    assert main(words) == 2
    assert "holds counts and no log1p" in capsys.readouterr().err
    assert main([*words, "--total", "10000"]) == 0


def broken(name: str) -> None:
    """Write a file that cannot be used."""
    some = anndata.read_h5ad("some.h5ad")
    x = np.array(some.X)
    if name == "nan":
        x[3, 2] = np.nan
    if name == "negative":
        x[0, 0] = -0.5
    some.X = x
    if name == "twice":
        some.var_names = ["G1", "G1", *GENES[2:]]
    if name == "genes":
        some.var_names = [f"ENSG{i}" for i in range(len(GENES))]
    if name == "unknown":
        some.obs["condition"] = "G99"
    if name == "missing":
        some.obs["condition"] = some.obs["condition"].astype(str).where(np.arange(len(some)) > 0, None)
    if name == "column":
        some.obs["pert"] = some.obs.pop("condition")
    if name == "controls":
        some.obs["condition"] = "ctrl"
    some.write_h5ad("bad.h5ad")


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "missing or not finite"), ("negative", "goes down to -0.5"), ("twice", "more than once (G1)"),
        ("genes", "share no gene by name"), ("unknown", "share no perturbed condition"),
        ("missing", "is missing in 1 of 96 cells"), ("column", "--condition"), ("controls", "share no perturbed"),
    ],
)  # fmt: skip
def test_unusable_files(files: Path, capsys: pytest.CaptureFixture[str], fault: str, said: str) -> None:
    """What cannot be compared ends with status 2 and one sentence, and nothing is written."""
    broken(fault)
    assert main(["evaluate", "bad.h5ad", "r.h5ad", "-o", "out.json"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told
    assert not (files / "out.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["p.h5ad"], "takes two"), (["p.h5ad", "r.h5ad", "q.h5ad"], "not 3 (p.h5ad, r.h5ad, q.h5ad)"),
        (["p.h5ad", "r.h5ad", "--ceiling", "false"], "behind =, as in --ceiling=false"),
        (["q.h5ad", "r.h5ad"], "does not exist"), (["p.h5ad", "text.h5ad"], "cannot be read as an h5ad file"),
       (["r.h5ad", "p.h5ad"], "no control cells"),
        (["p.h5ad", "r.h5ad", "--metrics", "pearson_dlta"], "pearson_delta"),
        (["p.h5ad", "r.h5ad", "--metrics", "rssd"], "does not fit where a GroupMetric is asked for"),
        (["p.h5ad", "r.h5ad", "--layer", "raw"], "its layers: none"),
        (["p.h5ad", "r.h5ad", "--condition", "conditon"], "condition"), (["p.h5ad", "r.h5ad", "-o", "x.csv"], ".json"),
        (["p.h5ad", "r.h5ad", "-o", "no/x.json"], "there is no folder"),
        (["p.h5ad", "r.h5ad", "--tota", "3"], "--total"),
        (["p.h5ad", "r.h5ad", "--counts", "cut"], "expected match|keep"), (["runs/none"], "runs/none"),
    ],
)  # fmt: skip
def test_mistakes(files: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    """A wrong command line is one sentence and status 2."""
    (files / "text.h5ad").write_text("these are no cells\n")
    assert main(["evaluate", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


@pytest.mark.parametrize("there", ["out.json", "out.csv"])
def test_scores_are_written_over_only_with_force(files: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    """Neither of the two files that -o stands for is lost without --force, which does nothing else."""
    words = ["evaluate", "some.h5ad", "r.h5ad", "--metrics", "mse", "--no-ceiling", "--no-baselines"]
    Path(there).write_text("mine")
    assert main([*words, "-o", "out.json"]) == 2
    told = capsys.readouterr().err
    assert f"-o {there} is there already" in told
    assert "--force" in told
    assert [path.read_text() for path in files.glob("out.*")] == ["mine"]
    assert main([*words, "-o", "out.json", "--force"]) == 0
    assert main([*words, "-o", "new.json"]) == 0
    first, second = (json.loads(Path(name).read_text()) for name in ("out.json", "new.json"))
    assert first | {"out": ""} == second | {"out": ""}
    assert Path("out.csv").read_text() == Path("new.csv").read_text()
    assert main([*words, "--force"]) == 2
    assert "none is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("look", "said"), [("while True: pass", "did not end within"), ("import os; os.abort()", "crashed")]
)
def test_damage_is_looked_for_first(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, look: str, said: str
) -> None:
    """A file whose structure hangs or crashes the HDF5 library takes a process of its own with it, and no more."""
    monkeypatch.setattr("plugins.systems.perturb.files.probe", hdf5.probe)
    monkeypatch.setattr(hdf5, "PROBE", look)
    monkeypatch.setattr(hdf5, "PROBE_SECONDS", 0.2 if "while" in look else 60.0)
    assert main(["evaluate", "p.h5ad", "r.h5ad", "-o", "out.json"]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "it is damaged" in told
    assert not (files / "out.json").exists()


def test_labels_are_read_as_training_data_are(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One more label of controls, in any case, and a label that is none."""
    some = anndata.read_h5ad("some.h5ad")
    some.obs["condition"] = some.obs["condition"].astype(str).replace({"G4": "Vehicle+G4", "G1+G2": "G2+ctrl+G1"})
    some.write_h5ad("said.h5ad")
    words = ["--metrics", "mse", "--no-ceiling", "--no-baselines", "-o"]
    assert main(["evaluate", "said.h5ad", "r.h5ad", "--control", "vehicle", *words, "a.json"]) == 0
    assert main(["evaluate", "some.h5ad", "r.h5ad", *words, "b.json"]) == 0
    key = ("model", "mse")
    assert scores(files / "a.json")[key]["by_condition"] == scores(files / "b.json")[key]["by_condition"]
    some.obs["condition"] = some.obs["condition"].astype(str).replace({"G5": "G5+"})
    some.write_h5ad("said.h5ad")
    assert main(["evaluate", "said.h5ad", "r.h5ad"]) == 2
    assert "the label 'G5+' names a perturbation without a name" in capsys.readouterr().err


def test_each_file_may_call_its_conditions_otherwise(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predictions say `condition`, real cells what they say: a usual name is found, another is given."""
    real = anndata.read_h5ad("r.h5ad")
    words = ["--metrics", "mse", "--no-ceiling", "--no-baselines", "-o"]
    assert main(["evaluate", "some.h5ad", "r.h5ad", *words, "a.json"]) == 0
    for name, more in (("perturbation", []), ("what", ["--condition", "what"])):
        other = real.copy()
        other.obs = real.obs.rename(columns={"condition": name})
        other.write_h5ad("other.h5ad")
        assert main(["evaluate", "some.h5ad", "other.h5ad", *more, *words, "b.json", "--force"]) == 0
        assert f"obs['condition'] of some.h5ad, obs['{name}'] of other.h5ad" in capsys.readouterr().out
        assert scores(files / "b.json") == scores(files / "a.json")
    assert main(["evaluate", "some.h5ad", "other.h5ad"]) == 2
    assert "other.h5ad has none of the columns condition, " in capsys.readouterr().err


def test_another_hdf5_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of HDF5 that holds no cells is no AnnData file."""
    with h5py.File("other.h5ad", "w") as file:
        file["matrix"] = np.zeros(3)
    assert main(["evaluate", "other.h5ad", "r.h5ad"]) == 2
    assert "cannot be read as an h5ad file" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways to evaluate are told, and the flags of the second."""
    assert main(["evaluate", "--help"]) == 0
    assert "core evaluate PREDICTED REAL" in capsys.readouterr().out
    assert main(["evaluate", "cells", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--stratum" in told
    assert "--no-ceiling" in told


@pytest.mark.realdata
def test_replicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One replicate of a screen tells strong effects of the other apart, as the perturbed mean cannot."""
    whole = anndata.read_h5ad(realdata("perturbation", "papalexi2021_rep1_rep2.h5ad"))
    monkeypatch.chdir(tmp_path)
    first, second = (whole[whole.obs["bio_rep"] == rep].copy() for rep in ("rep_1", "rep_2"))
    names = ["BRD4", "IFNGR1", "IFNGR2", "IRF1", "JAK2", "SMAD4", "STAT1", "STAT2"]
    first[first.obs["perturbation"].isin(names)].copy().write_h5ad("one.h5ad")
    second.write_h5ad("two.h5ad")
    words = ["--total", "10000", "--metrics", "centroid_accuracy,overlap_at_n,pearson_perturbed", "-o", "out.json"]
    assert main(["evaluate", "one.h5ad", "two.h5ad", *words]) == 0
    found = scores(tmp_path / "out.json")
    for metric in ("centroid_accuracy", "overlap_at_N", "pearson_perturbed"):
        assert found["model", metric]["value"] > found["perturbed mean", metric]["value"]
