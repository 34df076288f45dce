"""Which runs are the same run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import Layer, resolve
from core.errors import UserError
from core.identity import canonical_json, digest, run_identity
from core.names import Text
from core.registry import Origin
from core.train.provenance import code_of
from core.train.rundir import RunDir
from tests.fakes import MANIFEST, Root, Task, registry

law = settings(deadline=None, max_examples=150)
FAKES = registry()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0.0, -0.0, 1.0, 0.1])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abé\u200b", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Equality as a run means it: type by type, lists and tuples alike, whatever the order of keys."""
    if isinstance(a, Mapping) or isinstance(b, Mapping):
        both = isinstance(a, Mapping) and isinstance(b, Mapping)
        return both and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) or isinstance(b, (list, tuple)):
        both = isinstance(a, (list, tuple)) and isinstance(b, (list, tuple))
        return both and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def disguised(value: Any) -> Any:
    """The same value, written otherwise: keys in another order, tuples for lists, the other zero."""
    if isinstance(value, Mapping):
        return {key: disguised(value[key]) for key in sorted(value, reverse=True)}
    if isinstance(value, list):
        return tuple(map(disguised, value))
    return -value if isinstance(value, float) and value == 0 else value


@law
@given(value=VALUES)
def test_one_value_has_one_text(value: Any) -> None:
    """Order of keys, tuple or list, and the sign of zero tell no runs apart; the text reads back as the value."""
    assert canonical_json(disguised(value)) == canonical_json(value)
    assert digest(disguised(value)) == digest(value)
    assert same(json.loads(canonical_json(value)), value)


@law
@given(a=VALUES, b=VALUES)
def test_two_values_have_two_texts(a: Any, b: Any) -> None:
    """Texts are equal exactly if values are: True is not 1, "1" is not 1, 1 is not 1.0, [] is not {}."""
    assert (canonical_json(a) == canonical_json(b)) == same(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (True, 1),
        (False, 0),
        (1, 1.0),
        ("1", 1),
        (None, "null"),
        ([], {}),
        ("", None),
        ("a", ["a"]),
        (0.1, 0.1 + 1e-17 + 2e-17),
    ],
)
def test_neighbours_are_told_apart(a: Any, b: Any) -> None:
    """Values that Python, or a careless spelling, would take for equal."""
    assert canonical_json(a) != canonical_json(b)
    assert canonical_json({"x": [a]}) != canonical_json({"x": [b]})


@law
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_the_spelling_of_a_number_is_irrelevant(value: float) -> None:
    """1e-3 and 0.001, however they were typed, are one value, and no digit of it is lost."""
    spellings = {repr(value), f"{value:.17g}", f"{value:.25e}"}
    assert {canonical_json(float(text)) for text in spellings} == {canonical_json(value)}
    assert float(canonical_json(value)) == value


def test_the_canonical_text() -> None:
    """Sorted keys, no spaces, shortest floats, plain letters."""
    assert canonical_json({"b": (1, -0.0), "a": {"é": None, "d": 1e-3}}) == '{"a":{"d":0.001,"é":null},"b":[1,0.0]}'


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, {1}, b"x", object(), 1j, {1: "a"}, {None: 1}, {"a": [math.nan]}]
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    """nan, infinity, other types, and keys that are no text (1 and "1" would be one key)."""
    with pytest.raises(ValueError):
        canonical_json(value)


def identity(said: dict[str, Any] | None = None, *, root: type = Root, found: Any = FAKES) -> str:
    layer = Layer("CLI", {key: (value, "CLI") for key, value in (said or {}).items()})
    return digest(run_identity(resolve(root, [layer], found), "data", "cpu"))


@pytest.mark.parametrize(
    "said",
    [
        {"plan.log": 7},
        {"plan.limit": Text("5e-1")},
        {"ffn": "wide4x2"},
        {"ffn": "wide(top_k=2)"},
        {"ffn.rate": Text("1e-1")},
        {"attention": "heads", "gate": "shut"},
        {"extra": "none"},
        {"metrics": ["share(share=0.1)"]},
        {"plan.rates": Text("0.9,0.99")},
    ],
)
def test_another_way_to_say_the_same_is_the_same_run(said: dict) -> None:
    """Spellings, defaults said aloud, and parameters that change no number."""
    assert identity(said) == identity()


