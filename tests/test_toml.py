"""The resolved configuration as a file that repeats the run, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import toml
from core.cli.choose import resolve_run
from core.config import Layer, Resolved, resolve
from core.errors import UserError
from core.files import sync_file, write_atomic, write_json
from core.identity import digest, run_identity
from core.layers import file_layer
from core.names import Text
from core.registry import Origin, Registry
from tests.fakes import LEAVES, MANIFEST, TEXTS, Root, Share, Task, made, registry

law = settings(deadline=None, max_examples=80)
FAKES = registry()
CHOICES: dict[str, st.SearchStrategy] = {
    "width": st.integers(1, 2**62),
    "title": TEXTS,
    "open": st.booleans(),
    "attention": st.sampled_from(["heads", "bent_heads", "heads(heads=3, gate=bent5)", "cellcore/bent_heads"]),
    "attention.heads": st.integers(1, 9),
    "mask": st.sampled_from(["none", "window", "window(radius=3)"]),
    "second": st.sampled_from(["none", "tall"]),
    "ffn": st.sampled_from(["wide", "wide9x2", "tall"]),
    "ffn.rate": st.floats(0, 0.999),
    "extra": st.sampled_from(["none", "wide4x1", "tall(rate=0.5)"]),
    "metrics": st.lists(
        st.sampled_from(["share", "half", "share(share=0.3)"])
        | TEXTS.map(lambda text: f"half(label={json.dumps(text)})").filter(lambda call: "\x7f" not in call),
        max_size=3,
    ),
    "plan.steps": st.integers(0, 9),
    "plan.rates": st.lists(st.floats(0, 0.999), max_size=3),
    "plan.limit": st.just("none") | st.floats(0, 1e300, exclude_min=True),
    "plan.note": TEXTS.filter(lambda text: text != "none"),
    "plan.log": st.integers(1, 9),
}


def reread(resolved: Resolved, root: type, folder: Path, found: Registry = FAKES) -> Resolved:
    """What the dumped configuration resolves to, read as a file."""
    path = folder / "config.toml"
    path.write_text(toml.dump(resolved), encoding="utf-8")
    return resolve(root, [file_layer(str(path))], found)


def values(resolved: Resolved) -> dict[str, Any]:
    return {path: (s.value, s.row and s.row.qualified) for path, s in resolved.settings.items()}


def identity(resolved: Resolved) -> str:
    return digest(run_identity(resolved, "data", "cpu"))


@law
@given(said=st.fixed_dictionaries({}, optional=CHOICES))
def test_a_dumped_configuration_repeats_itself(said: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Dumped and read as a file, a configuration has the same values, pieces, object and identity."""
    resolved = resolve(Root, [Layer("CLI", {key: (value, f"CLI --{key}") for key, value in said.items()})], FAKES)
    again = reread(resolved, Root, tmp_path_factory.mktemp("run"))
    assert values(again) == values(resolved)
    assert again.root == resolved.root
    assert identity(again) == identity(resolved)
    assert toml.dump(reread(again, Root, tmp_path_factory.mktemp("run"))) == toml.dump(again)


