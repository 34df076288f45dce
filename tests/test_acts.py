"""Parameters that act beside certain values of others only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.acts import Idle, read_conditions
from core.cli import main
from core.cli.choose import resolve_run
from core.config import Layer, resolve
from core.errors import UserError
from core.identity import run_identity
from core.kinds import Gate
from core.params import fields, in_force, knob, params, slot
from core.registry import KINDS, Origin, Registry, installed
from core.testing.configurations import configurations
from core.testing.draws import built
from plugins.anchors.attention import AttentionAnchors
from plugins.anchors.projection import ProjectionAnchors
from plugins.ffn.moe import Moe
from plugins.gates.headwise import Headwise
from plugins.positions.rope import Rope
from plugins.sparsifiers.entmax import Entmax
from plugins.sparsifiers.temperature import Temperature


@params
class Fan:
    """Has a parameter of each sort of condition."""

    mode: Literal["off", "slow", "fast"] = knob("off", "how it turns")
    speed: float = knob(1.0, "turns a second", acts="mode!=off")
    noise: int = knob(0, "how loud", acts="mode=fast and speed!=1")
    low: int = knob(1, "least")
    high: int = knob(1, "most")
    step: int = knob(2, "between them", acts="low!=high")
    label: str = knob("", "written on it")
    size: int = knob(3, "of the letters", acts='label!=""')
    quiet: bool = knob(False, "at night")
    until: int | None = knob(None, "hour", acts="quiet=true")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"speed": 2.0}, "speed = 2 does nothing, as mode is off; leave it out, or choose mode = slow or fast"),
        ({"mode": "slow", "noise": 4}, "noise = 4 does nothing, as mode is slow; leave it out, or choose mode = fast"),
        ({"mode": "fast", "noise": 4}, "as speed is 1; leave it out, or choose speed other than 1"),
        ({"step": 1}, "as low is 1 and high is 1; leave it out, or choose low other than high"),
        ({"size": 9}, 'as label is ""; leave it out, or choose label other than ""'),
        ({"until": 7}, "as quiet is false; leave it out, or choose quiet = true"),
    ],
)
def test_a_value_that_does_nothing_is_refused(given: dict[str, Any], says: str) -> None:
    """Any value but the default is refused where the condition fails, with what is to be done."""
    with pytest.raises(Idle) as caught:
        Fan(**given)
    assert says in str(caught.value)


def test_a_default_and_a_value_that_acts_are_accepted() -> None:
    """A default that is typed is harmless; a value beside the right others is taken."""
    assert Fan(speed=1.0, noise=0, step=2, size=3, until=None) == Fan()
    fan = Fan(mode="fast", speed=2.0, noise=4, high=5, step=1, label="x", size=9, quiet=True, until=7)
    assert (fan.speed, fan.noise, fan.step, fan.size, fan.until) == (2.0, 4, 1, 9, 7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mode", "is no condition"),
        ("mod=slow", "there is no plain parameter 'mod'"),
        ("mode=slo", "mode is one of off, slow, fast"),
        ("mode=slow and ", "is no condition"),
    ],
)
def test_conditions_that_cannot_hold_are_an_authors_mistake(text: str, says: str) -> None:
    """A condition is read when the class is made."""
    with pytest.raises(TypeError, match=says):

        @params
        class Wrong:
            """Names what is not there."""

            mode: Literal["off", "slow", "fast"] = knob("off", "how it turns")
            speed: float = knob(1.0, "turns a second", acts=text)


def test_what_must_be_given_cannot_act_sometimes() -> None:
    """A required parameter has no default to fall back to."""
    with pytest.raises(TypeError, match="needs a default"):

        @params
        class Wrong:
            """Requires what may do nothing."""

            on: bool = knob(False, "whether")
            speed: float = knob(attrs.NOTHING, "turns a second", acts="on=true")


def test_every_condition_names_a_choice() -> None:
    """The text of a condition says what to choose, whatever its form."""
    types = {f.name: f.type for f in fields(Fan)}
    words = [c.words("a.") for text in ("mode=off|slow", "mode!=off", "low=high", "low!=2") for c in
             read_conditions(text, types)]  # fmt: skip
    assert words == ["a.mode = off or slow", "a.mode = slow or fast", "a.low equal to a.high", "a.low other than 2"]


@settings(deadline=None, max_examples=50)
@given(
    built(
        Fan,
        mode=st.sampled_from(["off", "slow", "fast"]),
        speed=st.floats(0.5, 2),
        noise=st.integers(0, 3),
        low=st.integers(1, 2),
        high=st.integers(1, 2),
        step=st.integers(1, 3),
    )
)
def test_drawn_values_are_taken_back_where_they_do_nothing(fan: Fan) -> None:
    """What the laws draw is always a class's, and no more is taken back than has to be."""
    assert fan.speed == 1.0 or fan.mode != "off"
    assert fan.step == 2 or fan.low != fan.high
    given = {"mode": "fast", "speed": 2.0, "noise": 1, "high": 2, "step": 3}
    assert in_force(Fan, given) == given
    assert in_force(Fan, given | {"mode": "slow"}) == {
        k: v for k, v in (given | {"mode": "slow"}).items() if k != "noise"
    }


