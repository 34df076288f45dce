"""`core ablate` and its verbs on studies made by hand: what they print, how they end, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import core.cli.ablate.report
import core.cli.ablate.run
import core.study.drive
from core.cli.ablate import HELP, VERBS
from core.cli.ablate.usage import USAGE
from core.study.drive import Ways, rung_of, seconds_of, verdicts_at_rung
from core.study.drive import ways as ways_of
from core.study.folder import append, read
from core.study.sealed import seal
from core.study.steps import claim, finish
from core.study.table import Table
from core.study.trial import State
from core.study.work import interim_identity
from fakes import command, python
from made import fail, fill, made, put, scores


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def ablate(core: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *words: core("ablate", *map(str, words))


def told(root: Path, table: Table, stored: Any) -> None:
    """Half of the study done, one failed for good, one in its first failed attempt."""
    for i, trial in enumerate(stored.trials):
        if i < 6:
            put(table, trial.id, scores(1.0 + i), seconds_per_step=0.5)
        elif i == 6:
            fail(table, trial.id)
            fail(table, trial.id, how="crashed")
        elif i == 7:
            fail(table, trial.id)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


class TestWords:
    """What is no verb, no directory or no flag."""

    def test_help(self, ablate: Callable[..., Any]) -> None:
        """Help ends with 0 wherever it is asked, and names every verb and every flag of a study."""
        for words in (["--help"], ["-h"], ["help"], *([verb, "--help"] for verb in VERBS)):
            said = ablate(*words)
            text = USAGE.get(words[0], HELP)
            assert (said.code, said.out) == (0, text + "\n")
            assert text.startswith("usage: core ablate")
        assert {*VERBS} == {*USAGE, "run", "trial"}
        from core.study.said import FLAGS

        absent = {"name"} | {flag for flag in FLAGS if f"--{flag.replace('_', '-')}" not in HELP}
        assert absent == {"name"}
        assert all(verb in HELP for verb in VERBS if verb != "trial")

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (
                ["staus", "x"],
                "`core ablate` has no verb 'staus'. Did you mean 'status'? Verbs: plan, run, work, status, ",
            ),
            (["frobnicate"], "`core ablate` has no verb 'frobnicate'. Verbs: plan, run"),
            (["status"], "which study? usage: core ablate status DIR"),
            (["gc"], "which study? usage: core ablate gc DIR"),
            (["extend"], "which study? usage: core ablate extend DIR --seeds 10, or --attention +NAME"),
            (["status", "nowhere"], "E-STUDY: nowhere holds no study (no plan.json). `core ablate` begins one"),
            (["work", "nowhere"], "E-STUDY: nowhere holds no study"),
            (["show", "nowhere", "ab"], "E-STUDY: nowhere holds no study"),
            (["report", "nowhere"], "E-STUDY: nowhere holds no study"),
            (["extend", "nowhere", "--seeds", "8"], "E-STUDY: nowhere holds no study"),
            (["confirm", "nowhere"], "E-STUDY: nowhere holds no study"),
            (["slurm", "nowhere"], "E-STUDY: nowhere holds no study"),
            (["retry", "nowhere"], "E-STUDY: nowhere holds no study"),
            (["status", "a", "b"], "`core ablate status` takes one directory, not 'b' too"),
            (["gc", "a", "b"], "`core ablate gc` takes one directory, not 'b' too"),
            (["status", "a", "--jsn"], "`core ablate status` has no --jsn; it takes --json, -q, --quiet"),
            (["diff", "a"], "which two studies? usage: core ablate diff DIR DIR"),
            (["show", "a"], "which trial? usage: core ablate show DIR ID"),
            (["a.toml", "b.toml"], "one study file at a time, not a.toml and b.toml"),
            (["nowhere.toml"], "no file nowhere.toml."),
            (["plan", "--quick", "--seeds", "3"], "nothing varies: give at least one parameter two values"),
            (["--attention", "linear"], "nothing varies: give at least one parameter two values"),
            (
                ["--attention", "lineer,softmax"],
                "CLI --attention: no attention is called 'lineer'. Did you mean 'linear'?",
            ),
            (
                ["plan", "--attention", "linear,softmax", "--seed", "3"],
                "a study has seeds of its own: --seeds 6, not --seed (CLI --seed)",
            ),
        ],
    )
    def test_mistakes(
        self, ablate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], text: str
    ) -> None:
        """A mistake ends with 2, or the code of its name, and one sentence; nothing is written."""
        monkeypatch.chdir(tmp_path)
        said = ablate(*words)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"core: {text}"), said.err
        assert not [*tmp_path.iterdir()]

    def test_errors_have_exit_codes(self, ablate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
        """E-PLAN is 4, E-NOSLOT 5, E-BUDGET 6, E-POWER 7; whatever else a user did is 2."""
        from core.errors import UserError

        for text, code in {
            "E-PLAN: x": 4,
            "E-NOSLOT: x": 5,
            "E-BUDGET: x": 6,
            "E-POWER: x": 7,
            "E-DAMAGED: x": 2,
            "x": 2,
        }.items():

            def raising(words: list[str], text: str = text) -> int:
                raise UserError(text)

            monkeypatch.setattr(core.cli.ablate.run, "run", raising)
            assert ablate("run").code == code


class TestLook:
    """Verbs that only read."""

    def test_status_of_an_unfinished_study(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """Counts by state, which trials failed, 3 while anything is open; the same as JSON; nothing is written."""
        stored, table = made(tmp_path)
        told(tmp_path, table, stored)
        before = files(tmp_path)
        said = ablate("status", tmp_path)
        assert said.code == 3
        assert "planned  12 trials: 6 done, 1 exhausted, 1 failed, 4 pending" in said.out
        assert f"exhausted {stored.trials[6].id} ffn=moe, seed 0, 2 attempts" in said.out
        doc = json.loads(ablate("status", tmp_path, "--json").out)
        assert (doc["planned"], sum(doc["states"].values()), doc["states"]["done"]) == (12, 12, 6)
        assert {t["id"] for t in doc["trials"]} == {t.id for t in stored.trials}
        assert files(tmp_path) == before

    def test_status_of_a_finished_study(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """0 where all is done."""
        stored, table = made(tmp_path)
        fill(table, stored, lambda t: 1.0)
        assert ablate("status", tmp_path).code == 0

    def test_status_of_a_half_planned_study(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """Trials that are in the plan and not yet in the table: what to do, and no traceback."""
        made(tmp_path)
        append(tmp_path, {"kind": "extended", "text": "x", "trials": [["0" * 16, "spatial", "ffn=moe", 9, ""]]})
        for verb in ("status", "work"):
            said = ablate(verb, tmp_path)
            assert said.code == 4
            assert "1 of 13 trials are not in its table yet; give the same command again" in said.err

    def test_a_damaged_plan(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """Every verb says so and touches nothing."""
        stored, _ = made(tmp_path)
        (tmp_path / "plan.json").write_bytes((tmp_path / "plan.json").read_bytes()[:-20])
        before = files(tmp_path)
        for words in (["status"], ["show", stored.trials[0].id], ["report"], ["work"], ["retry"], ["gc"], ["slurm"]):
            said = ablate(words[0], tmp_path, *words[1:])
            assert (said.code, said.err[:16]) == (2, "core: E-DAMAGED:")
        assert files(tmp_path) == before

    def test_a_newer_study(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """A directory of a newer version is not touched."""
        made(tmp_path)
        (tmp_path / "LAYOUT").write_bytes(seal({"layout": 99, "study": "x"}))
        for verb in ("status", "work", "retry", "gc"):
            said = ablate(verb, tmp_path)
            assert (said.code, said.err[:15]) == (2, "core: E-LAYOUT:")

    def test_show(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """One trial by the beginning of its id: arm, seed, state, scores, and the command that repeats it."""
        stored, table = made(tmp_path, blocks=("0", "1"), block_key="data.seed")
        trial = stored.trials[7]
        put(table, trial.id, scores(0.25) + scores(None, key="task/none"), code="abc")
        said = ablate("show", tmp_path, trial.id[:10])
        assert said.code == 0
        for text in (f"trial    {trial.id}  done, attempt 1 of 2", "seed     1, data.seed = 1", "task/score = 0.25",
                     "task/none = none", "measured code = abc", f"core run {tmp_path}/arms/"):  # fmt: skip
            assert text in said.out
        assert ablate("show", tmp_path, stored.trials[0].id).code == 0
        for word, count in (("zz", 0), ("", 24)):
            said = ablate("show", tmp_path, word)
            assert said.code == 2
            assert f"E-TRIAL: {count} trials of {tmp_path} begin with {word!r}" in said.err

    def test_diff(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """What two studies ask for differently, and whether trials of both agree."""
        a, one = made(tmp_path / "a")
        made(tmp_path / "b")
        assert ablate("diff", tmp_path / "a", tmp_path / "b").out.splitlines() == [
            "the two studies ask for the same",
            "12 trials in both, 0 of them with different results; 12 have no result in one of them yet",
        ]  # fmt: skip
        _, other = made(tmp_path / "c", axes={"ffn": ("dense", "moe", "none")}, seeds=range(8), analysis__alpha=0.01)
        put(one, a.trials[0].id, scores(1.0))
        put(other, a.trials[0].id, scores(2.0))
        said = ablate("diff", tmp_path / "a", tmp_path / "c")
        assert said.code == 1
        assert said.out.splitlines() == [
            "analysis.alpha: 0.05 | 0.01",
            "axes: ffn: dense, moe | ffn: dense, moe, none",
            "seeds: 0, 1, 2, 3, 4, 5 | 0, 1, 2, 3, 4, 5, 6, 7",
            f"arm ffn=none is only in {tmp_path / 'c'}",
            f"trial {a.trials[0].id} came to different results",
            "12 trials in both, 1 of them with different results; 11 have no result in one of them yet",
        ]
        for trial in [t.id for t in a.trials][1:]:
            put(one, trial, scores(1.0))
            put(other, trial, scores(1.0))
        broken = other.folder(a.trials[3].id) / "result.json"
        broken.write_bytes(broken.read_bytes()[:-5])
        lines = ablate("diff", tmp_path / "a", tmp_path / "c").out.splitlines()
        assert f"trial {a.trials[3].id} cannot be compared; damaged: {broken}" in lines
        assert lines[-1] == (
            "12 trials in both, 1 of them with different results; 1 could not be compared, as a result is damaged"
        )

    def test_slurm(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """A batch script of independent runners; a wrong number is told."""
        root = tmp_path / "my study"
        made(root)
        said = ablate("slurm", root, "--runners", "8", "--partition=gpu")
        assert said.code == 0
        assert "#SBATCH --array=1-8" in said.out
        assert "#SBATCH --partition=gpu" in said.out
        assert said.out.endswith(f"exec core ablate work '{root}'\n")
        assert ablate("slurm", root, "--runners", "0").code == 2


class TestChange:
    """Verbs that add or tidy."""

    def test_retry(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """All exhausted trials, those that ended in one way, or those named may be tried again; others are not."""
        stored, table = made(tmp_path)
        for trial, how in zip(stored.trials, ("failed", "crashed", "failed"), strict=False):
            fail(table, trial.id)
            fail(table, trial.id, how=how)
        states = lambda: [str(table.look(t.id).state) for t in stored.trials[:3]]  # noqa: E731
        assert ablate("retry", tmp_path, "--crashed").out.startswith("1 trials may be tried once more")
        assert states() == ["exhausted", "crashed", "exhausted"]
        assert ablate("retry", tmp_path, stored.trials[2].id[:12]).code == 0
        assert states() == ["exhausted", "crashed", "failed"]
        assert ablate("retry", tmp_path).out.startswith("1 trials")
        assert states() == ["failed", "crashed", "failed"]
        said = ablate("retry", tmp_path, "zz")
        assert (said.code, "0 trials" in said.err) == (2, True)

    def test_gc_keeps_what_is_needed(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """Files of runs that are done go, those of others and every result stay; a dry run removes nothing."""
        stored, table = made(tmp_path)
        done, open_one = stored.trials[0].id, stored.trials[1].id
        put(table, done, scores(1.0))
        fail(table, open_one)
        for trial in (done, open_one):
            (table.folder(trial) / "run").mkdir()
            (table.folder(trial) / "run" / "weights").write_bytes(b"x" * 2**20)
        before = files(tmp_path)
        assert ablate("gc", tmp_path, "--dry-run").out == "1.0 MiB would be freed\n"
        assert files(tmp_path) == before
        assert ablate("gc", tmp_path).out == "1.0 MiB were freed\n"
        assert {*before} - {*files(tmp_path)} == {f"trials/{done[:2]}/{done}/run/weights"}
        assert table.result(done) is not None

    def test_gc_keeps_weights_that_were_to_be_kept(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """A study that was told to keep the weights of finished trials keeps them."""
        stored, table = made(tmp_path, run__keep=True)
        put(table, stored.trials[0].id, scores(1.0))
        run = table.folder(stored.trials[0].id) / "run"
        run.mkdir()
        (run / "weights").write_bytes(b"x" * 2**20)
        assert ablate("gc", tmp_path).out == "0.0 MiB were freed\n"
        assert (run / "weights").exists()

    def test_the_analysis_may_change_and_is_written_down(
        self, ablate: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`report --alpha` applies, tells what was known, and says nothing twice; shares may be percentages."""
        monkeypatch.setattr(core.cli.ablate.report, "draw", lambda root, formats, out: 0)
        stored, table = made(tmp_path, systems=("spatial", "perturb"))
        both = [*scores(1.0, key="task/a"), *scores(1.0, key="task/b"), *scores(1.0)]
        put(table, stored.trials[0].id, both)
        for _ in range(2):
            assert ablate("report", tmp_path, "--alpha", "0.01", "--mde", "7%").code == 0
        now = read(tmp_path)
        assert (now.value("analysis.alpha"), now.value("analysis.mde")) == (0.01, 0.07)
        assert [more["text"] for more in now.later] == [
            "the analysis was changed when 1 of 24 results were known: analysis.alpha from 0.05 to 0.01; analysis.mde "
            "from 0.05 to 0.07"
        ]
        assert ablate("report", tmp_path, "--metric", "task/a,task/b").code == 0
        assert read(tmp_path).metrics == {"spatial": "task/a", "perturb": "task/b"}
        for words, text in {
            ("--metric", "a,b,c"): "--metric: 3 metrics for 2 systems; one for each",
            ("--metric", "task/aa"): "no score of spatial is called 'task/aa'. Did you mean 'task/a'? Scores: ",
            ("--alpha", "0.9"): "analysis.alpha: must be",
            ("--margin", "x"): "analysis.margin: expected float, got 'x'",
            ("--seeds", "8"): "`core ablate report` has no --seeds",
        }.items():
            said = ablate("report", tmp_path, *words)
            assert said.code == 2
            assert said.err.startswith(f"core: {text}"), said.err
        assert len(read(tmp_path).later) == 2

    def test_confirm_wants_an_arm_and_fresh_seeds(self, ablate: Callable[..., Any], tmp_path: Path) -> None:
        """The baseline and unknown arms are refused; so are seeds by which the arm was picked."""
        made(tmp_path, systems=("spatial", "perturb"))
        for arm, text in {
            "ffn=dense": "--arm: 'ffn=dense' is none of them. Did you mean 'ffn=moe'?",
            "ffn=meo": "--arm: 'ffn=meo' is none of them. Did you mean 'ffn=moe'? Arms beside the baseline: ffn=moe",
        }.items():
            said = ablate("confirm", tmp_path, "--arm", arm)
            assert said.code == 2
            assert said.err.startswith(f"core: {text}") or arm == "ffn=dense", said.err
        assert ablate("confirm", tmp_path).err == "core: --arm: say which. Arms beside the baseline: ffn=moe\n"
        said = ablate("confirm", tmp_path, "--arm", "ffn=moe", "--seeds", "4:8")
        assert said.err == (
            "core: --seeds: the study has used 4, 5; an arm that was picked by them is confirmed by others, "
            "--seeds 6:10\n"
        )


