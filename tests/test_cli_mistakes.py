"""Users' mistakes: one clear message, exit status 2, no traceback, and nothing trained."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import core.train.session as session
from core.cli import main
from core.registry import installed
from tests.fakes import ROW, command, package, swish
from tests.small import SMALL

FILES: dict[str, bytes] = {
    "good.toml": b"[train]\nsteps = 3\n",
    "broken.toml": b"[train\nsteps = 3\n",
    "latin.toml": b"title = 'Gr\xfcn'\n",
    "unknown.toml": b"[train]\nstepz = 3\n\n[ffn]\nname = 'moe4x2'\ntopk = 1\n",
    "text.toml": b'[train]\nsteps = "12"\n',
    "float.toml": b"[attention]\nheads = 4.0\n",
    "number.toml": b"attention = 3\n",
    "table.toml": b"train = 5\n",
    "tables.toml": b"[[train]]\nsteps = 3\n",
    "date.toml": b"[train]\nsteps = 1979-05-27\n",
    "nan.toml": b"seed = nan\n",
    "list.toml": b'metrics = ["rssd", "rsd"]\n',
    "metrics.toml": b"metrics = 3\n",
    "inline.toml": b"\nffn = { name = 'moe', topk = 2 }\n",
    "section.toml": b"[run]\nseed = 3\n",
    "twice.toml": b'gate = "headwise"\n[attention]\ngate = "elementwise"\n',
    "recipe.toml": b'recipe = "rectified"\n',
    "kind.toml": b'[gate]\nname = "headwise"\nbias = true\n',
    "text.h5ad": b"these are no cells\n",
}


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of all sorts; whatever gets as far as training fails the test."""
    folder = tmp_path / "desk"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder.toml").mkdir()
    (folder / "folder.h5ad").mkdir()
    monkeypatch.chdir(folder)

    def trained(*_: object, **__: object) -> None:
        raise AssertionError("a mistake was not noticed before training")

    monkeypatch.setattr(session, "execute", trained)
    return folder


