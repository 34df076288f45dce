"""Conditions are sets of perturbations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from plugins.shared.condition import ALIASES, Labels, apart, category, joined, known, read_canonical, spell

NAMES = st.text("ABCdef123-._ ()", min_size=1, max_size=6).filter(
    lambda name: name == name.strip() and name.casefold() not in {alias.casefold() for alias in ALIASES}
)
SETS = st.sets(NAMES, max_size=4)
SPELL_OUT = settings(deadline=None, max_examples=60)


@SPELL_OUT
@given(members=SETS, data=st.data())
def test_order_repetition_and_controls_do_not_matter(members: set[str], data: st.DataObject) -> None:
    """Any order of the parts, each any number of times, with control labels among them, is one condition."""
    parts = data.draw(st.permutations([*members, *data.draw(st.lists(st.sampled_from([*sorted(members), *ALIASES])))]))
    label = "+".join(data.draw(st.permutations(parts)) or ["ctrl"])
    assert Labels().read(label) == tuple(sorted(members))
    assert read_canonical(spell(Labels().read(label))) == tuple(sorted(members))


@SPELL_OUT
@given(one=SETS, other=SETS)
def test_different_sets_stay_apart(one: set[str], other: set[str]) -> None:
    """Two conditions have one canonical text exactly when they are one set."""
    assert (spell(tuple(sorted(one))) == spell(tuple(sorted(other)))) == (one == other)


@SPELL_OUT
@given(members=SETS, stratum=NAMES)
def test_a_unit_comes_apart_again(members: set[str], stratum: str) -> None:
    """Condition and stratum of a unit's name are those that it was joined of, with a stratum and without."""
    text = spell(tuple(sorted(members)))
    assert apart(joined(text, stratum)) == (tuple(sorted(members)), stratum)
    assert apart(joined(text, "")) == (tuple(sorted(members)), "")


@pytest.mark.parametrize(
    "label", ["ctrl", "control", "non-targeting", "NT", "nt", " Control ", "ctrl+ctrl", "control+NT"]
)
def test_control_has_many_names(label: str) -> None:
    """Every alias of control, alone or doubled, is the empty set."""
    assert Labels().read(label) == ()


@pytest.mark.parametrize(
    ("label", "members"),
    [
        ("A+ctrl", ("A",)),
        ("ctrl+A", ("A",)),
        ("A+control", ("A",)),
        ("B+A", ("A", "B")),
        ("A", ("A",)),
        ("A+A", ("A",)),
    ],
)
def test_labels_as_files_have_them(label: str, members: tuple[str, ...]) -> None:
    """Labels of published files."""
    assert Labels().read(label) == members


def test_separator_and_aliases_can_be_chosen() -> None:
    """`A_B` with `_`; a separator that stands inside a control label; own aliases replace the usual ones."""
    assert Labels(separator="_").read("B_A") == ("A", "B")
    assert Labels(separator="-").read("non-targeting") == ()
    assert Labels(separator="-").read("A-B") == ("A", "B")
    assert Labels(control=("DMSO",)).read("DMSO") == ()
    assert Labels(control=("DMSO",)).read("ctrl") == ("ctrl",)


@pytest.mark.parametrize("label", ["", "  ", "A+", "+A", "A++B"])
def test_a_part_without_a_name_is_refused(label: str) -> None:
    """An empty label or part of one says nothing."""
    with pytest.raises(ValueError, match=r"is empty|without a name"):
        Labels().read(label)


@pytest.mark.parametrize("label", ["A|B_C", "A+B_C"])
def test_signs_of_canonical_texts_are_refused_inside_names(label: str) -> None:
    """A name may hold neither of the signs that join canonical texts."""
    with pytest.raises(ValueError, match="kept for joining"):
        Labels(separator="_").read(label)


@pytest.mark.parametrize("wrong", [{"separator": " "}, {"separator": "|"}, {"control": ()}, {"control": ("ctrl", " ")}])
def test_knobs_are_checked(wrong: dict) -> None:
    """A separator and control labels are something."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Labels(**wrong)


def test_categories_count_what_was_seen() -> None:
    """The category of a condition counts its perturbations that some training condition holds."""
    seen = {"A", "B"}
    pairs = {("A",): "seen_single", ("C",): "unseen_single", ("A", "B"): "combo_seen2", ("A", "C"): "combo_seen1"}
    pairs |= {("C", "D"): "combo_seen0", ("A", "B", "C"): "combo_seen2"}
    assert {members: category(members, seen) for members in pairs} == pairs


def test_an_unknown_perturbation_is_named_with_the_nearest() -> None:
    """The error tells the perturbation, the condition and what was likely meant."""
    known(("KLF1",), ["KLF1", "SET"], "list")
    with pytest.raises(UserError, match=r"list: the perturbation 'KLF11' of 'KLF11.SET'.*mean 'KLF1'"):
        known(("KLF11", "SET"), ["KLF1", "SET"], "list")
