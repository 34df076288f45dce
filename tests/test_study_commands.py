"""`core ablate` commands that plan real cells: extended, confirmed, refused; nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import core.cli.ablate.change
import core.cli.ablate.run
import core.study.arms
from core.study.folder import read
from core.study.mismatch import seeds_text
from core.study.table import Table
from core.train.cost import Cost
from made import put, scores
from small import SMALL

WORDS = (*SMALL, "--train.steps=4", "--ffn", "dense,moe4x2")


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cuts, no counting of costs, and nothing is run: the command ends where runners would start."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr(
        core.study.arms, "counted", lambda system, card, flops: Cost(parameters=1, active=1, flops=1, by_part={})
    )
    monkeypatch.setattr(core.cli.ablate.run, "go", lambda root, over, quiet: 0)


@pytest.fixture
def ablate(core: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *words: core("ablate", *map(str, words))


def cells(root: Path) -> dict[str, str]:
    """Arm -> its seeds."""
    stored = read(root)
    return {
        arm["label"]: seeds_text(sorted(t.seed for t in stored.trials if t.arm == arm["label"])) for arm in stored.arms
    }


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_extending_adds_and_keeps(ablate: Callable[..., Any], tmp_path: Path) -> None:
    """More seeds, then one more level over all seeds; every trial stays, less is refused, the same again is nothing."""
    root = tmp_path / "s"
    assert ablate(*WORDS, "--seeds", "2", "-o", root, "-q").code == 0
    assert ablate(*WORDS, "--seeds", "2", "-o", root, "-q").code == 0
    first = read(root)
    put(Table(root), first.trials[0].id, scores(1.0))
    said = ablate("extend", root, "--seeds", "3")
    assert (said.code, said.out) == (0, f"2 trials were added; `core ablate work {root}` runs them\n")
    assert ablate("extend", root, "--ffn", "+moe4x4").out.startswith("3 trials were added")
    assert cells(root) == {"ffn=dense": "3", "ffn=moe4x2": "3", "ffn=moe4x4": "3"}
    stored = read(root)
    assert {t.id for t in first.trials} < {t.id for t in stored.trials} == {*Table(root).ids()}
    assert stored.axes == {"ffn": ["dense", "moe4x2", "moe4x4"]}
    assert stored.later[0]["text"] == (
        "2 trials were added (--seeds 3) when 1 of 4 results were known; a decision to go on that rests on "
        "results makes p values too small"
    )
    before = files(root)
    assert ablate("extend", root, "--seeds", "3").out == "nothing new: every trial of this is planned already\n"
    assert files(root) == before
    said = ablate("extend", root, "--seeds", "2")
    assert said.code == 4
    assert "3 trials of" in said.err
    assert ablate(*WORDS, "--seeds", "2", "-o", root, "-q").code == 0
    assert ablate(*SMALL, "--train.steps=4", "--ffn", "moe4x4,dense,moe4x2", "--seeds", "3", "-o", root, "-q").code == 0
    assert {*files(root)} == {*before}
    said = ablate(*WORDS, "--seeds", "5", "-o", root, "-q")
    assert (said.code, said.err.startswith(f"core: E-PLAN: {root} was planned otherwise: seeds: the plan has 2")) == (
        4,
        True,
    )


def test_an_extension_that_was_killed_is_completed_by_the_same_command(
    ablate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the plan's addition and the table's, `extend` again adds what is missing."""

    class Killed(BaseException):
        """Stands for SIGKILL."""

    def killed(self: Table, identities: Any) -> None:
        raise Killed

    root = tmp_path / "s"
    assert ablate(*WORDS, "--seeds", "2", "-o", root, "-q").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(Table, "add", killed)
        with pytest.raises(Killed):
            ablate("extend", root, "--seeds", "3")
    assert ablate("status", root).code == 4
    assert ablate("extend", root, "--seeds", "3").code == 0
    assert ablate("status", root).code == 3
    assert len(Table(root).ids()) == 6