@law
@given(leaves=st.lists(LEAVES, min_size=1, max_size=4), data=st.data())
def test_any_parameter_survives_the_file(
    leaves: list, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever types, bounds and defaults a class has, its values come back bit by bit."""
    cls = made(leaves)
    said = {f"p{i}": (data.draw(leaf.values), "CLI") for i, leaf in enumerate(leaves)}
    resolved = resolve(cls, [Layer("CLI", said)], FAKES)
    again = reread(resolved, cls, tmp_path_factory.mktemp("run"))
    assert repr(again.root) == repr(resolved.root)
    assert identity(again) == identity(resolved)


@law
@given(origin=TEXTS, value=TEXTS)
def test_origins_never_break_the_file(origin: str, value: str) -> None:
    """Whatever a source is called and whatever was overruled, the comment stays one comment."""
    layers = [Layer("a", {"title": (value, origin)}), Layer("b", {"title": ("last", origin)})]
    assert tomllib.loads(toml.dump(resolve(Root, layers, FAKES)))["title"] == "last"


def test_an_inline_piece_is_dumped_beside_its_slot(tmp_path: Path) -> None:
    """Its parameters stand at the level of the slot, and come back from there."""
    layers = [Layer("CLI", {k: (v, "CLI") for k, v in {"system": "bent_heads", "heads": 3, "gate.bias": 2.0}.items()})]
    resolved = resolve(Task, layers, FAKES)
    assert tomllib.loads(toml.dump(resolved))["heads"] == 3
    again = reread(resolved, Task, tmp_path)
    assert (again.root, identity(again)) == (resolved.root, identity(resolved))


def test_each_line_says_who_won_and_whom_it_overruled() -> None:
    """Origins stand behind the value, the winner first, then the others from the last to the first."""
    layers = [
        Layer("f", {"ffn": ("wide4x4", "epi.toml:2")}),
        Layer("CLI", {"ffn.top_k": (Text("2"), "CLI --ffn.top_k")}),
    ]
    lines = toml.dump(resolve(Root, layers, FAKES)).splitlines()
    assert "top_k = 2  # CLI --ffn.top_k (was 4: name wide4x4; 2: default of Wide)" in lines
    assert 'name = "wide"  # epi.toml:2 (was wide: default of Root)' in lines
    assert "rates = [0.9, 0.99]  # default of Schedule" in lines
    assert "log = 1  # default of Schedule" in lines


def test_pieces_of_others_are_dumped_by_their_full_name(tmp_path: Path) -> None:
    """A clash that a full name settled, in a slot or in a list, stays settled when the file is read."""
    found = registry()
    for name in ("acme", "other"):
        found.add(
            tomllib.loads(
                'api = 1\n[gate.swish]\ntarget = "tests.fakes:Bent"\nsummary = "x"\n'
                '[metric.swish]\ntarget = "tests.fakes:Share"\nsummary = "x"\n'
            ),
            Origin(name, "1.0"),
        )
    said = {"gate": "other/swish", "gate.bias": 2.0, "metrics": ["acme/swish(share=0.5)", "share"]}
    resolved = resolve(Root, [Layer("CLI", {key: (value, "CLI") for key, value in said.items()})], found)
    again = reread(resolved, Root, tmp_path, found)
    assert values(again) == values(resolved)
    assert again.root.metrics == (Share(share=0.5), Share())
    parts = tomllib.loads(toml.parts(resolved))
    assert parts["attention.gate"] == {
        "kind": "gate",
        "name": "other/swish",
        "version": "1.0",
        "revision": 1,
        "target": "tests.fakes:Bent",
    }
    assert parts["metrics[0]"]["name"] == "acme/swish"
    assert parts["attention"]["name"] == "cellcore/heads"


def test_what_a_preset_said_stays_when_the_preset_changes(tmp_path: Path) -> None:
    """The file holds every value, so that a later version of a row changes nothing in an old run's configuration."""
    resolved = resolve(Root, [Layer("CLI", {"ffn": ("tall", "CLI"), "metrics": ("half", "CLI")})], FAKES)
    changed = registry(MANIFEST.replace("rate = 0.25", "rate = 0.75").replace("share = 0.5", "share = 0.9"))
    assert reread(resolved, Root, tmp_path, changed).root == resolved.root


class TestWriting:
    """`core.files`."""

    @law
    @given(content=st.binary() | TEXTS, before=st.none() | st.binary())
    def test_a_file_is_replaced_whole(
        self, content: bytes | str, before: bytes | None, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """The file holds exactly what was written, and nothing temporary stays beside it."""
        path = tmp_path_factory.mktemp("files") / "x"
        if before is not None:
            path.write_bytes(before)
        write_atomic(path, content)
        sync_file(path)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
        assert [p.name for p in path.parent.iterdir()] == ["x"]

    @pytest.mark.parametrize("at", ["fsync", "replace"])
    def test_a_failure_leaves_the_old_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
        """A full disk at any point of the way: the old content stands, nothing temporary stays."""
        path = tmp_path / "x"
        path.write_text("old")

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(*((os, "fsync", full) if at == "fsync" else (Path, "replace", full)))
        with pytest.raises(OSError, match="No space"):
            write_atomic(path, "new")
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["x"]

    def test_json_is_readable_and_finite(self, tmp_path: Path) -> None:
        """Text stays text; nan and infinity, which JSON does not know, are refused and the old file stands."""
        write_json(tmp_path / "x", {"a": "Grün", "b": [1, 2.5]})
        assert "Grün" in (tmp_path / "x").read_text("utf-8")
        for value in (float("nan"), float("inf")):
            with pytest.raises(ValueError):
                write_json(tmp_path / "x", value)
        assert json.loads((tmp_path / "x").read_text("utf-8")) == {"a": "Grün", "b": [1, 2.5]}


def test_a_configuration_that_says_none_says_it_in_words(tmp_path: Path) -> None:
    """TOML has no null: an emptied slot and an emptied number are written as "none" where the default is something."""
    said = {"mask": ("none", "CLI"), "plan.limit": (Text("none"), "CLI")}
    doc = tomllib.loads(toml.dump(resolve(Root, [Layer("CLI", said)], FAKES)))
    assert (doc["attention"]["mask"], doc["plan"]["limit"]) == ("none", "none")
    assert "note" not in doc["plan"]
    assert "extra" not in doc
    with pytest.raises(UserError, match="expected float, got 'none'"):
        resolve(Root, [Layer("f", {"ffn.rate": ("none", "f.toml:1")})], FAKES)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--train.epochs", "2"],
        ["--train.epochs", "2", "--train.steps", "0"],
        ["--recipe", "rectified_flow", "--path", "cosine"],
        ["--attention", "gated_headwise", "--gate.bias", "-2", "--attention.heads", "4"],
        ["--attention", "linear", "--attention.features", "elu"],
        ["--ffn", "moe8x2(jitter=0.1)", "--position_path", "cond_ot"],
        ["--metrics", "contact_f1(percentile=0.05),rssd", "--expression_loss", "mse"],
        ["--metrics", "rssd", "--rotate", "--train.betas", ".9,.95"],
        ["--data", "cells (1).h5ad", "--data.section", 'the "third", # 3'],
    ],
    ids=" ".join,
)
def test_a_run_is_repeated_from_its_own_configuration(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`core run config.toml`, as `core resume`, resolves to values, pieces and identity of the run that wrote it."""
    monkeypatch.chdir(tmp_path)
    resolved = resolve_run([], words)
    (tmp_path / "config.toml").write_text(toml.dump(resolved), encoding="utf-8")
    again = resolve_run(["config.toml"], [])
    assert values(again) == values(resolved)
    assert again.root == resolved.root
    assert identity(again) == identity(resolved)
    assert again.notes == ()