def message(said: object) -> str:
    """The one message of a mistake, after a look at its form."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("core: ")
    assert said.err.endswith("\n")
    assert sum(line.startswith("core: ") for line in said.err.splitlines()) == 1
    assert "Traceback" not in said.err
    assert "Error" not in said.err
    return said.err


MISTAKES = {
    # verbs
    "lsit": "no verb is called 'lsit'. Did you mean 'list'?",
    "''": "no verb is called ''. Verbs: run,",
    "-x": "no verb is called '-x'",
    "--list": "Did you mean 'list'?",
    "Run": "no verb is called 'Run'. Did you mean 'run'?",
    "help lsit": "no verb is called 'lsit'. Did you mean 'list'?",
    # list, show, doctor
    "list gaet": "no kind is called 'gaet'. Did you mean 'gate'?",
    "list ''": "no kind is called ''",
    "list gate ffn": "takes one kind, not gate ffn",
    "list --jsn": "has no flag --jsn. Did you mean '--json'?",
    "list --json=3": "--json takes no value, not '3'",
    "list gate -q": "no flag -q",
    "show": "usage: core show KIND NAME. Kinds: system,",
    "show ffn": "usage: core show KIND NAME. Known here: dense, swiglu, moe{experts:int}x{top_k:int}",
    "show fnn": "no kind is called 'fnn'. Did you mean 'ffn'?",
    "show fnn dense": "no kind is called 'fnn'. Did you mean 'ffn'?",
    "show ffn dnse": "no ffn is called 'dnse'. Did you mean 'dense'?",
    "show ffn headwise": "That is a name of kind 'gate'.",
    "show ffn dense moe": "usage: core show KIND NAME",
    "show ffn 'moe(exprts=8)'": "unknown parameter 'exprts'. Did you mean 'experts'?",
    "show ffn 'moe(experts=x)'": "experts: expected int, got 'x'",
    "show ffn 'moe(experts=8'": "is no name",
    "show recipe rectfied_flow": "Did you mean 'rectified_flow'?",
    "doctor now": "`core doctor` takes no words, not now",
    # names
    "run --attention": "CLI --attention: a name is missing. Known: softmax,",
    "run --attention ''": "CLI --attention: '' is no name",
    "run --attention=": "CLI --attention: '' is no name",
    "run --attention softmx": "CLI --attention: no attention is called 'softmx'. Did you mean 'softmax'?",
    "run --attention Softmax": "Did you mean 'softmax'?",
    "run --attention 'soft max'": "Did you mean 'softmax'?",
    "run --attention headwise": "no attention is called 'headwise'. Did you mean 'gated_headwise'?",
    "run --attention sofmax --gate headwise --attention.heads 2": "no attention is called 'sofmax'",
    "run --attention 'softmax(heads=2'": "is no name",
    "run --attention 'softmax(2)'": "write arguments as key=value, not '2'",
    "run --attention 'softmax(haeds=2)'": "attention.haeds: unknown parameter. Did you mean 'heads'?",
    "run --attention 'softmax(heads=\"2\")'": "attention.heads: expected int, got '2'",
    "run --attention 'softmax(heads=2, heads=4)'": "heads is given twice; keep one",
    "run --attention 'softmax(gate=headwyse)'": "no gate is called 'headwyse'. Did you mean 'headwise'?",
    "run --attention a/b/softmax": "no attention is called 'a/b/softmax'",
    "run --attention cellcor/softmax": "Did you mean 'cellcore/softmax'?",
    "run --ffn moe0x0": "ffn.experts: must be >= 1, got 0 (name moe0x0)",
    "run --ffn moe4x9": "ffn: top_k must be between 1 and experts=4, got 9 (name moe4x9)",
    "run --ffn moe4x": "Did you mean 'moe{experts:int}x{top_k:int}'?",
    "run --ffn meo4x2": "Did you mean 'moe{experts:int}x{top_k:int}'?",
    "run --ffn moe4x99999999999999999999": "no ffn is called",
    "run --ffn dense,moe": "no ffn is called 'dense,moe'",
    "run --ffn headwise": "That is a name of kind 'gate'.",
    "run --ffn none": "CLI --ffn: no ffn is called 'none'",
    "run --metrics rssd,rsd": "CLI --metrics: no metric is called 'rsd'. Did you mean 'rssd'?",
    "run --metrics 'contact_f1(foo=3)'": "metrics[0].foo: unknown parameter. 'contact_f1' takes",
    "run --metrics 'contact_f1(foo=3'": "brackets or quotes do not close (CLI --metrics)",
    "run --metrics": "metrics: names are missing",
    "run --metrics[0] rssd": "one item of a list cannot be named anew",
    "run --metrics[0].x 3": "metrics[0].x: unknown parameter",
    "run --metrics[99].x 3": "metrics[99].x: unknown parameter",
    "run --loss mse": "several slots could be meant. Say which: --expression_loss, --position_loss",
    "run --position_path cod_ot": "no path is called 'cod_ot'. Did you mean 'cond_ot'?",
    "run --strategy dpp": "no strategy is called 'dpp'. Did you mean 'ddp'? Known: single, ddp, fsdp2, deepspeed.",
    # systems and recipes
    "run --system": "CLI --system: a name is missing. Known: spatial",
    "run --system spacial --width 3": "no system is called 'spacial'. Did you mean 'spatial'?",
    "run --recipe": "CLI --recipe: a name is missing. Known: rectified_flow",
    "run --recipe rectified": "CLI --recipe: no recipe is called 'rectified'. Did you mean 'rectified_flow'?",
    "run --recipe rectified_flow --system perturbed": "no system is called 'perturbed'. Did you mean 'perturb'?",
    "run --recipe 'rectified_flow(pth=cosine)'": "pth: unknown parameter. Did you mean 'path'?",
    # parameters
    "run --widht 3": "widht: unknown parameter. Did you mean 'width'?",
    "run --lr 1": "lr: unknown parameter. Did you mean --train.lr?",
    "run --heads 4": "heads: unknown parameter. Did you mean --attention.heads?",
    "run --ffn.top_k 2": "ffn.top_k: unknown parameter. 'dense' takes ratio, activation, dropout (CLI --ffn.top_k)",
    "run --ffn moe4x2 --ffn.topk 2": "ffn.topk: unknown parameter. Did you mean 'top_k'?",
    "run --ffn.gate headwise": "ffn.gate: unknown parameter. Did you mean --attention.gate?",
    "run --gate headwise --gate.bais 2": "attention.gate.bais: unknown parameter. Did you mean 'bias'?",
    "run --train 5": "train is a table. Give its parameters one by one: --train.steps,",
    "run --train.foo.bar 5": "train.foo.bar: unknown parameter",
    "run --train.steps.x 5": "train.steps.x: unknown parameter",
    "run --no-rotate": "no_rotate: unknown parameter. Did you mean 'rotate'?",
    "run --SEED 3": "SEED: unknown parameter. Did you mean 'seed'?",
    "run '--seed 3'": "Did you mean 'seed'?",
    "run --. 3": "unknown parameter",
    "run --a..b 3": "a..b: unknown parameter",
    # values
    "run --seed": "seed: a value is missing: expected int (CLI --seed)",
    "run --seed -1": "seed: must be >= 0, got -1 (CLI --seed)",
    "run --seed 1.5": "seed: expected int, got 1.5 (CLI --seed)",
    "run --seed abc": "seed: expected int, got 'abc' (CLI --seed)",
    "run --seed true": "seed: expected int, got True (CLI --seed)",
    "run --seed ''": "seed: expected int, got '' (CLI --seed)",
    "run --seed 99999999999999999999999999": "seed: must fit into 64 bits, got 1.000e+26 (CLI --seed)",
    "run --width 99999999999999999999999999": "width: must fit into 64 bits",
    "run --train.lr 1e-400": "train.lr: must be > 0.0, got 0.0 (CLI --train.lr)",
    "run --train.lr 1e400": "train.lr: must be a finite number, got inf (CLI --train.lr)",
    "run --train.lr nan": "train.lr: must be a finite number, got nan (CLI --train.lr)",
    "run --train.lr -1": "train.lr: must be > 0.0, got -1.0 (CLI --train.lr)",
    "run --train.lr -inf": "no flag -inf",
    "run --train.lr=-inf": "train.lr: must be a finite number, got -inf",
    "run --train.lr '\"0.1\"'": "train.lr: expected float, got '0.1' (CLI --train.lr)",
    "run --train.lr [1]": "train.lr: expected float, got [1] (CLI --train.lr)",
    "run --train.lr": "train.lr: a value is missing: expected float (CLI --train.lr)",
    f"run --train.lr 1{400 * '0'}": "train.lr: expected float, got 1000",
    "run --train.betas 0.9": "train: betas are two numbers in [0, 1), got [0.9] (CLI --train.betas)",
    "run --train.betas 0.9,x": "train.betas: expected float, got 'x' (CLI --train.betas)",
    "run --train.betas '(0.9,0.99)'": "train.betas: expected float, got '(0.9' (CLI --train.betas)",
    "run --train.betas [0.9,0.99": "train.betas: expected float, got '[0.9' (CLI --train.betas)",
    "run --train.betas ''": "train: betas are two numbers in [0, 1), got [] (CLI --train.betas)",
    "run --train.precision fp16": "train.precision: expected fp32|bf16, got 'fp16'. Did you mean 'fp32'?",
    "run --train.ema 1": "train.ema: must be >= 0.0 and < 1.0, got 1.0 (CLI --train.ema)",
    "run --train.steps 1e3": "train.steps: expected int, got 1000.0 (CLI --train.steps)",
    "run --train.steps 0": "steps and epochs are both 0, so there is nothing to train (CLI --train.steps)",
    "run --rotate yes": "rotate: expected true|false, got 'yes' (CLI --rotate)",
    "run --rotate 1": "rotate: expected true|false, got 1 (CLI --rotate)",
    "run --rotate True": "rotate: expected true|false, got 'True' (CLI --rotate)",
    "run --device gpu": "device: expected auto|cpu|cuda, got 'gpu'. Did you mean 'cpu'? (CLI --device)",
    "run --data.dims 4": "data.dims: must be >= 2 and <= 3, got 4 (CLI --data.dims)",
    "run --data.cut.by sections": "data.cut.by: expected auto|section|cell, got 'sections'. Did you mean 'section'?",
    "run --executor.slots 0": "executor.slots: must be >= 1, got 0 (CLI --executor.slots)",
    "run --width 0 --depth x --train.lr -1": "depth: expected int, got 'x' (CLI --depth)",
    # contradictions
    "run --seed 1 --seed 2": "--seed is given twice, as '1' and as '2'; keep one",
    "run --seed=1 --seed 2": "--seed is given twice, as '1' and as '2'; keep one",
    "run --attention linear --attention.name softmax": "--attention.name is given twice",
    "run --gate headwise --attention.gate elementwise": "attention.gate is given twice, as 'headwise' (CLI --gate)",
    "run --train.steps 10 --train.epochs 2": "both say how long to train; give one",
    "run --attention linear --sparsifier softmax": (
        "sparsifier: attention 'linear' takes no sparsifier, because linear attention forms no logits (CLI"
    ),
    "run --attention linear --attention.kernel sdpa": "takes no kernel, because linear attention forms no logits",
    "run --attention linear --mask full": "mask: attention 'linear' takes no mask",
    "run --gate none --gate.bias 2": "attention.gate.bias: unknown parameter. 'none' takes no parameters (CLI",
    "run --data.path x --data tissue": "data.path: unknown parameter",
    "run --data.path x.h5ad": "data.path: unknown parameter",
    # words and flags of the verb
    "run gated_headwise": "'gated_headwise' is no configuration file (.toml); did you mean --attention gated_headwise?",
    "run headwise": "did you mean --gate headwise?",
    "run moe4x2": "'moe4x2' is no configuration file (.toml)",
    "run seed=3": "'seed=3' is no configuration file (.toml)",
    "run --": "'--' belongs to no flag",
    "run -- --seed 1": "'--' belongs to no flag",
    "run --=3": "'--=3' belongs to no flag",
    "run -o": "-o needs a value",
    "run -o --dry-run": "-o needs a value",
    "run --out=": "--out needs a value",
    "run -o a -o b": "-o is given twice, as 'a' and as 'b'; keep one",
    "run --seeds": "--seeds needs a value",
    "run --seeds 0": "--seeds: must be >= 1, got 0",
    "run --seeds abc --dry-run": "--seeds: expected int, got 'abc'",
    "run --seeds 1.5": "--seeds: expected int, got 1.5",
    "run --dryrun": "dryrun: unknown parameter. Did you mean --dry-run?",
    "run --dry-rn": "dry_rn: unknown parameter. Did you mean --dry-run?",
    "run --forec": "forec: unknown parameter. Did you mean --force?",
    "run --dry-run=true": "--dry-run takes no value, not 'true'",
    "run --help=me": "--help takes no value, not 'me'",
    "run -n": "no flag -n",
    "run -qq": "no flag -qq. Did you mean '-q'?",
    # data
    "run --data": "CLI --data: a name is missing. Known: tissue, h5ad",
    "run --data tisue": "CLI --data: no data is called 'tisue'. Did you mean 'tissue'?",
    "run --data h5ad": "data.path: a value is needed",
    "run --data h5ad --data.path": "data.path: a value is missing: expected text (CLI --data.path)",
    "run --data x.csv": "CLI --data: no data reads 'x.csv': files must end in .h5ad",
    "run --data ~/cells": "CLI --data: no data reads '~/cells'",
    "run --data missing.h5ad": "missing.h5ad': there is no such file",
    "run --data 'missing (1).h5ad'": "missing (1).h5ad': there is no such file",
    "run --data folder.h5ad": "is a folder",
    "run --data text.h5ad": "text.h5ad cannot be read as an h5ad file",
    # files
    "run missing.toml": "no file missing.toml. There are broken.toml,",
    "run goood.toml": "no file goood.toml. Did you mean good.toml?",
    "run nowhere/x.toml": "no file nowhere/x.toml.",
    "run folder.toml": "folder.toml cannot be read: [Errno 21] Is a directory",
    "run latin.toml": "latin.toml cannot be read: 'utf-8' codec can't decode byte 0xfc in position 11",
    "run broken.toml": "broken.toml is not TOML: Expected ']' at the end of a table declaration (at line 1, column",
    "run unknown.toml": "ffn.topk: unknown parameter. Did you mean 'top_k'?",
    "run text.toml": "train.steps: expected int, got '12' (text.toml:2)",
    "run float.toml": "attention.heads: expected int, got 4.0 (float.toml:2)",
    "run number.toml": "number.toml:1: attention is chosen by name, not by 3",
    "run table.toml": "train is a table. Give its parameters one by one",
    "run tables.toml": "train is a table. Give its parameters one by one",
    "run date.toml": "train.steps: expected int, got datetime.date(1979, 5, 27) (date.toml:2)",
    "run nan.toml": "seed: expected int, got nan (nan.toml:1)",
    "run list.toml": "list.toml:1: no metric is called 'rsd'. Did you mean 'rssd'?",
    "run metrics.toml": "metrics: expected a list of names, got 3 (metrics.toml:1)",
    "run inline.toml": "ffn.topk: unknown parameter. Did you mean 'top_k'?",
    "run section.toml": "run.seed: unknown parameter",
    "run twice.toml": "as 'headwise' (twice.toml:1) and as 'elementwise' (twice.toml:3); keep one",
    "run recipe.toml": "recipe.toml:1: no recipe is called 'rectified'",
    "run kind.toml": "attention.gate.bias: expected float, got True (kind.toml:3)",
    "run good.toml --train.lr x": "train.lr: expected float, got 'x' (CLI --train.lr)",
    # explain, resume, report
    "explain fnn": "'fnn' is no value of this configuration. Did you mean 'ffn'?",
    "explain ffn.topk --ffn moe4x2": "Did you mean 'ffn.top_k'?",
    "run --mask full_fallback --mask.mask causal": "takes no mask 'causal', because it drops the window of the mask",
    "show ffn moe4x9": "top_k must be between 1 and experts=4, got 9",
    "explain a b": "'b' is no configuration file",
    "explain -o x": "no flag -o",
    "explain --dry-run": "dry_run: unknown parameter",
    "resume": "which run? usage: core resume RUN",
    "resume nowhere": "nowhere holds no run (no run.json). `core run` begins one.",
    "resume good.toml": "good.toml is a file; a run's directory is wanted",
    "resume folder.toml --seed 3": "folder.toml holds no run",
    "resume a b": "`core resume` takes one run directory, not a and b",
    "report": "which run? usage: core report RUN",
    "report nowhere": "nowhere holds no run (no run.json)",
    "report a b": "takes one run directory; 'b' is too much",
}  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_message_and_status_2(core: Callable, line: str) -> None:
    """What was given, where, what is allowed or near, on one message; nothing on the other stream."""
    assert MISTAKES[line] in message(core(*shlex.split(line)))


def test_the_lines_of_a_file_are_named(core: Callable) -> None:
    """Several mistakes of a file come together, each with its line."""
    text = message(core("run", "unknown.toml"))
    assert [line.rpartition(" ")[2] for line in text.splitlines()] == ["(unknown.toml:2)", "(unknown.toml:6)"]
    assert "(inline.toml:2)" in message(core("run", "inline.toml"))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CORE_TRAIN__STEPS", "abc", "train.steps: expected int, got 'abc' (environment CORE_TRAIN__STEPS)"),
        ("CORE_TRAIN__STEPS", "", "train.steps: expected int, got '' (environment CORE_TRAIN__STEPS)"),
        ("CORE_TRAIN__STEPZ", "3", "Did you mean 'steps'?"),
        ("CORE_TRAIN", "3", "train is a table"),
        (
            "CORE_ATTENTION",
            "liner",
            "environment CORE_ATTENTION: no attention is called 'liner'. Did you mean 'linear'?",
        ),
        ("CORE_RECIPE", "rectified", "environment CORE_RECIPE: no recipe is called 'rectified'"),
        ("CORE_SOMETHING", "3", "something: unknown parameter"),
        ("CORE_", "3", "(environment CORE_)"),
        ("CORE_DATA__CUT__SECTION", os.fsdecode(b"\xff"), "environment CORE_DATA__CUT__SECTION: "),
        ("CORE_CONFIG", "broken.toml", "broken.toml: Expected ']'"),
        ("CORE_CONFIG", "latin.toml", "latin.toml: 'utf-8' codec"),
        ("CORE_CONFIG", "folder.toml", "folder.toml: [Errno 21] Is a directory"),
    ],
)
def test_mistakes_in_the_environment(
    core: Callable, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    """A variable is named as a flag is; a broken settings file is told by every verb."""
    if name == "CORE_DATA__CUT__SECTION":
        says += "'\\udcff' is no UTF-8 text"
        says = says.replace("environment ", "")
    monkeypatch.setenv(name, value)
    assert says in message(core("run", "--dry-run"))
    if name == "CORE_CONFIG":
        assert says in message(core("list"))


def test_pieces_that_do_not_fit_are_told_before_anything_is_trained(core: Callable) -> None:
    """Heads that do not divide the width, and cuts that leave nothing, with what would fit."""
    small = [word for word in SMALL if not word.startswith("--attention.heads")]
    text = message(core("run", *small, "--attention.heads=7", "--dry-run"))
    assert "a width of 16 does not divide into 7 heads; heads may be 1, 2, 4, 8, 16" in text
    for system, owner in (("spatial", "attention"), ("perturb", "backbone.frame")):
        text = message(core("run", f"--system={system}", "--width=20", "--data.cells=60", "--dry-run"))
        assert "a width of 20 does not divide into 8 heads" in text
        assert "or the width a multiple of 8" in text
        assert f"(width = 20 from CLI --width, {owner}.heads = 8 from default of " in text
    text = message(core("run", *SMALL, "--data.cut.test=0.9", "--data.cut.valid=0.5", "--dry-run"))
    assert "cut.test = 0.9 and cut.valid = 0.5 leave nothing to train on" in text


@pytest.mark.parametrize(
    "words",
    [
        ["--gate", "headwise", "--attention", "linear"],
        ["--ffn", "moe4x2", "--ffn.top-k", "1"],
        ["--ffn", "cellcore/moe4x2"],
        ["--recipe", "rectified_flow", "--path", "cosine"],
        ["--recipe", ""],
        ["--metrics", '["rssd", "procrustes"]'],
        ["--metric", "rssd"],
        ["--position_path", "none"],
        ["--train.lr", ".001"],
        ["--train.epochs", "2"],
        ["--train.epochs", "2", "--train.steps", "0"],
        ["--train.betas", "[0.9, 0.99]"],
        ["--rotate"],
        ["--rotate", "false"],
        ["good.toml", "good.toml"],
        ["--seed", "1", "--seed", "1"],
    ],
)
def test_what_is_unusual_and_right_is_no_mistake(core: Callable, words: list[str]) -> None:
    """Short and long spellings, empty lists, repeated words: resolved without a complaint."""
    said = core("explain", *words)
    assert (said.code, said.err) == (0, "")


def test_a_dry_run_says_what_would_be_trained(core: Callable, desk: Path) -> None:
    """Configuration with origins, parameters, FLOPs and directory; nothing is written."""
    before = sorted(desk.iterdir())
    said = core("run", *SMALL, "--ffn", "moe4x2", "--dry-run")
    assert (said.code, said.err) == (0, "")
    assert "ffn.experts              4" in said.out
    assert "name moe4x2 (was 4: default of Moe)" in said.out
    assert "CLI --data.cells (was 1500: default of Tissue)" in said.out
    assert all(f"\n{word} " in said.out for word in ("parameters", "FLOPs", "directory"))
    assert "runs/spatial/" in said.out
    assert sorted(desk.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--mask", "neighbours"],
         ["decided with the data, as the mask must know more; for 1,024 tokens in a plane, of two equal sides:",
          "nothing padded: gather; sdpa knows full", "padded: gather; ", "with a bias: sdpa_masked; "]),
        (["--mask", "neighbours", "--kernel", "gather"],
         ["decided with the data", "nothing padded: gather", "padded: gather", "with a bias: none; gather takes"]),
        (["--sparsifier", "topk3"], ["nothing padded: reference; ", "padded: reference; ", "with a bias: reference; "]),
    ],
)  # fmt: skip
def test_explain_names_the_kernel(core: Callable, words: list[str], lines: list[str]) -> None:
    """Which one runs, and why the others do not, also where the mask must be told of its tokens."""
    said = core("explain", "attention", *words).out.partition("kernels of attention (softmax) on ")[2].splitlines()[1:]
    assert len(said) == len(lines)
    assert all(line.strip().startswith(start) for line, start in zip(said, lines, strict=True)), said


def test_explain_shows_one_branch(core: Callable) -> None:
    """A key, also an abbreviated one, shows that value and what is below it, as the whole table does."""
    whole = core("explain", "--gate", "headwise").out.splitlines()
    assert [line.split()[0] for line in core("explain", "gate", "--gate", "headwise").out.splitlines()] == [
        "attention.gate",
        *(f"attention.gate.{knob}" for knob in ("bias", "weights", "spectral", "spectral_bound", "spectral_weight")),
    ]
    for line in core("explain", "train", "--gate", "headwise").out.splitlines():
        assert line in whole


def test_deprecated_and_unused_choices_are_noted_not_refused(core: Callable, site: Path, desk: Path) -> None:
    """A note on the other stream, status 0."""
    package(site, "acme", 'api = 1\n[gate.per_head]\ndeprecated = "headwise"\n')
    said = core("explain", "gate", "--gate", "per_head")
    assert said.code == 0
    assert said.err == "note: CLI --gate: gate 'per_head' is deprecated; use 'headwise'\n"
    (desk / "moe.toml").write_text("[ffn]\nname = 'moe4x2'\njitter = 0.1\n")
    said = core("explain", "moe.toml", "--ffn", "dense")
    assert said.code == 0
    assert said.err == "note: ffn.jitter = 0.1 (moe.toml:3) is not used: ffn was replaced by a later choice\n"


class TestThirdParties:
    """Mistakes of others, and clashes between them, seen from the command line."""

    def test_a_missing_requirement_is_told_with_the_line_that_installs_it(self, core: Callable, site: Path) -> None:
        """`needs` is checked before anything is imported."""
        row = ROW.format(module="acme") + 'needs = ["no-such-thing>=2"]\n'
        package(site, "acme", "api = 1\n" + row, init="raise RuntimeError")
        text = message(core("run", "--gate", "swish"))
        assert "attention.gate: gate 'swish' (from acme 1.0) needs no-such-thing>=2." in text
        assert "Install with: pip install 'no-such-thing>=2'" in text

    @pytest.mark.parametrize(
        ("modules", "says"),
        [
            ({"gates": "1 / 0"}, "raised ZeroDivisionError: division by zero"),
            ({"gates": "x = 1"}, "has no attribute 'Swish'"),
            ({"other": ""}, "No module named 'acme.gates'"),
            ({"gates": "class Swish:\n    KIND = 'gate'"}, "decorate it with @params"),
        ],
    )
    def test_a_broken_piece_is_told_only_to_who_asks_for_it(
        self, core: Callable, site: Path, modules: dict, says: str
    ) -> None:
        """Chosen, it is a message with the flag; not chosen, it is in nobody's way."""
        package(site, "acme", "api = 1\n" + ROW.format(module="acme"), modules=modules)
        text = core("run", "--gate", "swish")
        assert (text.code, text.out) == (2, "")
        assert text.err.startswith("core: attention.gate: gate 'swish' (from acme 1.0)")
        assert says in text.err
        assert text.err.endswith("(CLI --gate)\n")
        assert core("explain", "--gate", "headwise").code == 0

    def test_a_row_of_a_broken_manifest_is_an_unknown_name(self, core: Callable, site: Path) -> None:
        """What could not be read cannot be chosen."""
        package(site, "acme", 'api = 1\n[gate.swish]\ntarget = "acme.gates:Swish"\n')
        assert "no gate is called 'swish'" in message(core("run", "--gate", "swish"))

    def test_a_clash_is_settled_by_full_name_or_settings(
        self, core: Callable, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The bare name is refused with both ways out; each of them works."""
        swish(site, "acme-gates")
        swish(site, "other")
        text = message(core("run", "--gate", "swish"))
        assert "CLI --gate: gate 'swish' is claimed by acme-gates/swish and other/swish" in text
        assert f'`gate.swish = "acme-gates"` into {os.devnull}' in text
        assert "swish" in core("explain", "gate", "--gate", "other/swish").out
        (tmp_path / "config.toml").write_text('[prefer]\ngate.swish = "other"\n')
        monkeypatch.setenv("CORE_CONFIG", str(tmp_path / "config.toml"))
        installed.cache_clear()
        said = core("explain", "gate", "--gate", "swish")
        assert (said.code, said.err) == (0, "")


class TestProcess:
    """The same in a process of its own."""

    def test_a_mistake_in_a_fresh_process(self, tmp_path: Path) -> None:
        """Status, streams and form are those seen inside."""
        said = command("run", "--ffn", "meo4x2", cwd=tmp_path)
        assert (said.returncode, said.stdout) == (2, "")
        assert said.stderr.startswith("core: CLI --ffn: no ffn is called 'meo4x2'. Did you mean")
        assert len(said.stderr.splitlines()) == 1

    def test_bytes_that_are_no_text(self, tmp_path: Path) -> None:
        """An argument in another encoding is refused by name, before it reaches a file."""
        said = command("run", "--data.cut.section", os.fsdecode(b"\xff"), cwd=tmp_path)
        assert (said.returncode, said.stdout) == (2, "")
        assert said.stderr == "core: --data.cut.section: '\\udcff' is no UTF-8 text\n"


FLAGS = (
    "--attention --ffn --gate --seed --train --train.lr --metrics --data --recipe --width --system --device --gate.bias"
)
LOOSE = (
    "-o -- -q --seeds --dry-run --ffn= --metrics[0] --ffn.top_k=2 good.toml broken.toml gate [ = - -1 3 nan true none"
)
NAMES = (
    "softmax linear moe4x2 moe(experts=2) headwise cellcore/softmax cuda x.h5ad tissue rssd,rssd rectified_flow spatial"
)
WORDS = st.sampled_from([*FLAGS.split(), *LOOSE.split(), *NAMES.split(), ""])


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(WORDS | st.text(max_size=4), max_size=5))
def test_no_command_line_leaks_a_traceback(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is typed behind `core explain`: status 0 and a table, or status 2 and one message."""
    code = main(["explain", *words])
    said = capsys.readouterr()
    if code == 0:
        assert said.out
    else:
        assert code == 2
        assert said.err.startswith("core: ")
        assert "Traceback" not in said.err
