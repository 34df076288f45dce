"""Parameters declared once: checked when the class is made, bounded when a value is set, strict when one is read."""

from __future__ import annotations

import math
from typing import Any, Literal, Optional

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.kinds import Gate, Metric
from core.names import Bare, Text
from core.params import NotFinite, fields, group, knob, params, slot, spell_type, summary
from core.structure import structure
from tests.fakes import LEAVES, Heads, Root, Schedule, made

law = settings(deadline=None, max_examples=80)


def declared(hint: Any, field: Any, name: str = "x", doc: str | None = "Some class.") -> type:
    return params(type("Some", (), {"__doc__": doc, "__annotations__": {name: hint}, name: field}))


@law
@given(spec=st.lists(LEAVES, min_size=1, max_size=5))
def test_a_declared_class_keeps_what_it_was_told(spec: list) -> None:
    """`fields` gives every parameter in order with type, default and bounds; instances are frozen, keyword-only."""
    cls = made(spec)
    found = list(fields(cls))
    assert [f.name for f in found] == [f"p{i}" for i in range(len(spec))]
    for field, leaf in zip(found, spec, strict=True):
        assert (field.type, field.default, field.bounds) == (leaf.hint, leaf.default, leaf.bounds)
        assert field.role == "knob"
        assert not field.required
        assert field.spell()
    one = cls()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.p0 = spec[0].default
    with pytest.raises(TypeError):
        cls(spec[0].default)
    assert summary(cls) == "Generated."


@law
@given(spec=st.lists(LEAVES, min_size=1, max_size=4), data=st.data())
def test_every_value_in_bounds_is_taken_and_kept(spec: list, data: st.DataObject) -> None:
    """A value of the declared type within its bounds goes in and comes out unchanged, with its type."""
    cls = made(spec)
    given_values = {f"p{i}": data.draw(leaf.values) for i, leaf in enumerate(spec)}
    one = cls(**given_values)
    for name, value in given_values.items():
        assert getattr(one, name) == value
        assert type(getattr(one, name)) is type(value)


@law
@given(low=st.integers(-50, 50), width=st.integers(0, 9), value=st.integers(-80, 80), strict=st.booleans())
def test_bounds_hold_exactly(low: int, width: int, value: int, strict: bool) -> None:
    """`ge` and `le` take their limits in, `gt` and `lt` leave them out; each item of a list is held to them."""
    bounds = {"gt": low, "lt": low + width} if strict else {"ge": low, "le": low + width}
    allowed = low < value < low + width if strict else low <= value <= low + width
    one = declared(int, knob(attrs.NOTHING, "a number", **bounds))
    many = declared(tuple[int, ...], knob((), "numbers", **bounds))
    for build in (lambda: one(x=value), lambda: many(x=(value,))):
        if allowed:
            build()
        else:
            with pytest.raises(ValueError, match=f"must be .*{low}.*got {value}"):
                build()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, (0.5, math.nan)])
def test_no_parameter_is_nan_or_infinite(value: float) -> None:
    """Neither a float nor an item of a list of floats may be nan or infinite."""
    hint = tuple[float, ...] if isinstance(value, tuple) else float
    with pytest.raises(NotFinite, match="finite"):
        declared(hint, knob(attrs.NOTHING, "a number"))(x=value)


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
def test_whole_numbers_fit_into_64_bits(value: int) -> None:
    """What TOML and a tensor cannot hold is refused; the ends of the range are not."""
    cls = declared(int, knob(0, "a number"))
    with pytest.raises(ValueError, match="64 bits"):
        cls(x=value)
    assert cls(x=2**63 - 1).x == 2**63 - 1
    assert cls(x=-(2**63)).x == -(2**63)


@pytest.mark.parametrize(
    ("hint", "field", "says"),
    [
        (int, 3, "declare it with"),
        (int, attrs.field(default=3), "declare it with"),
        (int, knob(3, " "), "help"),
        (list, knob([], "a list"), "no type a file or flag can spell"),
        (dict, knob({}, "a table"), "no type a file or flag can spell"),
        (tuple[int, int], knob((1, 2), "a pair"), "no type a file or flag can spell"),
        (complex, knob(1j, "a number"), "no type a file or flag can spell"),
        (int, knob(1.5, "a number"), "default 1.5 is not int"),
        (int, knob(True, "a number"), "default True is not int"),
        (int, knob(None, "a number"), "default None is not int"),
        (bool, knob(1, "a switch"), "default 1 is not true|false"),
        (float, knob("1", "a number"), "default '1' is not float"),
        (str, knob(None, "a text"), "default None is not text"),
        (Literal["a", "b"], knob("c", "a choice"), "default 'c' is not a|b"),
        (tuple[int, ...], knob((1, 2.0), "numbers"), "not list of int"),
        (tuple[int, ...], knob(3, "numbers"), "not list of int"),
        (int, knob(0, "a number", ge=1), "out of bounds"),
        (float, knob(math.inf, "a number"), "out of bounds"),
        (tuple[float, ...], knob((2.0,), "numbers", lt=1.0), "out of bounds"),
        (int, slot("none", "a place"), "a slot's type is a kind"),
        (tuple[int, ...], slot("none", "a place"), "a slot's type is a kind"),
        (int, group("a block"), "a group's type is a @params class"),
    ],
)
def test_an_authors_mistake_is_a_type_error_when_the_class_is_made(hint: Any, field: Any, says: str) -> None:
    """Wrong types, defaults, bounds and helps are refused before any user meets them, naming class and field."""
    with pytest.raises(TypeError) as caught:
        declared(hint, field)
    assert says in str(caught.value)
    assert str(caught.value).startswith("Some.x")


