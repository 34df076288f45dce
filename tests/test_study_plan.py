"""Plans of real cells: identities, cells that cannot be built, twins, budgets, blocks, and pairing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import core.study.arms
from core.cli.choose import resolve_layers
from core.errors import UserError
from core.identity import digest, run_identity
from core.layers import cli_layer
from core.study.ask import ask
from core.study.conclude import conclude
from core.study.folder import design_hash, keep, plan_hash, read
from core.study.plan import Plan, document, make_plan
from core.study.spell import spell
from core.study.table import Table
from core.study.work import INTERIM, interim_identity, layers_of, work
from core.train.cost import Cost
from core.train.loop import Trainer
from small import SMALL

FIXED = (*SMALL, "--train.steps=4")
PAIR = ("--ffn", "dense,moe4x2", "--seeds", "2")


@cache
def planned(*words: str) -> Plan:
    """The plan that flags over small cells ask for."""
    return make_plan(ask(None, cli_layer([*FIXED, *words]).entries), resolve_layers)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are no part of what a trial is, and counting them takes most of a plan's time."""
    cost = Cost(parameters=1, active=1, flops=1, by_part={})
    monkeypatch.setattr(core.study.arms, "counted", lambda system, card, flops: cost)


def refused(*words: str, fixed: tuple[str, ...] = FIXED) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(ask(None, cli_layer([*fixed, *words]).entries), resolve_layers)
    return str(caught.value)


def ids(plan: Plan) -> set[str]:
    return {trial.id for trial in plan.trials}