class TestWays:
    """How trials are run, and when arms are given up."""

    @pytest.mark.parametrize(
        ("text", "seconds"), [("", None), ("90s", 90.0), ("1.5m", 90.0), (" 2 h ", 7200.0), ("1d", 86400.0)]
    )
    def test_lengths_of_time(self, text: str, seconds: float | None) -> None:
        """Seconds, minutes, hours, days."""
        assert seconds_of(text) == seconds

    def test_mistakes(self) -> None:
        """Texts that are no time and no rung are told."""
        from core.errors import UserError

        for text in ("2", "0s", "-3m", "2 hours", "1e3s"):
            with pytest.raises(UserError, match=r"^run.timeout: .* is no length of time; write 90s, 30m or 2h"):
                seconds_of(text)
        for text in ("futility", "futility@0", "futility@-1", "futility@1.5", "asha@20"):
            with pytest.raises(UserError, match=r"^run.stop: .* is neither none nor futility@STEP, futility@200"):
                rung_of(text)
        assert [rung_of(text) for text in ("none", "", "futility@20")] == [0, 0, 20]

    def test_flags_beat_the_plan(self, tmp_path: Path) -> None:
        """A runner's own flags decide how it runs; the plan's settings else."""
        stored, _ = made(tmp_path, run__slots=2, run__timeout="2h", run__attempts=3, run__stop="futility@5")
        how = ways_of(stored, {}, {}, print)
        assert (how.limits.timeout, how.rung, how.attempts, how.store, how.executor.capacity()) == (
            7200.0,
            5,
            3,
            None,
            2,
        )
        over = {
            "run.slots": 1,
            "run.timeout": "30s",
            "run.attempts": 1,
            "run.stop": "none",
            "run.store": str(tmp_path / "st"),
        }
        how = ways_of(stored, over, {}, print)
        assert isinstance(how, Ways)
        assert (how.limits.timeout, how.rung, how.attempts, how.executor.capacity()) == (30.0, 0, 1, 1)
        assert how.store.root == tmp_path / "st"
        assert ways_of(stored, {}, {"CORE_STORE": str(tmp_path / "env")}, print).store.root == tmp_path / "env"

    def rung(self, root: Path, values: Any, **plan: Any) -> dict[tuple[str, str], str]:
        stored, _ = made(root, axes={"ffn": ("dense", "bad", "good", "noisy")}, **plan)
        rungs = Table.create(root / "interim")
        of = {t.id: rungs.add([interim_identity(t.id, 20)])[0] for t in stored.trials}
        for trial in stored.trials:
            found = values(trial)
            if found is not None:
                finish(
                    rungs, claim(rungs, of[trial.id]), dict(zip(("value", "higher", "step"), found, strict=True)), {}
                )
        return verdicts_at_rung(read(root), rungs, of)

    def test_only_clearly_worse_arms_stop(self, tmp_path: Path) -> None:
        """By more than 1.5 standard errors, in the metric's own direction, each system by its own."""

        def values(trial: Any) -> tuple[float, bool, int]:
            up = trial.system == "spatial"
            noisy = (-1) ** trial.seed * 5.0
            gain = {"dense": 0.0, "bad": -1.0, "good": 1.0, "noisy": noisy}[trial.arm.removeprefix("ffn=")]
            value = 10 + trial.seed + gain + 0.1 * (trial.seed % 3) * (gain != 0)
            return (value if up else -value, up, 20 if up else 15)

        stops = self.rung(tmp_path / "s", values, systems=("spatial", "perturb"))
        assert {*stops} == {("spatial", "ffn=bad"), ("perturb", "ffn=bad")}
        assert stops["spatial", "ffn=bad"].startswith("step 20: worse than the baseline by ")
        assert stops["perturb", "ffn=bad"].startswith("step 15: ")

    @pytest.mark.parametrize(("pairs", "stopped"), [(2, False), (3, True)])
    def test_three_pairs_are_needed(self, tmp_path: Path, pairs: int, stopped: bool) -> None:
        """Two pairs stop nothing, however bad."""

        def values(trial: Any) -> tuple[float, bool, int] | None:
            if trial.seed >= pairs and trial.arm == "ffn=bad":
                return None
            return (1.0 + 0.01 * trial.seed**2 - 9 * (trial.arm == "ffn=bad") * (1 + 0.01 * trial.seed), True, 20)

        assert (("spatial", "ffn=bad") in self.rung(tmp_path, values)) == stopped