@pytest.mark.parametrize(
    "said",
    [
        {"width": 17},
        {"open": True},
        {"title": "x"},
        {"ffn": "tall"},
        {"ffn.rate": 0.2},
        {"gate": "bent"},
        {"attention": "only_shut"},
        {"mask": "none"},
        {"mask.radius": 9},
        {"extra": "wide"},
        {"metrics": []},
        {"metrics": ["share", "share"]},
        {"metrics": ["share(share=0.2)"]},
        {"plan.limit": "none"},
        {"plan.rates": [0.99, 0.9]},
    ],
)
def test_any_number_and_any_piece_is_part_of_a_run(said: dict) -> None:
    """One value, one name, one place in a list, one slot emptied: another run."""
    assert identity(said) != identity()


def test_pieces_that_change_no_number_are_left_out() -> None:
    """A slot marked so is left out with everything below it."""
    assert identity({"tracker": "wide", "tracker.rate": 0.9}, root=Task) == identity(root=Task)
    assert identity({"gate": "bent"}, root=Task) != identity(root=Task)


def test_who_implements_a_piece_is_part_of_a_run() -> None:
    """Another revision, or the same name by another distribution, is another run."""
    revised = registry(MANIFEST.replace('summary = "Experts."', 'summary = "Experts."\nrevision = 2'))
    assert identity(found=revised) != identity()
    assert identity(found=registry(origin=Origin("acme", "0"))) != identity()
    assert identity(found=registry(origin=Origin("cellcore", "9"))) == identity()


class Reading:
    """A piece that reads a file."""

    def __init__(self, content: str) -> None:
        self.content = content

    def fingerprint(self) -> str:
        return self.content


def test_files_that_a_piece_reads_are_part_of_a_run() -> None:
    """Their content and not their place; a piece that reads none, or that cannot change a number, adds nothing."""
    resolved = resolve(Root, [], FAKES)
    plain = run_identity(resolved, "data", "cpu")
    found = [
        run_identity(attrs.evolve(resolved, pieces={**resolved.pieces, "ffn": Reading(content)}), "data", "cpu")
        for content in ("", "a", "b", "a")
    ]
    assert found[0] == plain
    assert found[1]["files"] == {"ffn": "a"}
    assert found[1] == found[3]
    assert len({digest(each) for each in found}) == 3
    aside = attrs.evolve(resolved.settings["ffn"], identity=False)
    silent = attrs.evolve(resolved, settings={**resolved.settings, "ffn": aside})
    assert "files" not in run_identity(attrs.evolve(silent, pieces={"ffn": Reading("a")}), "data", "cpu")


def test_data_device_and_numerics_are_part_of_a_run() -> None:
    """The same configuration on other data or another class of device is another run; the place of a file is not."""
    resolved = resolve(Root, [], FAKES)
    identities = {digest(run_identity(resolved, data, device)) for data in ("a", "b") for device in ("cpu", "cuda")}
    assert len(identities) == 4
    assert {"config", "parts", "data", "device", "streams", "numerics"} == {*run_identity(resolved, "a", "cpu")}


IDENTITY: dict[str, Any] = {
    "config": {"width": 16, "attention.heads": 4},
    "parts": {"system": "cellcore/spatial@1", "attention": "cellcore/softmax@1"},
    "data": "abc",
    "device": "cpu",
    "numerics": 1,
}
CODE: list[dict[str, Any]] = [
    {"numerics": 2},
    {"parts": {"system": "cellcore/spatial@2", "attention": "cellcore/softmax@1"}},
    {"config": {"width": 16, "attention.heads": 4, "origin": "controls"}},
    {"config": {"width": 16}},
]
OTHER: list[dict[str, Any]] = [
    {"config": {"width": 24, "attention.heads": 4}},
    {"parts": {"system": "cellcore/spatial@2", "attention": "cellcore/linear@1"}},
    {"parts": {"system": "cellcore/spatial@1", "attention": "acme/softmax@1"}},
    {"data": "def", "numerics": 2},
    {"device": "cuda"},
]


@pytest.mark.parametrize("change", [*CODE, *OTHER], ids=str)
def test_a_run_of_other_code_is_not_called_another_run(change: dict[str, Any], tmp_path: Path) -> None:
    """Where only revisions, arithmetic or the set of parameters differ it is the code, told with the versions in the
    run's record; a value, a piece, the data or the device make another run. Either is left as it was."""
    run = RunDir.open(tmp_path / "run", IDENTITY, {})
    run.set(environment={"distributions": {"cellcore": "0.0.7"}, "commit": "0123456789abcdef+"})
    run.close()
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError) as caught:
        RunDir.open(tmp_path / "run", IDENTITY | change, {})
    said = str(caught.value)
    assert ("made with other code (cellcore 0.0.7 at 012345678+ there" in said) == (change in CODE)
    assert ("holds another run" in said) == (change in OTHER)
    assert "--force" in said
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert code_of({}) == ""
    RunDir.open(tmp_path / "run", IDENTITY, {}).close()
