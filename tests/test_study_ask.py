"""A study file and flags say the same study; what was asked can be written down and read back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.layers import cli_layer
from core.study.ask import Asked, ask, seeds_of
from core.study.axes import make_axis
from core.study.spell import spell
from small import environment

FILE = """
schema = 1
name = "gates"
system = "spatial"
seeds = [3, 7, 11]
blocks = "data.seed=0,1"

[axes]
attention = ["softmax", "linear"]
ffn = ["dense", { name = "moe", experts = 4, top_k = 2, as = "moe4x2" }]
train.lr = [1e-3, 0.01]

[baseline]
attention = "linear"
ffn = "dense"

[set]
depth = 2
objective.losses = ["mse", "distance_mse"]

[design]
kind = "twoway"
exclude = [{ attention = "softmax", ffn = "moe4x2", why = "no kernel" }]

[budget]
match = "params"
tolerance = "3%"

[analysis]
metric = "distance_spearman"
mde = "5%"

[run]
slots = 2
stop = "futility@20"
"""
FLAGS = (
    "--name", "gates", "--system", "spatial", "--seeds", "11,3,7", "--blocks", "data.seed=1,0",
    "--attention", "softmax,linear", "--ffn", "dense,moe4x2", "--train.lr", "0.001,0.01",
    "--baseline", "attention=linear,ffn=dense", "--depth", "2", "--objective.losses", "[mse,distance_mse]",
    "--design", "twoway", "--exclude", "attention=softmax,ffn=moe4x2:no kernel", "--match", "params",
    "--tolerance", "3%", "--metric", "distance_spearman", "--mde", "5%", "--slots", "2", "--stop", "futility@20",
)  # fmt: skip


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Asked]:
    """`read(text, *flags)`: what a study file of this text and flags ask for."""

    def of(text: str, *words: str) -> Asked:
        path = tmp_path / "study.toml"
        path.write_text(text, "utf-8")
        return ask(str(path), cli_layer(words).entries)

    return of


def flags(*words: str) -> Asked:
    return ask(None, cli_layer(words).entries)


def plain(asked: Asked) -> dict[str, Any]:
    """A study without its origins."""
    values = {key: s.value for key, s in asked.resolved.settings.items()}
    fixed = {key: value for layer in asked.fixed for key, (value, _) in layer.entries.items()}
    return {
        "axes": [
            (a.key, [(lv.label, {k: said(v) for k, v in lv.entries.items()}) for lv in a.levels]) for a in asked.axes
        ],
        "settings": values | {"seeds": asked.seeds, "blocks": asked.blocks},
        "fixed": {key: said(value) for key, value in fixed.items()},
        "tasks": {name: {k: said(v) for k, (v, _) in layer.entries.items()} for name, layer in asked.tasks.items()},
        "baseline": dict(asked.baseline),
        "exclude": [(dict(levels), why) for levels, why, _ in asked.exclude],
        "cells": [dict(cell) for cell in asked.cells],
    }


def said(value: Any) -> Any:
    """A value with its kind: typed texts stay texts, numbers numbers."""
    return (isinstance(value, str), isinstance(value, bool), value)


def test_a_file_equals_its_flags(read: Callable[..., Asked]) -> None:
    """The same words in a file and on a command line ask for the same study."""
    file, line = plain(read(FILE)), plain(flags(*FLAGS))
    assert file["settings"] == line["settings"]
    assert file["baseline"] == line["baseline"]
    assert file["exclude"] == line["exclude"]
    assert [(key, [label for label, _ in levels]) for key, levels in file["axes"]] == [
        (key, [label for label, _ in levels]) for key, levels in line["axes"]
    ]
    assert {*file["fixed"]} == {*line["fixed"]}


def test_flags_win_and_each_setting_knows_its_origin(read: Callable[..., Asked]) -> None:
    """A flag beats the file; file and line, or the flag, stand behind each value, axis, and fixed value."""
    asked = read(
        FILE, "--slots", "3", "--attention", "softmax,gated_headwise", "--depth=3", "--baseline", "attention=softmax"
    )
    origins = {key: s.origin for key, s in asked.resolved.settings.items()}
    assert origins["run.slots"] == "CLI --slots"
    assert origins["run.stop"] == "study.toml:35"
    assert origins["title"] == "study.toml:3"
    assert origins["budget.tolerance"] == "study.toml:27"
    assert origins["analysis.alpha"].startswith("default")
    assert {axis.key: axis.origin for axis in asked.axes} == {
        "attention": "CLI --attention", "ffn": "study.toml:10", "train.lr": "study.toml:11",
    }  # fmt: skip
    assert asked.fixed[1].entries["depth"] == ("3", "CLI --depth")
    assert asked.exclude[0][2] == "study.toml:23"
    assert (asked.study.run.slots, asked.study.budget.tolerance, asked.study.analysis.mde) == (3, 0.03, 0.05)


def test_a_plus_adds_levels_to_an_axis_of_the_file(read: Callable[..., Asked]) -> None:
    """`--attention +NAME` keeps what the file has; a number with a sign is a number."""
    asked = read(FILE, "--attention", "+gated_headwise,gated_elementwise", "--train.warmup", "+3")
    labels = {axis.key: [level.label for level in axis.levels] for axis in asked.axes}
    assert labels["attention"] == ["softmax", "linear", "gated_headwise", "gated_elementwise"]
    assert asked.fixed[1].entries["train.warmup"][0] == "+3"


def test_a_fixed_value_takes_an_axis_of_the_file_away(read: Callable[..., Asked]) -> None:
    """One value by flag fixes what the file varies, and its baseline with it."""
    asked = read(FILE.replace("exclude", "# exclude"), "--attention", "linear")
    assert [axis.key for axis in asked.axes] == ["ffn", "train.lr"]
    assert asked.baseline == {"ffn": "dense"}
    assert asked.fixed[1].entries["attention"][0] == "linear"


KEYS = st.sampled_from(
    ["attention", "ffn", "gate", "ffn.ratio", "train.lr", "data.seed", "depth", "mask", "objective.losses"]
)
WORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"], exclude_characters="()[]{}\"',+=\\-"),
    min_size=1,
    max_size=6,
)
VALUES = st.one_of(
    st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False), st.booleans(),
    st.lists(st.integers(0, 9) | WORDS, max_size=3), WORDS.map(str.strip).filter(bool),
    st.sampled_from(["1e-3", "007", "none", "true", "2024-01-01", "moe4x2", "a: b", "inf"]),
)  # fmt: skip
TABLES = st.fixed_dictionaries(
    {"name": WORDS.map(str.strip).filter(bool)},
    optional={
        "experts": st.integers(0, 9), "as": WORDS.filter(str.strip), "gate": st.fixed_dictionaries({"bias": VALUES}),
    },
)  # fmt: skip


def label_of(value: Any) -> str:
    return make_axis("k", [value, {"value": 0, "as": f"not {value}"}], "").levels[0].label


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A study file as nested tables, with everything that one may hold."""
    keys = draw(
        st.lists(
            KEYS.filter(lambda k: k not in ("attention", "ffn", "gate", "mask")), min_size=1, max_size=3, unique=True
        )
    )
    axes = {key: draw(st.lists(VALUES | TABLES, min_size=2, max_size=4, unique_by=label_of)) for key in keys}
    others = draw(
        st.lists(st.sampled_from(["width", "heads", "attention.heads", "data.path"]), unique=True, max_size=3)
    )
    doc: dict[str, Any] = {"axes": axes, "set": {key: draw(VALUES) for key in others}}
    doc["baseline"] = {
        key: label_of(draw(st.sampled_from(levels))) for key, levels in axes.items() if draw(st.booleans())
    }
    doc["seeds"] = draw(st.sampled_from([1, 6, "10:16", "3,7,11", [5, 2]]))
    if draw(st.booleans()):
        doc["tasks"] = {
            name: {"system": "spatial", "data.cells": draw(VALUES)}
            for name in draw(st.lists(WORDS.map(str.strip).filter(bool), min_size=1, max_size=2, unique=True))
        }
    if draw(st.booleans()):
        doc["blocks"] = draw(st.sampled_from(["data.cut.seed=0,1", "data.name=b,a,10"]))
    design: dict[str, Any] = {}
    if draw(st.booleans()):
        design["kind"] = draw(st.sampled_from(["ofat", "twoway", "full", "fraction:C=AB"]))
    if draw(st.booleans()):
        key = draw(st.sampled_from(keys))
        design["exclude"] = [{key: label_of(draw(st.sampled_from(axes[key]))), "why": draw(WORDS)}]
    doc["design"] = design
    doc["analysis"] = draw(
        st.fixed_dictionaries({}, optional={"alpha": st.just(0.01), "mde": st.just("7%"), "metric": st.just(["a/b"])})
    )
    doc["run"] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "slots": st.integers(0, 4),
                "gpus": st.just([0, 1]),
                "keep": st.booleans(),
                "timeout": st.just("2h"),
            },
        )
    )
    return doc