def declared() -> Iterator[tuple[str, type]]:
    for kind in KINDS:
        for row in installed().rows(kind) if kind != "recipe" else ():
            yield f"{kind} {row.name}", row.load()


def test_every_builtin_that_declares_conditions_has_its_defaults_accepted() -> None:
    """A class can be made of its defaults alone, and defaults may be typed."""
    found = 0
    for _, cls in declared():
        own = {f.name: f.default for f in fields(cls) if f.role == "knob" and f.acts}
        found += len(own)
        if own and all(f.role == "knob" and not f.required for f in fields(cls)):
            assert cls(**own) == cls()
    assert found >= 15


@pytest.mark.parametrize(
    "given",
    [
        lambda: Entmax(alpha_start=1.2, temperature=Temperature()),
        lambda: Entmax(share=0.5, temperature=Temperature()),
        lambda: Entmax(mode="annealed", alpha=1.5, alpha_start=1.5, share=0.5, temperature=Temperature()),
        lambda: Temperature(share=0.5),
        lambda: Temperature(start=2.0, end=2.0, share=0.5),
        lambda: Moe(balance="bias", balance_weight=0.3),
        lambda: Moe(bias_rate=0.3),
        lambda: Moe(balance="none", bias_rate=0.3),
        lambda: Moe(experts=4, top_k=4, balance="bias"),
        lambda: Moe(experts=1, top_k=1, balance_weight=0.3),
        lambda: AttentionAnchors(count=1, diversity=0.1),
        lambda: ProjectionAnchors(count=1, diversity=0.1),
        lambda: Headwise(spectral_bound=2.0),
        lambda: Headwise(spectral="projection", spectral_weight=2.0),
        lambda: Rope(unit=100.0),
        lambda: Rope(factor=2.0),
        lambda: Rope(scaling="ntk", trained=64),
    ],
)
def test_builtins_refuse_what_does_nothing(given: Any) -> None:
    """Knobs of a mode that was not chosen are refused, whoever makes the class."""
    with pytest.raises(Idle, match="does nothing, as"):
        given()


class TestResolving:
    """What a user sees."""

    def test_the_flag_that_was_typed_is_blamed(self) -> None:
        """The line begins with the parameter and ends with who said it; the fix names the deciding one by its path."""
        with pytest.raises(UserError) as caught:
            resolve_run([], ["--gate=headwise", "--gate.spectral_bound=2"])
        assert str(caught.value) == (
            "attention.gate.spectral_bound: 2 does nothing, as attention.gate.spectral is none; leave it out, or "
            "choose attention.gate.spectral = penalty or projection (CLI --gate.spectral_bound)"
        )

    def test_a_higher_layer_puts_a_lower_value_aside(self, tmp_path: Any) -> None:
        """The mode of a flag beats the knobs of a file, which is said, and the run is that of the default."""
        file = tmp_path / "a.toml"
        file.write_text('[ffn]\nname = "moe"\nbalance_weight = 0.3\n')
        found = resolve_run([str(file)], ["--ffn.balance=bias"])
        plain = resolve_run([], ["--ffn=moe", "--ffn.balance=bias"])
        assert [note for note in found.notes if note.startswith("ffn.balance_weight = 0.3 (")] == [
            "ffn.balance_weight = 0.3 (a.toml:3) is not used: ffn.balance is bias (CLI --ffn.balance)"
        ]
        assert run_identity(found, "", "cpu") == run_identity(plain, "", "cpu")
        assert [link.value for link in found.settings["ffn.balance_weight"].chain] == [0.01, 0.3, 0.01]
        with pytest.raises(UserError, match=r"ffn\.balance_weight: 0\.3 does nothing"):
            resolve_run([str(file)], ["--ffn.balance=bias", "--ffn.balance_weight=0.3"])

    def test_a_preset_gives_way_in_silence(self) -> None:
        """A row's preset for a mode that the user left is not the user's concern."""

        @params
        class Root:
            """Holds a gate."""

            gate: Gate = slot("limited", "scales")

        row = {
            "target": "plugins.gates.headwise:Headwise",
            "summary": "A gate with a limit.",
            "preset": {"spectral": "penalty", "spectral_bound": 2.0},
        }
        registry = Registry()
        registry.add({"api": 1, "gate": {"limited": row}}, Origin("acme", "1"))
        kept = resolve(Root, [], registry)
        left = resolve(Root, [Layer("CLI", {"gate.spectral": ("none", "CLI")})], registry)
        assert (kept.root.gate, left.root.gate) == (Headwise(spectral="penalty", spectral_bound=2.0), Headwise())
        assert left.notes == ()

    def test_show_says_when_a_knob_acts(self, capsys: pytest.CaptureFixture) -> None:
        """`core show` gives the condition beside the help."""
        assert main(["show", "ffn", "moe4x2"]) == 0
        out = capsys.readouterr().out
        assert "acts with balance = bias" in out
        assert "acts with balance = loss" in out


@settings(deadline=None, max_examples=60)
@given(gate=configurations("gate", "headwise"))
def test_configurations_hold_no_value_in_vain(gate: Gate) -> None:
    """What is drawn resolves, in every mode."""
    assert isinstance(gate, Headwise)
    assert gate.spectral != "none" or gate.spectral_bound == 1.0