@pytest.mark.usefixtures("uncounted")
def test_the_findings_list_what_was_set_for_all_arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment, the study and its flags, each with its origin, and none of what varies; a plan that does not
    say, as older ones, has the same identity and lists nothing."""
    monkeypatch.setenv("CORE_TRAIN__LR", "0.002")
    plan = make_plan(ask(None, cli_layer([*FIXED, *PAIR]).entries), resolve_layers)
    doc = document(plan)
    keep(tmp_path / "new", doc, [t.identity for t in plan.trials], "", 2)
    stored = read(tmp_path / "new")
    told = {key: (value, task, origin) for key, value, task, origin in conclude(stored, Table(stored.root)).fixed}
    assert told["train.steps"] == ("4", "", "CLI --train.steps")
    assert told["train.lr"][0] == "0.002"
    assert "ffn" not in told
    del doc["fixed"]
    keep(tmp_path / "old", doc, [t.identity for t in plan.trials], "", 2)
    older = read(tmp_path / "old")
    assert older.hash == stored.hash
    assert conclude(older, Table(older.root)).fixed == ()


@pytest.mark.usefixtures("uncounted")
def test_the_plan_knows_slots_from_numbers_and_tells_its_data_in_words() -> None:
    """Axes that pieces fill are named as such, also where the baseline has no such place; facts hold no Python."""
    plan = planned(
        "--attention", "linear,softmax", "--mask", "full,neighbours", "--train.lr", "0.001,0.003", "--seeds", "2",
        "--exclude", "attention=linear,mask=neighbours:no mask", "--position_loss", "[mse],[mse,distance_mse]",
    )  # fmt: skip
    assert plan.pieces == ("attention", "mask")
    assert document(plan)["pieces"] == ["attention", "mask"]
    (facts,) = (data["facts"] for data in plan.data.values())
    assert facts["sections"].startswith("section1: cells ")
    assert not [text for text in facts.values() if {*"{}"} & {*text}]


@pytest.mark.usefixtures("uncounted")
def test_order_changes_nothing(tmp_path: Path) -> None:
    """Axes, values, seeds, exclusions and keys in another order, in a file or in flags: the same trials and hashes."""
    flags = planned("--attention", "softmax,linear", "--ffn", "dense,moe4x2", "--seeds", "3,1")
    turned = planned("--seeds", "1,3", "--ffn", "moe4x2,dense", "--attention", "linear,softmax")
    lines = [f'"{word.lstrip("-").partition("=")[0]}" = "{word.partition("=")[2]}"' for word in reversed(FIXED)]
    (tmp_path / "s.toml").write_text(
        "seeds = [3, 1]\n[axes]\nffn = ['moe4x2', 'dense']\nattention = ['softmax', 'linear']\n[set]\n"
        + "\n".join(lines)
    )
    file = make_plan(ask(str(tmp_path / "s.toml"), {}), resolve_layers)
    assert len(ids(flags)) == 8
    for other in (turned, file):
        assert ids(other) == ids(flags)
        assert [arm.label for arm in other.arms] == [arm.label for arm in flags.arms]
        assert plan_hash(document(other)) == plan_hash(document(flags))
        assert design_hash(document(other)) == design_hash(document(flags))
    assert flags.arms[0].label == "attention=softmax ffn=dense"


@pytest.mark.usefixtures("uncounted")
def test_what_changes_a_number_changes_the_ids_and_nothing_else_does() -> None:
    """Every field of the identity gives other trials; how they are run, called, judged or logged gives the same."""
    base = planned(*PAIR)
    for words in (["--depth=1"], ["--train.lr=0.002"], ["--data.seed=1"], ["--dropout=0.2"], ["--gate", "headwise"]):
        fixed = tuple(w for w in FIXED if w.partition("=")[0] not in {x.partition("=")[0] for x in words})
        other = make_plan(ask(None, cli_layer([*fixed, *PAIR, *words]).entries), resolve_layers)
        assert not ids(other) & ids(base), words
    run = [
        "--slots=3",
        "--threads=2",
        "--attempts=5",
        "--timeout=2h",
        "--store=x",
        "--keep=true",
        "--name=x",
        "--stop=futility@2",
    ]
    judged = ["--alpha=0.01", "--margin=5%", "--mde=1%", "--power=0.9", "--metric=rssd"]
    same = planned(*PAIR, *run, *judged, "--train.checkpoint_every=7", "--train.keep=1")
    assert ids(same) == ids(base)
    assert design_hash(document(same)) == design_hash(document(base))


@pytest.mark.usefixtures("uncounted")
def test_more_seeds_and_levels_keep_every_trial() -> None:
    """What an extension plans holds all trials that were there."""
    base = planned(*PAIR)
    assert ids(base) < ids(planned("--ffn", "dense,moe4x2", "--seeds", "4"))
    more = planned("--ffn", "dense,moe4x2,moe4x4", "--seeds", "2")
    assert ids(base) < ids(more)
    assert len(more.trials) == 6


@pytest.mark.usefixtures("uncounted")
def test_a_float_may_be_spelt_in_many_ways() -> None:
    """1e-3 and 0.001 are one number and one trial."""
    one = planned("--train.lr", "1e-3,0.002", "--seeds", "1")
    assert ids(one) == ids(planned("--train.lr", "0.0010,2e-3", "--seeds", "1"))


def test_cells_that_cannot_be_built_are_told() -> None:
    """A cell whose pieces do not fit has its reason; a level that fits nowhere, and the baseline, are mistakes."""
    plan = planned("--attention", "softmax,linear", "--mask", "full,neighbours(k=2)", "--seeds", "1")
    states = {arm.label: arm.state for arm in plan.arms}
    assert states["attention=softmax mask=full"] == "planned"
    told = {arm.label: arm.why for arm in plan.arms if arm.state == "n/a"}
    assert [*told] == ["attention=linear mask=neighbours(k=2)"]
    assert "linear" in told["attention=linear mask=neighbours(k=2)"]
    assert {trial.arm for trial in plan.trials} == {label for label, state in states.items() if state == "planned"}
    text = refused("--attention", "softmax,linear", "--mask", "full,window")
    assert text.startswith(
        "E-INVALID: mask=window (CLI --mask) can be built in none of its 2 cells: attention.mask: spatial takes"
    )
    assert text.endswith("Nothing was run")
    fixed = tuple(word for word in FIXED if not word.startswith("--attention.heads"))
    text = refused("--attention.heads", "2,3", "--baseline", "attention.heads=3", fixed=fixed)
    assert text.startswith("the baseline (attention.heads=3) cannot be built: ")


@pytest.mark.usefixtures("uncounted")
def test_arms_that_are_one_configuration_are_told() -> None:
    """Two names of the same pieces with the same values would be compared with themselves."""
    text = refused("--ffn", "moe4x2,moe(experts=4, top_k=2)")
    assert text == (
        "ffn=moe(experts=4, top_k=2) and ffn=moe4x2 are one and the same configuration, so nothing would be compared; "
        "drop one, or exclude the cell with a reason"
    )
    assert "one and the same configuration" in refused("--train.lr", "1e-3,0.001")


@pytest.mark.usefixtures("uncounted")
def test_tasks_and_blocks_that_change_nothing_are_told(tmp_path: Path) -> None:
    """A second task or block must differ in something that changes numbers."""
    lines = [f'"{w.lstrip("-").partition("=")[0]}" = "{w.partition("=")[2]}"' for w in FIXED]
    (tmp_path / "s.toml").write_text(
        "seeds = 1\n[axes]\nffn = ['moe4x2', 'dense']\n[tasks.a]\nsystem = 'spatial'\n"
        "[tasks.b]\nsystem = 'spatial'\n[set]\n" + "\n".join(lines)
    )
    with pytest.raises(UserError) as caught:
        make_plan(ask(str(tmp_path / "s.toml"), {}), resolve_layers)
    assert str(caught.value) == (
        "ffn=dense of b and ffn=dense of a are one and the same trial; tasks and blocks of a study differ in "
        "something that changes numbers"
    )
    assert "one and the same trial" in refused(*PAIR, "--blocks", "train.keep=1,2")
    assert "nonsense: unknown parameter" in refused(*PAIR, "--blocks", "nonsense=1,2")


@pytest.mark.usefixtures("uncounted")
def test_what_is_no_axis_is_told() -> None:
    """Seeds and systems have flags of their own, and something must vary."""
    assert refused("--seed", "0,1") == "CLI --seed: seed is no axis; say --seeds 0,1,2 or --system spatial,perturb"
    assert refused("--ffn", "dense").startswith("nothing varies: give at least one parameter two values")
    assert refused(*PAIR, "--seed", "3") == "a study has seeds of its own: --seeds 6, not --seed (CLI --seed)"
    assert "spatial scores no 'rsd'. Did you mean 'rssd'? It scores distance_spearman, " in refused(
        *PAIR, "--metric", "rsd"
    )
    assert refused(*PAIR, "--metric", "a,b") == "analysis.metric (CLI --metric): 2 metrics for 1 systems; one for each"


@pytest.mark.parametrize(("what", "field"), [("params", "parameters"), ("active", "active")])
def test_matched_arms_cost_the_same(what: str, field: str) -> None:
    """Within the tolerance, by turning one parameter that the plan names; the baseline is not touched."""
    plan = planned("--ffn", "dense,moe4x4", "--seeds", "1", "--match", what, "--tolerance", "2%")
    base, arm = plan.arms
    assert base.matched == {}
    assert [*arm.matched] == ["ffn.ratio"]
    assert abs(arm.cost[field] / base.cost[field] - 1) <= 0.02
    assert f"ratio = {arm.matched['ffn.ratio']}" in arm.config
    assert arm.identity["config"]["ffn.ratio"] == arm.matched["ffn.ratio"]


def test_a_budget_that_cannot_be_matched_is_told() -> None:
    """E-BUDGET names the nearest and what to do; widths that heads do not divide are stepped over."""
    text = refused(
        "--ffn", "dense,moe4x4", "--match", "params", "--match-on", "width", "--tolerance", "0.01%", "--seeds", "1"
    )
    assert text.startswith("E-BUDGET: ffn=moe4x4 cannot match ")
    assert "parameters within 0.01%: nearest " in text
    assert text.endswith("Raise --tolerance, turn something else with --match-on KEY, or match another quantity")


@pytest.mark.usefixtures("uncounted")
def test_blocks_repeat_every_arm_over_something_else() -> None:
    """Each arm at each seed in each block, with the block's own data."""
    plan = planned(*blocked())
    assert plan.blocks == ("0", "1")
    assert len(plan.trials) == len(ids(plan)) == 8
    assert {(t.arm, t.seed, t.block) for t in plan.trials} == {
        (arm, seed, block) for arm in ("ffn=dense", "ffn=moe4x2") for seed in (0, 1) for block in ("0", "1")
    }
    assert len({t.identity["data"] for t in plan.trials}) == 2