@pytest.mark.parametrize("name", ["name", "_hidden", "Upper", "camelCase", "two__parts"])
def test_field_names_that_cannot_be_said_are_refused(name: str) -> None:
    """`name` names the plugin in a file; other names must survive a flag and an environment variable."""
    with pytest.raises(TypeError, match=f"Some.{name}"):
        declared(int, knob(1, "a number"), name)


@pytest.mark.parametrize("doc", [None, "", "  "])
def test_a_class_without_docstring_is_refused(doc: str | None) -> None:
    """`core show` prints the docstring, so there must be one; the text that attrs makes up does not count."""
    with pytest.raises(TypeError, match="docstring"):
        declared(int, knob(1, "a number"), doc=doc)


def test_slots_say_their_kind_and_shape() -> None:
    """A slot's kind comes from its type: one, several, or one that may stay empty."""
    found = {f.name: f for f in fields(Root)} | {f.name: f for f in fields(Heads)}
    assert {n: (f.kind, f.many, f.optional) for n, f in found.items() if f.role == "slot"} == {
        "attention": ("attention", False, False),
        "ffn": ("ffn", False, False),
        "extra": ("ffn", False, True),
        "metrics": ("metric", True, False),
        "gate": ("gate", False, False),
        "mask": ("mask", False, True),
        "second": ("ffn", False, True),
    }
    assert found["plan"].role == "group"
    assert found["plan"].type is Schedule
    assert (found["gate"].spell(), found["metrics"].spell(), found["plan"].spell()) == (
        "gate by name",
        "metric by name, several",
        "table",
    )


def test_other_spellings_of_a_type_are_the_same_slot() -> None:
    """`Optional[Gate]` is `Gate | None`, and a quoted annotation is the type it names."""
    for hint in (Optional[Gate], Gate | None, "Gate | None"):  # noqa: UP045 - the old spelling is what is tested
        cls = type(
            "Some",
            (),
            {"__doc__": "Some.", "__annotations__": {"x": hint}, "x": slot(None, "x"), "__module__": __name__},
        )
        (field,) = fields(params(cls))
        assert (field.kind, field.optional, field.many) == ("gate", True, False)
    (field,) = fields(declared(tuple[Metric, ...], slot((), "x")))
    assert (field.kind, field.optional, field.many) == ("metric", False, True)


@law
@given(leaf=LEAVES, data=st.data())
def test_plain_values_structure_to_themselves(leaf: Any, data: st.DataObject) -> None:
    """A value of the declared type is kept; a list from a file becomes the tuple that the class declares."""
    value = data.draw(leaf.values)
    said = list(value) if isinstance(value, tuple) else value
    assert structure(said, leaf.hint) == value
    assert type(structure(said, leaf.hint)) is type(value)


@law
@given(value=st.text() | st.floats() | st.booleans() | st.none() | st.lists(st.integers()))
def test_nothing_but_a_whole_number_is_an_int(value: Any) -> None:
    """No text, float, truth value, list or null from a file becomes an int: 3.7 is never 3, "8" never 8."""
    with pytest.raises(ValueError, match="expected int"):
        structure(value, int)


@law
@given(value=st.text() | st.integers() | st.floats() | st.none())
def test_nothing_but_true_and_false_is_a_bool(value: Any) -> None:
    """ "false" is never True, nor is any number a truth value."""
    with pytest.raises(ValueError, match=r"expected true\|false"):
        structure(value, bool)


@law
@given(value=st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.text()))
def test_nothing_but_text_is_a_str(value: Any) -> None:
    """Numbers are not written out to become text."""
    with pytest.raises(ValueError, match="expected text"):
        structure(value, str)