def test_judging_at_the_rung_again_gives_the_same_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that goes on after some trials are done judges the rung by all its results, not by those left open."""
    stored, table = made(tmp_path, axes={"ffn": ("dense", "bad", "late")}, run__stop="futility@20")
    of = {
        Table.create(tmp_path / "interim").add([interim_identity(table.config(t.id)[0], 20)])[0]: t
        for t in stored.trials
    }
    runs = []

    class Fake:
        """Brings every trial that is open to the rung: `late` loses at its last three seeds alone."""

        reason = ""

        def __init__(self, rungs: Table, *more: Any, **words: Any) -> None:
            self.rungs = rungs

        def run(self) -> int:
            runs.append([t for t in self.rungs.ids() if self.rungs.look(t).state is State.PENDING])
            for name in runs[-1]:
                trial = of[name]
                gain = {"dense": 0.0, "bad": -1.0, "late": 3.0 if trial.seed < 3 else -1.0}[
                    trial.arm.removeprefix("ffn=")
                ]
                value = 5 + gain * (1 + 0.01 * trial.seed)
                finish(self.rungs, claim(self.rungs, name), {"value": value, "higher": True, "step": 20}, {})
            return 0

    monkeypatch.setattr(core.study.drive, "Runner", Fake)
    how = ways_of(stored, {}, {}, print)
    core.study.drive._interim(tmp_path, how, print)
    states = {t.arm: {str(table.look(o.id).state) for o in stored.trials if o.arm == t.arm} for t in stored.trials}
    assert states == {"ffn=dense": {"pending"}, "ffn=bad": {"stopped"}, "ffn=late": {"pending"}}
    for trial in stored.trials:
        if trial.arm != "ffn=bad" and trial.seed < 3:
            put(table, trial.id, scores(1.0))
    core.study.drive._interim(tmp_path, how, print)
    assert {str(table.look(t.id).state) for t in stored.trials if t.arm == "ffn=late"} == {"done", "pending"}
    assert [len(names) for names in runs] == [18, 0]


@pytest.mark.parametrize(
    "words",
    [
        ["--attention", "softmax,linear", "--ffn", "dense,moe4x2", "--seeds", "5", "--blocks", "data.seed=0,1"],
        ["--attention", "softmax,linear", "--system", "spatial", "--design", "ofat"],
    ],
)
def test_a_quick_plan_imports_no_torch(tmp_path: Path, words: list[str]) -> None:
    """`plan --quick` names cells, trials and power in a fresh process without torch, and writes nothing."""
    code = "import sys; from core.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules, file=sys.stderr)"
    said = python("-P", "-c", code, "ablate", "plan", "--quick", *words, cwd=tmp_path)
    assert said.stderr == "0 False\n"
    if "--blocks" in words:
        assert (
            "4 cells x 5 seeds x 2 blocks = 40 trials, if every cell can be built" in said.out
            if hasattr(said, "out")
            else said.stdout
        )
        assert "  attention=softmax ffn=dense\n" in said.stdout
    assert "power" in said.stdout
    assert not [*tmp_path.iterdir()]


def test_a_traceback_is_no_answer(tmp_path: Path) -> None:
    """In a process of its own a mistake is one sentence on standard error."""
    said = command("ablate", "status", "nowhere", cwd=tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("core: E-STUDY")
    assert len(said.stderr.splitlines()) == 1