def blocked() -> tuple[str, ...]:
    return (*PAIR, "--blocks", "data.seed=1,0")


def test_the_files_of_arms_are_the_trials_planned(tmp_path: Path) -> None:
    """Every trial, resolved from its arm's file with its seed and block, has the identity that was planned."""
    for name, words in {
        "blocks": blocked(),
        "matched": ("--ffn", "dense,moe4x4", "--seeds", "1", "--match", "params"),
    }.items():
        plan = planned(*words)
        root = tmp_path / name
        keep(root, document(plan), [t.identity for t in plan.trials], "", 2)
        stored = read(root)
        for trial in stored.trials:
            run = resolve_layers(layers_of(stored, trial))
            found = run_identity(run, run.root.data.open().describe().fingerprint, "cpu")
            assert digest(found)[:16] == trial.id


@pytest.mark.usefixtures("uncounted")
def test_the_study_file_of_a_plan_plans_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `spell` writes asks for the very same trials, the environment's part too."""
    monkeypatch.setenv("CORE_DROPOUT", "0.2")
    asked = ask(None, cli_layer([*FIXED, *PAIR]).entries)
    plan = make_plan(asked, resolve_layers)
    (tmp_path / "study.toml").write_text(spell(asked, dict(plan.baseline)))
    monkeypatch.delenv("CORE_DROPOUT")
    again = make_plan(ask(str(tmp_path / "study.toml"), {}), resolve_layers)
    assert ids(again) == ids(plan) != ids(planned(*PAIR))