@law
@given(value=st.text() | st.booleans() | st.none())
def test_neither_text_nor_truth_is_a_float(value: Any) -> None:
    """A float is a number in the file; text that looks like one is text."""
    with pytest.raises(ValueError, match="expected float"):
        structure(value, float)


@law
@given(value=st.integers(-(2**53), 2**53))
def test_a_whole_number_is_a_float(value: int) -> None:
    """`lr = 1` means 1.0, so that one value has one type."""
    assert structure(value, float) == float(value)
    assert type(structure(value, float)) is float


@law
@given(text=st.text(), hint=st.sampled_from([tuple[int, ...], tuple[str, ...], tuple[float, ...]]))
def test_text_from_a_file_is_no_list(text: str, hint: Any) -> None:
    """ "abc" is never ('a', 'b', 'c')."""
    with pytest.raises(ValueError, match="expected list"):
        structure(text, hint)


@law
@given(leaf=LEAVES, data=st.data())
def test_what_is_typed_is_read_by_the_type_of_its_parameter(leaf: Any, data: st.DataObject) -> None:
    """The TOML spelling of a value, typed on the command line, is that value; a text needs no quotes."""
    value = data.draw(leaf.values)
    assert structure(Text(leaf.spell(value)), leaf.hint) == value


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        (".5", float, 0.5),
        ("-.5e3", float, -500.0),
        ("1.", float, 1.0),
        ("1e-3", float, 0.001),
        ("1_000", int, 1000),
        ("0x10", int, 16),
        ("0.9,.99", tuple[float, ...], (0.9, 0.99)),
        ("0.9", tuple[float, ...], (0.9,)),
        ("", tuple[float, ...], ()),
        ("a,b", tuple[str, ...], ("a", "b")),
        ("none", int | None, None),
        ("none", str | None, None),
        ("3", int | None, 3),
        ("3", str | None, "3"),
        ("x", Literal["x", "y"] | None, "x"),
        ("none", Literal["x", "y"] | None, None),
        ("true", bool, True),
        ("3", str, "3"),
        ("true", str, "true"),
        ("", str, ""),
    ],
)
def test_spellings_of_the_command_line(text: str, hint: Any, value: Any) -> None:
    """What people type for numbers, lists, texts and nothing at all."""
    assert structure(Text(text), hint) == value
    assert type(structure(Text(text), hint)) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", int),
        ("1.0", int),
        ("1e3", int),
        ("'3'", int),
        ("3\ny = 4", int),
        ("yes", bool),
        ("True", bool),
        ("1", bool),
        ("one", float),
        (".", float),
        ("1,2", float),
        ("0.5,x", tuple[float, ...]),
        ("[0.5", tuple[float, ...]),
        ("z", Literal["x", "y"]),
        ("none", int),
        ("1" + 400 * "0", float),
        ("1" + 5000 * "0", int),
        ("[" * 5000, int),
    ],
)
def test_spellings_that_are_refused(text: str, hint: Any) -> None:
    """What is typed is as strict as what a file says, whatever is typed."""
    with pytest.raises(ValueError, match="expected"):
        structure(Text(text), hint)


@pytest.mark.parametrize("hint", [int, float, str, Literal["true", "x"], tuple[int, ...], str | None])
def test_a_bare_flag_is_for_truth_values_only(hint: Any) -> None:
    """`--ema` without a value turns a switch on and is an omission anywhere else."""
    assert structure(Bare("true"), bool) is True
    assert structure(Bare("true"), bool | None) is True
    with pytest.raises(ValueError, match="a value is missing"):
        structure(Bare("true"), hint)


@pytest.mark.parametrize(
    ("value", "says"),
    [("fp16", "Did you mean 'fp32'"), ("FP32", "Did you mean 'fp32'"), (32, "expected fp32|bf16, got 32")],
)
def test_choices_give_near_matches(value: Any, says: str) -> None:
    """A wrong choice is told with the choices and the nearest one."""
    with pytest.raises(ValueError) as caught:
        structure(value, Literal["fp32", "bf16"])
    assert says in str(caught.value)


@pytest.mark.parametrize("pair", [(1, True), (0, False), (1, 1.0), ("1", 1)])
def test_equal_in_python_is_not_the_same_choice(pair: tuple) -> None:
    """True is not 1: a choice is of its own type."""
    said, option = pair
    with pytest.raises(ValueError, match="expected"):
        structure(said, Literal[option])


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"),
        (bool, "true|false"),
        (str, "text"),
        (Literal["a", "b"], "a|b"),
        (tuple[float, ...], "list of float"),
        (int | None, "int or none"),
    ],
)
def test_types_are_spelled_for_users(hint: Any, words: str) -> None:
    """Help and errors speak of types as a user knows them."""
    assert spell_type(hint) == words