def toml(doc: dict[str, Any]) -> str:
    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            table = tomlkit.inline_table()
            table.update({k: inline(v) for k, v in value.items()})
            return table
        if isinstance(value, list):
            array = tomlkit.array()
            array.extend([inline(v) for v in value])
            return array
        return value

    out = tomlkit.document()
    for key, value in doc.items():
        if not isinstance(value, dict):
            out[key] = inline(value)
    for key, value in doc.items():
        if isinstance(value, dict):
            table = tomlkit.table()
            for inner, entry in value.items():
                table[inner] = inline(entry)
            out[key] = table
    return tomlkit.dumps(out)


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(doc=documents())
def test_what_was_asked_can_be_written_and_read_back(doc: dict[str, Any], read: Callable[..., Asked]) -> None:
    """A study file of axes, calls, tables, lists, tasks, blocks spelled as a file asks for the same study."""
    asked = read(toml(doc))
    baseline = {axis.key: asked.baseline.get(axis.key, axis.levels[-1].label) for axis in asked.axes}
    text = spell(asked, baseline)
    again = read(text)
    assert plain(again) == plain(asked) | {"baseline": baseline}
    assert spell(again, baseline) == text


def test_flags_can_be_written_and_read_back(read: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed words stay what they were; what the environment says is part of every arm and stands in the file."""
    monkeypatch.setenv("CORE_TRAIN__WARMUP", "2")
    monkeypatch.setenv("CORE_ATTENTION", "linear")
    monkeypatch.setenv("CORE_SEED", "5")
    asked = flags(*FLAGS, "--ffn.ratio", "1e0,2.", "--data.gpu", "--mask", "window(radius=8, coord=aligned)")
    text = spell(asked, {axis.key: axis.levels[0].label for axis in asked.axes})
    for name in ("CORE_TRAIN__WARMUP", "CORE_ATTENTION", "CORE_SEED"):
        monkeypatch.delenv(name)
    again = read(text)
    assert plain(again)["axes"] == plain(asked)["axes"]
    fixed = plain(asked)["fixed"]
    assert {fixed.pop("attention")[2], fixed.pop("seed")[2]} == {"linear", "5"}
    assert fixed.pop("data.gpu") == (True, False, "true")
    own = plain(again)["fixed"]
    assert own.pop("data.gpu") == (False, True, True)
    assert own == fixed


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (0, 1, 2)), (" 10:13 ", (10, 11, 12)), ("11, 3,7", (3, 7, 11)), ("5,", (5,)), ("0:1", (0,))],
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    """A count, a range, or those named, in order."""
    assert seeds_of(text, "--seeds") == seeds


BAD_SEEDS = [
    ("", "seeds: '' says no seeds; write 6, 10:16 or 3,7,11 (--seeds)"),
    ("-3", "seeds: '-3' says no seeds; write 6, 10:16 or 3,7,11 (--seeds)"),
    ("2.5", "seeds: '2.5' says no seeds; write 6, 10:16 or 3,7,11 (--seeds)"),
    ("true", "seeds: 'true' says no seeds; write 6, 10:16 or 3,7,11 (--seeds)"),
    ("0", "seeds: '0' is no seed at all; 6 is six of them, 10:16 those from 10 to 15 (--seeds)"),
    ("9:3", "seeds: '9:3' is no seed at all; 6 is six of them, 10:16 those from 10 to 15 (--seeds)"),
    ("7,3,07", "seeds: 7 is there twice; its pairs would count twice (--seeds)"),
    ("20000", "seeds: 20000 are more than anyone can run; at most 10000 (--seeds)"),
]


@pytest.mark.parametrize(("text", "told"), BAD_SEEDS)
def test_seeds_that_are_none(text: str, told: str) -> None:
    """Each has its text."""
    with pytest.raises(UserError) as caught:
        seeds_of(text, "--seeds")
    assert str(caught.value) == told


AXES = '[axes]\nffn = ["dense", "moe4x2"]\nattention = ["softmax", "linear"]\n'


@pytest.mark.parametrize(
    ("text", "words", "told"),
    [
        (
            AXES + "[budget]\nsteps = 3\n",
            [],
            "budget.steps: unknown parameter. Known here: match, on, tolerance (study.toml:5)",
        ),
        (
            AXES + '[budget]\nmtach = "params"\n',
            [],
            "budget.mtach: unknown parameter. Did you mean 'match'? Known here: match, on, tolerance (study.toml:5)",
        ),
        (
            AXES + '[budget]\nmatch = "parms"\n',
            [],
            "budget.match: expected none|params|active|flops|time|steps, got 'parms'. Did you mean 'params'?",
        ),
        ("schema = 2\n" + AXES, [], "study.toml:1: schema 2 is of a newer cellcore; this one reads 1. Update cellcore"),
        ('schema = "1"\n' + AXES, [], "study.toml:1: schema '1' is none; write schema = 1"),
        ("schema = true\n" + AXES, [], "study.toml:1: schema True is none; write schema = 1"),
        ("axes = 3\n", [], "study.toml:1: axes is a table, [axes]"),
        ("set = 3\n" + AXES, [], "study.toml:1: set is a table, [set]"),
        ('[axes]\nffn = "dense"\n', [], 'study.toml:2: the axis ffn is a list of levels, ["dense", "moe4x2"]'),
        ("tasks.a = 3\n" + AXES, [], "study.toml:1: a task is a table, [tasks.a]"),
        (AXES + "[tasks.a]\n", [], 'study.toml: [tasks.a] says nothing; give it what is its own, system = "spatial"'),
        (
            AXES + '[tasks.a]\nname = "x"\n',
            [],
            "study.toml:5: [tasks.a] takes keys of `core run`, and name is none; [tasks.a.ffn] has one",
        ),
        (
            AXES + "[design]\nexclude = 3\n",
            [],
            'study.toml:5: an exclusion is a table, { attention = "linear", why = "..." }',
        ),
        (
            AXES + "[design]\nexclude = [{ ffn = 'dense', why = 3 }]\n",
            [],
            'study.toml:5: an exclusion is a table, { attention = "linear", why = "..." }',
        ),
        (AXES + "[design]\ncells = 5\n", [], 'study.toml:5: a cell is a table, { attention = "linear" }'),
        (
            AXES + '[set]\nffn = "dense"\n',
            [],
            "ffn is an axis (study.toml:2) and fixed (study.toml:5) at once; keep one",
        ),
        (
            AXES + '[set.ffn]\nname = "dense"\n',
            [],
            "ffn is an axis (study.toml:2) and fixed (study.toml:5) at once; keep one",
        ),
        (
            AXES + '[tasks.a]\nffn = "dense"\n',
            [],
            "ffn is an axis (study.toml:2) and fixed in task a (study.toml:5) at once; keep one",
        ),
        (
            '[axes]\nffn = ["dense", "dense"]\n',
            [],
            "study.toml:2: the axis ffn has two levels called 'dense'; keep one, or tell them apart by `as`",
        ),
        (
            AXES + '[baseline]\nfnf = "dense"\n',
            [],
            "study.toml:5: the baseline names 'fnf', which is no axis. Did you mean 'ffn'? Axes: attention, ffn",
        ),
        (
            AXES + '[baseline]\nffn = "moe4x3"\n',
            [],
            "study.toml:5: ffn has no level 'moe4x3'. Did you mean 'moe4x2'? Its levels: dense, moe4x2",
        ),
        (
            AXES + '[tasks.a]\nsystem = "spatial"\n',
            ["--system", "spatial"],
            "system (CLI --system) and [tasks] both say what the tasks are; a task names its system itself:",
        ),
        (AXES, ["--system", "spatial,spatial"], "system: spatial, spatial names one twice; keep one (CLI --system)"),
        (
            AXES,
            ["--blocks", "data.seed"],
            "blocks: write KEY=VALUE,VALUE with two or more different values, not 'data.seed' (CLI --blocks)",
        ),
        (
            AXES,
            ["--blocks", "data.seed=1,1"],
            "blocks: write KEY=VALUE,VALUE with two or more different values, not 'data.seed=1,1' (CLI --blocks)",
        ),
        (
            AXES,
            ["--blocks", "seed=1,2"],
            "blocks: seed is no block; say --seeds 0,1,2 or --system spatial,perturb (CLI --blocks)",
        ),
        (
            AXES,
            ["--blocks", "ffn=dense,moe4x2"],
            "ffn is an axis (study.toml:2) and varies over blocks (CLI --blocks) at once; keep one",
        ),
        (
            AXES,
            ["--blocks", "depth=1,2", "--depth", "3"],
            "depth is fixed (CLI --depth) and varies over blocks (CLI --blocks) at once; keep one",
        ),
        (AXES, ["--mde", "1.2.3%"], "CLI --mde: '1.2.3%' is no percentage"),
        (AXES, ["--mde", "five"], "analysis.mde: expected float, got 'five' (CLI --mde)"),
        (AXES, ["--tolerance", "200%"], "budget.tolerance: must be > 0.0 and < 1.0, got 2.0 (CLI --tolerance)"),
        (
            AXES,
            ["--exclude", "ffn=moe4x2"],
            "CLI --exclude: write attention=linear,ffn=moe4x2:WHY; the reason goes into the report",
        ),
        (AXES, ["--exclude", "ffn:why"], "CLI --exclude: write AXIS=LEVEL,AXIS=LEVEL, not 'ffn'"),
        (
            AXES,
            ["--baseline", "ffn=dense,ffn=moe4x2"],
            "CLI --baseline: ffn is there twice, as dense and as moe4x2; keep one",
        ),
        (AXES, ["--gate", "+headwise"], "CLI --gate: gate is no axis, so +headwise adds to nothing."),
        (
            AXES,
            ["--attention", "+lineer"],
            "study.toml:3, CLI --attention: no attention is called 'lineer'. Did you mean 'linear'?",
        ),
        (AXES, ["--ffn", "dense,meo4x2"], "CLI --ffn: no ffn is called 'meo4x2'. Did you mean 'moe"),
        (AXES, ["--loss", "meo"], "CLI --loss: no loss is called 'meo'."),
    ],
)
def test_mistakes_are_told_with_their_place(read: Callable[..., Asked], text: str, words: list[str], told: str) -> None:
    """Each mistake names file and line, or the flag, and what is allowed."""
    with pytest.raises(UserError) as caught:
        read(text, *words)
    assert str(caught.value).startswith(told) or told in str(caught.value).splitlines(), str(caught.value)


def test_a_bracketed_colon_belongs_to_a_level() -> None:
    """A level may hold commas, equal signs and colons inside its brackets."""
    words = ["--ffn", "dense,moe(experts=4, note='a:b')", "--baseline", "ffn=dense"]
    asked = flags(*words, "--exclude", "ffn=moe(experts=4, note='a:b'):too slow: see log")
    assert asked.exclude == (({"ffn": "moe(experts=4, note='a:b')"}, "too slow: see log", "CLI --exclude"),)


def test_asking_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    """Reading a study file costs no heavy import, and the look can see one."""
    (tmp_path / "study.toml").write_text(FILE, "utf-8")
    code = """
import sys
from core.study.ask import ask
from core.study.spell import spell
asked = ask("study.toml", {})
asked.grid({"attention": "linear", "ffn": "dense", "train.lr": "0.001"})
spell(asked, {})
heavy = ("torch", "numpy", "scipy", "plugins")
print(*sorted(name for name in sys.modules if name in heavy))
import numpy
print(*sorted(name for name in sys.modules if name in heavy))
"""
    said = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert (said.stdout, said.stderr) == ("\nnumpy\n", "")