def test_arms_of_a_plan_are_paired(tmp_path: Path) -> None:
    """At one seed, parameters of one name and shape start bit-equal in all arms, and batches are the same."""
    plan = planned("--attention", "softmax,gated_headwise", "--ffn", "dense,moe4x2", "--seeds", "1")
    keep(tmp_path, document(plan), [t.identity for t in plan.trials], "", 2)
    stored = read(tmp_path)
    starts: list[dict[str, Tensor]] = []
    batches: list[list[dict[str, Tensor]]] = []
    for trial in stored.trials:
        run = resolve_layers(layers_of(stored, trial)).root
        trainer = Trainer(
            system=run.system, source=run.data.open(), settings=run.train, strategy=run.strategy,
            device=torch.device("cpu"), seed=run.seed,
        )  # fmt: skip
        starts.append({name: p.detach().clone() for name, p in trainer.model.named_parameters()})
        seen: list[dict[str, Tensor]] = []
        trainer.model.register_forward_pre_hook(
            lambda module, given, seen=seen: seen.append({k: v.clone() for k, v in given[0].items()})
        )
        for _ in range(3):
            trainer.step()
        batches.append(seen)
    assert len(starts) == 4
    for i, one in enumerate(starts):
        for other in starts[:i]:
            shared = [n for n in one.keys() & other.keys() if one[n].shape == other[n].shape]
            assert len(shared) > 10
            assert all(torch.equal(one[n], other[n]) for n in shared)
    assert not torch.equal(batches[0][0]["position"], batches[0][1]["position"])
    for other in batches[1:]:
        for a, b in zip(batches[0], other, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("uncounted")
def test_blocks_of_other_splits_are_known_by_their_declaration() -> None:
    """What says where the items of the splits go redraws them; another data set does not."""
    for blocks, anew in {"data.cut.seed=0,1": True, "data.seed=0,1": False}.items():
        plan = planned(*PAIR, "--blocks", blocks)
        assert (plan.splits_anew, document(plan)["splits_anew"]) == (anew, anew)
    assert planned(*PAIR).splits_anew is False


@pytest.mark.usefixtures("uncounted")
def test_how_pieces_begin_is_recorded_of_each_arm() -> None:
    """Biases of gates and scales of residuals, by their full path; an arm without such has none."""
    plan = planned("--gate", "none,headwise", "--residual", "plain,layerscale", "--seeds", "1")
    starts = {arm.label: {key.rpartition(".")[2] for key in arm.start} for arm in plan.arms}
    assert starts == {
        "gate=none residual=plain": set(),
        "gate=headwise residual=plain": {"bias"},
        "gate=none residual=layerscale": {"initial"},
        "gate=headwise residual=layerscale": {"bias", "initial"},
    }


@pytest.mark.parametrize("metric", ["pearson_gene", "expression to position/rssd"])
def test_a_rung_scores_a_training_that_ended_before_it(tmp_path: Path, metric: str) -> None:
    """Early stopping ends a training below the rung: its score stands, by the metric however it was spelt."""
    still = ("--train.lr", "1e-30", "--train.patience", "1", "--train.validate_every", "1", "--metric", metric)
    plan = planned(*PAIR, *still, "--stop", "futility@3")
    keep(tmp_path, document(plan), [t.identity for t in plan.trials], "", 2)
    rungs = Table.create(tmp_path / INTERIM)
    name = rungs.add([interim_identity(plan.trials[0].id, 3)])[0]
    assert work(tmp_path, rungs.ids()[0], resolve_layers, within=INTERIM) == 0
    found = rungs.result(name)
    assert found is not None
    assert (found.metrics["step"], found.metrics["higher"]) == (3, "/" not in metric)