def test_confirming_plans_fresh_seeds_of_one_arm(ablate: Callable[..., Any], tmp_path: Path) -> None:
    """The arm and the baseline alone, on seeds that the study has not seen; the same command finds it again."""
    root = tmp_path / "s"
    words = (*SMALL, "--train.steps=4", "--ffn", "dense,moe4x2,moe4x4", "--seeds", "2")
    assert ablate(*words, "-o", root, "-q").code == 0
    for _ in range(2):
        assert ablate("confirm", root, "--arm", "ffn=moe4x4", "--seeds", "3").code == 0
    (inner,) = root.glob("confirm-*")
    assert cells(inner) == {"ffn=dense": "2:5", "ffn=moe4x4": "2:5"}
    assert not {t.id for t in read(inner).trials} & {t.id for t in read(root).trials}
    assert ablate("confirm", root, "--arm", "ffn=moe4x4", "--seeds", "7,9").code == 0
    assert len([*root.glob("confirm-*")]) == 2


def test_a_dry_run_writes_nothing(ablate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints cells, trials and power."""
    monkeypatch.chdir(tmp_path)
    said = ablate(*WORDS, "--seeds", "5", "--dry-run")
    assert said.code == 0
    assert "2 cells x 5 seeds = 10 trials" in said.out
    assert "power       5 pairs, 1 contrast: 80% chance to find a difference of 1.68 standard deviations" in said.out
    assert not [*tmp_path.iterdir()]


def test_too_little_power_is_refused_on_request(ablate: Callable[..., Any], tmp_path: Path) -> None:
    """E-POWER is 7 and writes nothing."""
    said = ablate(*WORDS, "--seeds", "3", "--require-power", "-o", tmp_path / "s")
    assert said.code == 7
    assert said.err == (
        "core: E-POWER: 3 seeds over 1 contrast find no difference below 3.26 standard deviations;"
        " --require-power asks for 2. Give more --seeds, or fewer arms\n"
    )
    assert not (tmp_path / "s").exists()
    assert ablate(*WORDS, "--seeds", "6", "--require-power", "-o", tmp_path / "s", "-q").code == 0


def test_a_budget_that_cannot_be_matched_ends_with_6(
    ablate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E-BUDGET; nothing is written."""
    costs = count(100, 50)
    monkeypatch.setattr(
        core.study.arms, "counted", lambda *_: Cost(parameters=next(costs), active=1, flops=1, by_part={})
    )
    said = ablate(*WORDS, "--seeds", "1", "--match", "params", "--match-on", "residual", "-o", tmp_path / "s")
    assert said.code == 6
    assert said.err.startswith("core: E-BUDGET: ffn=moe4x2 has no number residual that could be turned")
    costs = count(100, 50)
    said = ablate(*WORDS, "--seeds", "1", "--match", "params", "--match-on", "widht", "-o", tmp_path / "s")
    assert (said.code, said.err) == (
        2,
        "core: --match-on: ffn=moe4x2 has no parameter 'widht'. Did you mean 'width'?\n",
    )
    assert not (tmp_path / "s").exists()


def test_a_changed_analysis_of_the_same_command_is_written_down(ablate: Callable[..., Any], tmp_path: Path) -> None:
    """`--alpha` given anew on the same study is a deviation, once."""
    root = tmp_path / "s"
    for alpha in ("0.05", "0.01", "0.01"):
        assert ablate(*WORDS, "--seeds", "2", "--alpha", alpha, "-o", root, "-q").code == 0
    assert [more["text"] for more in read(root).later] == [
        "the analysis was changed when 0 of 4 results were known: analysis.alpha from 0.05 to 0.01"
    ]
    assert read(root).value("analysis.alpha") == 0.01


def test_the_environment_is_part_of_a_study(
    ablate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Extending without the variable that the plan was made with keeps its value; another value is another study."""
    root = tmp_path / "s"
    monkeypatch.setenv("CORE_DROPOUT", "0.2")
    assert ablate(*WORDS, "--seeds", "2", "-o", root, "-q").code == 0
    monkeypatch.delenv("CORE_DROPOUT")
    assert ablate("extend", root, "--seeds", "3").code == 0
    assert cells(root) == {"ffn=dense": "3", "ffn=moe4x2": "3"}
    said = ablate(*WORDS, "--seeds", "2", "-o", root, "-q")
    assert said.code == 4
    assert "is configured otherwise (dropout = 0.1" in said.err
