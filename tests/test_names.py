"""Names: plain, patterns, calls, qualified, and near matches."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.names import NAME, Bare, Text, compile_pattern, match_pattern, near, nearest, parse, split

NAMES = st.from_regex(NAME, fullmatch=True).map(lambda name: name[:20])
DISTRIBUTIONS = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)?", fullmatch=True)
PLAIN = st.text(string.ascii_letters + string.digits + "._- ", min_size=1).map(str.strip).filter(bool)
NUMBERS = st.integers(-(10**6), 10**6).map(str) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
LISTS = st.lists(NUMBERS, min_size=1, max_size=3).map(lambda items: f"[{', '.join(items)}]")
BETWEEN = str.maketrans("", "", ", ")
law = settings(deadline=None, max_examples=80)


@law
@given(
    head=NAMES, qualifier=st.none() | DISTRIBUTIONS, args=st.dictionaries(NAMES, PLAIN | NUMBERS | LISTS, max_size=4)
)
def test_spoken_names_round_trip(head: str, qualifier: str | None, args: dict[str, str]) -> None:
    """What is written as qualifier/head(key=value, ...) is read back as exactly that, each value as typed text."""
    text = f"{qualifier}/{head}" if qualifier else head
    text += f"({', '.join(f'{k}={v}' for k, v in args.items())})" if args else ""
    spoken = parse(f" {text} ")
    assert (spoken.head, spoken.qualifier, spoken.args) == (head, qualifier, args)
    assert all(isinstance(value, Text) for value in spoken.args.values())


@law
@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1, max_size=4))
def test_quoted_arguments_are_texts_whatever_they_hold(values: list[str]) -> None:
    """Quotes keep commas, brackets and quotes of the other sort together, and what they hold is never read as TOML."""
    quoted = {f"k{i}": '"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' for i, v in enumerate(values)}
    spoken = parse(f"call({', '.join(f'{k}={v}' for k, v in quoted.items())})")
    assert [*spoken.args.values()] == values
    assert not any(isinstance(value, Text) for value in spoken.args.values())


@law
@given(pieces=st.lists(st.text("ab[]{}()'\", =", max_size=8), max_size=4))
def test_splitting_loses_nothing_or_refuses(pieces: list[str]) -> None:
    """Splitting drops commas and blanks between pieces only, and splits no piece further; or text is unbalanced."""
    text = ",".join(pieces)
    try:
        found = split(text, text)
    except UserError:
        assert set(text) & set("[]{}()'\"")
        return
    assert "".join(found).translate(BETWEEN) == text.translate(BETWEEN)
    assert all(piece.strip() for piece in found)
    assert split(",".join(found), text) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no name"),
        ("  ", "is no name"),
        ("(a=1)", "is no name"),
        ("a(b=1", "is no name"),
        ("a)", "is no name"),
        ("a(b=1) c", "is no name"),
        ("a(b=1)(c=2)", "do not close"),
        ("a(b=[1)", "do not close"),
        ("a(b='x)", "do not close"),
        ("a(1)", "key=value, not '1'"),
        ("a(=1)", "key=value, not '=1'"),
        ("a(b=1, b=2)", "b is given twice"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text: str, says: str) -> None:
    """A name that does not close, has no head, or says one thing twice is the user's mistake, told with the text."""
    with pytest.raises(UserError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_call_without_arguments_is_the_plain_name() -> None:
    """Empty brackets and a trailing comma say nothing."""
    assert parse("window()") == parse("window")
    assert parse("window(radius=8,)") == parse("window(radius=8)")


@law
@given(
    experts=st.integers(0, 10**18 - 1), top_k=st.integers(0, 999), rate=st.floats(0, 10**6).map(lambda x: round(x, 3))
)
def test_patterns_round_trip(experts: int, top_k: int, rate: float) -> None:
    """Values written into the holes of a pattern are read back with their types."""
    assert match_pattern("moe{experts:int}x{top_k:int}", f"moe{experts}x{top_k}") == {
        "experts": experts,
        "top_k": top_k,
    }
    assert match_pattern("drop{rate:float}", f"drop{rate:f}") == {"rate": pytest.approx(rate)}
    assert match_pattern("{side:word}_{n:int}", f"left_{top_k}") == {"side": "left", "n": top_k}


@pytest.mark.parametrize(
    "name",
    ["moe", "moe4", "moe4x", "moex2", "moe4x2 ", "xmoe4x2", "moe-4x2", "moe4.0x2", "moe٤x2", f"moe{'9' * 5000}x2"],
)
def test_a_pattern_matches_whole_names_only(name: str) -> None:
    """Whole ASCII numbers of up to 64 bits, no more and no less."""
    assert match_pattern("moe{experts:int}x{top_k:int}", name) is None


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("moe{n:number}", "int, float or word"),
        ("moe{n}", "{name:int}"),
        ("moe{n:int", "{name:int}"),
        ("moe{n:int}x{n:int}", "pattern"),
        ("moe{1n:int}", "pattern"),
    ],
)
def test_a_wrong_pattern_is_a_value_error(pattern: str, says: str) -> None:
    """An author's pattern with an unknown, untyped, doubled or misnamed hole is refused when it is read."""
    with pytest.raises(ValueError) as caught:
        compile_pattern(pattern)
    assert says in str(caught.value)


@law
@given(pattern=st.text("ab.*+?^$|[]\\x", min_size=1), name=st.text("ab.*+?^$|[]\\x"))
def test_a_pattern_without_holes_is_its_own_text(pattern: str, name: str) -> None:
    """Outside holes a pattern is literal, also where it holds signs that mean something to regular expressions."""
    assert (match_pattern(pattern, name) is not None) == (pattern == name)


@law
@given(
    name=st.permutations(string.ascii_lowercase).flatmap(
        lambda abc: st.integers(5, 12).map(lambda n: "".join(abc[:n]))
    ),
    place=st.integers(0, 3),
    others=st.lists(st.sampled_from(["full", "causal", "tissue"])),
)
def test_a_swapped_pair_of_letters_is_recognised(name: str, place: int, others: list[str]) -> None:
    """In a name of five letters or more, two neighbours the wrong way round still find it."""
    swapped = name[:place] + name[place + 1] + name[place] + name[place + 2 :]
    assert nearest(swapped, [*others, name]) == name


@pytest.mark.parametrize(
    ("word", "options", "found"),
    [
        ("gaet", ["gate", "mask"], "gate"),
        ("meo4x2", ["dense", "moe{experts:int}x{top_k:int}"], "moe{experts:int}x{top_k:int}"),
        ("topk", ["top_k", "experts"], "top_k"),
        ("Softmax", ["softmax", "linear"], "softmax"),
        ("zzzz", ["gate", "mask"], None),
        ("", ["gate"], None),
        ("gate", [], None),
    ],
)
def test_near_matches(word: str, options: list[str], found: str | None) -> None:
    """Swapped letters, other cases and patterns with other numbers are found; what is far away is not."""
    assert nearest(word, options) == found
    assert near(word, options) == (f" Did you mean {found!r}?" if found else "")


def test_a_bare_flag_is_text_that_says_true() -> None:
    """A flag without a value is true for those who ask for a truth value."""
    assert Bare("true") == "true"
    assert isinstance(Bare("true"), Text)
