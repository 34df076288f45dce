"""The resolver: layers, presets, names, slots, provenance, and every mistake told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import core
from core.choices import flatten
from core.config import ConfigError, Layer, Resolved, resolve
from core.errors import UserError
from core.kinds import Attention
from core.names import Bare, Text, match_pattern, parse
from core.params import knob, params, slot
from core.registry import Registry
from tests.fakes import (
    LEAVES,
    MANIFEST,
    Bend,
    Bent,
    Heads,
    Lone,
    Needy,
    Pair,
    Root,
    Share,
    Shut,
    Task,
    Wide,
    made,
    registry,
)

law = settings(deadline=None, max_examples=80)
FAKES = registry()
CURVED = registry(MANIFEST.replace("tests.fakes:Heads", "tests.fakes:Curved"))
"""the same names, over an attention whose every gate has the same parameters"""


def layer(name: str, **entries: Any) -> Layer:
    """Entries by dotted key, `__` for a dot, with origins `name:key`."""
    keys = {key.replace("__", "."): value for key, value in entries.items()}
    return Layer(name, {key: (value, f"{name}:{key}") for key, value in keys.items()})


def solved(*layers: Layer, root: type = Root, found: Registry = FAKES) -> Resolved:
    return resolve(root, layers, found)


def refused(*layers: Layer, root: type = Root, found: Registry = FAKES) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(root, layers, found)
    return str(caught.value)


def values(resolved: Resolved) -> dict[str, Any]:
    return {path: s.value for path, s in resolved.settings.items()}


class TestLayers:
    """The highest layer wins, and the chain keeps everybody."""

    @law
    @given(data=st.data(), leaves=st.lists(LEAVES, min_size=1, max_size=4), count=st.integers(0, 4))
    def test_the_highest_layer_wins_and_the_chain_holds_every_link(
        self, data: st.DataObject, leaves: list, count: int
    ) -> None:
        """For any class and any layers: the value is the last one said, else the default; the chain is all of them."""
        cls = made(leaves)
        names = [f"p{i}" for i in range(len(leaves))]
        layers = []
        for i in range(count):
            chosen = data.draw(st.sets(st.sampled_from(names)))
            said = {n: data.draw(leaves[int(n[1:])].values) for n in sorted(chosen)}
            layers.append(layer(f"l{i}", **said))
        resolved = solved(*layers, root=cls)
        for name, leaf in zip(names, leaves, strict=True):
            links = [la.entries[name] for la in layers if name in la.entries]
            setting = resolved.settings[name]
            start = [] if leaf.default is None and links else [(leaf.default, "default of Generated")]
            assert [(v.value, v.origin) for v in setting.chain] == start + links
            assert setting.value == getattr(resolved.root, name) == [leaf.default, *(v for v, _ in links)][-1]
            assert setting.origin == ["default of Generated", *(o for _, o in links)][-1]

    @law
    @given(leaves=st.lists(LEAVES, min_size=1, max_size=4), data=st.data())
    def test_typed_text_resolves_as_the_value_it_spells(self, leaves: list, data: st.DataObject) -> None:
        """The command line and a file that say the same resolve to the same object."""
        cls = made(leaves)
        said = {f"p{i}": data.draw(leaf.values) for i, leaf in enumerate(leaves)}
        typed = {key: Text(leaves[int(key[1:])].spell(value)) for key, value in said.items()}
        assert (
            solved(layer("file", **said), root=cls).root == solved(layer("CLI", **typed), root=cls).root == cls(**said)
        )

    @settings(deadline=None, max_examples=200)
    @given(data=st.data(), count=st.integers(0, 3))
    def test_layers_weigh_first_then_presets_names_and_values(self, data: st.DataObject, count: int) -> None:
        """Against a slow reference: the higher layer wins; in one, a value beats a name and a name beats a preset."""
        choices = {
            "attention": st.sampled_from(["heads", "bent_heads", "heads(heads=3)", "bent_heads(heads=6, gate=curved)"]),
            "attention.gate": st.sampled_from(["bent", "bent7", "bent3(bias=2.0)", "curved", "curved(steps=9)"]),
            "attention.heads": st.integers(1, 9),
            "attention.gate.steps": st.integers(1, 9),
            "attention.gate.bias": st.floats(-9, 9),
        }
        layers = []
        for i in range(count):
            keys = data.draw(st.sets(st.sampled_from([*choices])))
            layers.append(Layer(f"l{i}", {k: (data.draw(choices[k]), f"l{i}") for k in sorted(keys)}))
        found = values(solved(*layers, root=Bend, found=CURVED))
        assert {k: v for k, v in found.items() if k in choices} == reference(layers)

    def test_a_default_has_the_type_of_its_parameter(self) -> None:
        """A whole number as default of a float is that float, as when it is said: one value has one identity."""
        cls = params(type("C", (), {"__doc__": "C.", "__annotations__": {"x": float}, "x": knob(1, "x")}))
        assert type(solved(root=cls).settings["x"].value) is float
        assert solved(root=cls).root == solved(layer("CLI", x=Text("1")), root=cls).root


def reference(layers: list[Layer]) -> dict[str, Any]:
    """What `Bend` resolves to, by definition: everything that is said, sorted by layer and weight."""
    presets = {
        "bent_heads": {"heads": 8, "gate": "bent", "gate.bias": 1.0},
        "curved": {"steps": 5},
    }
    said = [((-1, 0), "attention", "heads"), ((-1, 0), "attention.gate", "curved")]
    said += [
        ((-1, 0), "attention.heads", 4),
        ((-1, 0), "attention.gate.steps", 2),
        ((-1, 0), "attention.gate.bias", 0.5),
    ]
    said += [((i, 3), key, value) for i, la in enumerate(layers) for key, (value, _) in la.entries.items()]
    for slot_path in ("attention", "attention.gate"):
        links = []
        for rank, key, value in sorted(said, key=lambda one: one[0]):
            if key == slot_path:
                spoken = parse(value)
                steps = match_pattern("bent{steps:int}", spoken.head)
                links.append((rank[0], "bent" if steps else spoken.head, {**(steps or {}), **spoken.args}))
        name = links[-1][1]
        others = [i for i, link in enumerate(links) if link[1] != name]
        run = links[others[-1] + 1 :] if others else links
        said += [((layer_, 2), f"{slot_path}.{k}", v) for layer_, _, args in run for k, v in args.items()]
        said += [((run[0][0], 1), f"{slot_path}.{k}", v) for k, v in presets.get(name, {}).items()]
        said.append(((99, 0), slot_path, name))
    final = {key: value for _, key, value in sorted(said, key=lambda one: one[0])}
    kinds = {"attention.heads": int, "attention.gate.steps": int, "attention.gate.bias": float}
    return final | {key: kind(final[key]) for key, kind in kinds.items()}


class TestProvenance:
    """Where a value comes from."""

    def test_each_link_names_its_source(self) -> None:
        """Default, preset, name and value stand in the chain in that order, each with its origin."""
        resolved = solved(layer("epi.toml", ffn="tall", ffn__experts=6), layer("CLI", ffn__experts=7))
        chain = [(v.value, v.origin) for v in resolved.settings["ffn.experts"].chain]
        assert chain == [
            (4, "default of Wide"),
            (3, "preset of tall"),
            (6, "epi.toml:ffn.experts"),
            (7, "CLI:ffn.experts"),
        ]
        named = solved(layer("CLI", ffn=Text("wide6x1"))).settings["ffn.experts"]
        assert [(v.value, v.origin) for v in named.chain] == [(4, "default of Wide"), (6, "name wide6x1")]
        assert named.origin == "name wide6x1"

    def test_a_slot_keeps_who_chose_it(self) -> None:
        """The chain of a slot holds every name that was said, and its row is the one that won."""
        setting = solved(layer("a", attention="lone"), layer("b", attention="bent_heads")).settings["attention"]
        assert [(v.value, v.origin) for v in setting.chain] == [
            ("heads", "default of Root"),
            ("lone", "a:attention"),
            ("bent_heads", "b:attention"),
        ]
        assert (setting.value, setting.row.name) == ("bent_heads", "bent_heads")

    def test_a_nested_preset_fills_a_nested_slot(self) -> None:
        """`preset = { gate = { name, bias } }` chooses the gate and sets its parameter, and yields to what is said."""
        found = solved(layer("a", attention="bent_heads")).root.attention
        assert found == Heads(heads=8, gate=Bent(bias=1.0), mask=found.mask, second=None)
        assert solved(layer("a", attention="bent_heads", attention__gate__bias=2.0)).root.attention.gate.bias == 2.0
        plain = solved(layer("a", attention="bent_heads", attention__gate="shut"))
        assert (plain.root.attention.gate, plain.notes) == (Shut(), ())

    def test_what_belonged_to_a_replaced_piece_is_noted(self) -> None:
        """A lower layer's parameter of a piece that a higher layer replaced is no mistake, but it is told."""
        file = layer("epi.toml", attention="heads", attention__gate="bent", attention__gate__bias=2.0)
        resolved = solved(file, layer("CLI", attention="lone"))
        assert resolved.root.attention == Lone()
        assert len(resolved.notes) == 2
        assert "attention.gate.bias = 2.0 (epi.toml:attention.gate.bias) is not used" in resolved.notes[1]
        (note,) = solved(file, layer("CLI", gate="shut")).notes
        assert "attention.gate was replaced" in note
        (note,) = solved(layer("CLI", attention="heads(gate=bent, gate.bias=2)", gate="shut")).notes
        assert "attention.gate.bias = 2 (name heads(gate=bent, gate.bias=2)) is not used" in note

    def test_a_replaced_piece_excuses_nothing_of_its_own_level(self) -> None:
        """A piece and a parameter that it lacks, said together, contradict each other; so does an author's preset."""
        assert "attention.gate.bias: unknown parameter" in refused(layer("CLI", gate="shut", gate__bias=1.0))
        assert "'shut' takes no parameters" in refused(layer("CLI", gate="shut", gate__bias=1.0))
        assert "ffn.exprts: unknown parameter" in refused(layer("CLI", ffn="wide(exprts=3)"))
        wrong = registry(MANIFEST.replace("rate = 0.25", "raet = 0.25"))
        assert "ffn.raet: unknown parameter. Did you mean 'rate'?" in refused(layer("CLI", ffn="tall"), found=wrong)

    def test_a_name_outranks_a_lower_layer_and_yields_to_its_own(self) -> None:
        """`--ffn wide4x2` beats `ffn.experts` of a file; `--ffn.experts` beats both."""
        file = layer("epi.toml", ffn__experts=9)
        assert solved(file, layer("CLI", ffn="wide5x2")).root.ffn.experts == 5
        assert solved(file, layer("CLI", ffn="wide5x2", ffn__experts=6)).root.ffn.experts == 6
        assert solved(layer("epi.toml", ffn="wide5x2"), layer("CLI", ffn__experts=6)).root.ffn.experts == 6

    def test_identity_is_inherited(self) -> None:
        """A parameter that changes no number is marked, and so is everything below a slot that changes none."""
        found = solved(root=Task).settings
        marked = {path for path, setting in found.items() if not setting.identity}
        assert marked == {"plan.log", "tracker", "tracker.experts", "tracker.top_k", "tracker.rate"}


class TestSlots:
    """Pieces chosen by name."""

    @pytest.mark.parametrize(
        ("said", "path", "value"),
        [
            ({"gate": "bent"}, "attention.gate", "bent"),
            ({"gate": "bent", "gate__bias": 2.0}, "attention.gate.bias", 2.0),
            ({"gate": "bent(bias=2.0)"}, "attention.gate.bias", 2.0),
            ({"mask__radius": 3}, "attention.mask.radius", 3),
            ({"attention__name": "lone"}, "attention", "lone"),
            ({"second": "tall"}, "attention.second.rate", 0.25),
            ({"extra": "wide4x1"}, "extra.top_k", 1),
            ({"metric": "half"}, "metrics[0].share", 0.5),
        ],
    )
    def test_a_bare_slot_flag_means_the_one_slot_of_that_name(self, said: dict, path: str, value: object) -> None:
        """`--gate bent` is `--attention.gate bent`, also for a slot that is empty by default; so are its parameters."""
        assert values(solved(layer("CLI", **said)))[path] == value

    def test_an_abbreviation_in_one_layer_meets_its_long_form_in_another(self) -> None:
        """The layers decide, not the spelling."""
        short, long = layer("a", gate="bent"), layer("b", attention__gate="shut")
        assert solved(short, long).root.attention.gate == Shut()
        assert solved(long, short).root.attention.gate == Bent()

    def test_both_spellings_at_once_must_agree(self) -> None:
        """One layer that says a slot twice is contradictory unless it says the same."""
        text = refused(layer("CLI", gate="bent", attention__gate="shut"))
        assert (
            text == "attention.gate is given twice, as 'bent' (CLI:gate) and as 'shut' (CLI:attention.gate); keep one"
        )
        assert solved(layer("CLI", gate="bent", attention__gate="bent")).root.attention.gate == Bent()

    def test_a_word_for_several_slots_is_refused_with_the_ways(self) -> None:
        """Two slots of one name are told apart by their full names."""
        text = refused(layer("CLI", gate="bent"), root=Pair)
        assert text == "gate: several slots could be meant. Say which: --a.gate, --b.gate (CLI:gate)"
        found = solved(layer("CLI", a__gate="bent"), root=Pair).root
        assert (found.a.gate, found.b.gate) == (Bent(), Shut())

    def test_an_optional_slot_is_filled_and_emptied(self) -> None:
        """`none` empties a slot that may be empty, a name fills it, and what it holds is known."""
        assert solved().root.extra is None
        assert solved(layer("a", extra="tall")).root.extra == Wide(rate=0.25, experts=3)
        emptied = solved(layer("a", attention__mask="none"))
        assert emptied.root.attention.mask is None
        assert emptied.settings["attention.mask"].value is None
        assert solved(layer("a", extra="tall"), layer("b", extra="none")).root.extra is None
        assert "extra" not in solved(layer("b", extra="none")).settings

    def test_parameters_of_an_emptied_slot(self) -> None:
        """Said lower they fall away with a note; said at the same level they contradict it."""
        lower = solved(layer("a", attention__mask__radius=3), layer("b", mask="none"))
        assert lower.root.attention.mask is None
        assert "attention.mask.radius = 3" in lower.notes[0]
        assert "attention.mask.radius: unknown parameter" in refused(layer("a", mask="none", mask__radius=3))

    def test_what_must_be_given(self) -> None:
        """A slot without default takes its kind's default row; without one it is asked for, as a parameter is."""
        assert refused(root=Needy).splitlines() == [
            "gate: none is chosen. Give --gate NAME. Known: shut, bent{steps:int}, curved",
            "path: a value is needed (a file). Give --path text",
        ]
        with_default = registry(MANIFEST.replace('summary = "Nothing to set."', 'summary = "x"\ndefault = true'))
        assert solved(layer("CLI", path="x"), root=Needy, found=with_default).root == Needy(gate=Shut(), path="x")

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ("share,half", (Share(), Share(share=0.5))),
            (Text("[share, half]"), (Share(), Share(share=0.5))),
            (Text('["share", "half"]'), (Share(), Share(share=0.5))),
            (["half"], (Share(share=0.5),)),
            (["share(share=0.3, label=x)"], (Share(share=0.3, label="x"),)),
            (['half(label="a, b")'], (Share(share=0.5, label="a, b"),)),
            ([], ()),
            (Text(""), ()),
        ],
    )
    def test_a_list_of_pieces(self, said: object, expected: tuple) -> None:
        """Names with commas, a TOML list, calls inside, or nothing: each piece with its preset and its own values."""
        assert solved(layer("CLI", metrics=said)).root.metrics == expected

    def test_an_item_of_a_list_can_be_tuned(self) -> None:
        """`metrics[1].share` sets a parameter of the second piece, above its name's."""
        found = solved(layer("a", metrics="share,half(share=0.4)"), layer("b", **{"metrics[1].share": 0.7}))
        assert found.root.metrics == (Share(), Share(share=0.7))

    def test_deprecated_names_are_noted(self) -> None:
        """In a slot and in a list, an old name works and the user hears the new one."""
        notes = solved(layer("CLI", gate="crooked", metrics=["part"])).notes
        assert [n.rpartition("; ")[2] for n in notes] == ["use 'bent'", "use 'half'"]
        assert all(n.startswith("CLI:") for n in notes)

    def test_an_inline_slot_puts_its_parameters_beside_it(self) -> None:
        """The parameters of an inline piece stand at the level of the slot."""
        resolved = solved(layer("a", heads=7, gate="bent", width=3), root=Task)
        assert resolved.root.system == Heads(heads=7, gate=Bent(), mask=resolved.root.system.mask, second=None)
        assert {"system", "heads", "gate", "gate.bias", "mask.radius", "width", "plan.steps"} <= {*resolved.settings}

    def test_a_later_system_excuses_no_typo_beside_it(self) -> None:
        """That the command line chose the system makes a file's typo in another block no forgotten parameter."""
        file, cli = layer("file", plan__stepz=3), layer("CLI", system="bent_heads")
        assert "plan.stepz: unknown parameter. Did you mean 'steps'?" in refused(file, cli, root=Task)
        planner = registry(MANIFEST + '[ffn.planner]\ntarget = "tests.fakes:Planner"\nsummary = "x"\n')
        tracked = layer("tracked", tracker="planner")
        assert "plan.stepz: unknown parameter" in refused(file, tracked, cli, root=Task, found=planner)
        fell = solved(
            layer("file", gate="bent", gate__bias=1.0), layer("CLI", system="only_shut", gate="shut"), root=Task
        )
        assert "gate.bias = 1.0 (file:gate.bias) is not used" in fell.notes[0]

    @pytest.mark.parametrize(("name", "key"), [("Loop", "ffn"), ("Loops", "metrics")])
    def test_a_piece_never_stands_inside_itself(self, name: str, key: str) -> None:
        """A piece whose default is itself is refused, in a slot and in a list."""
        kind = {"ffn": "ffn", "metrics": "metric"}[key]
        found = registry(MANIFEST + f'[{kind}.{name.lower()}]\ntarget = "tests.fakes:{name}"\nsummary = "x"\n')
        assert f"'{name.lower()}' would stand inside itself" in refused(
            layer("CLI", **{key: name.lower()}), found=found
        )


class TestRefusals:
    """What rows accept, checked before anything is built."""

    @pytest.mark.parametrize(
        ("said", "says"),
        [
            (
                {"attention": "only_shut", "gate": "bent"},
                "attention.gate: only_shut takes no gate 'bent'; it takes shut (CLI:gate)",
            ),
            (
                {"attention": "lone", "gate": "bent"},
                "gate: attention 'lone' takes no gate, because it has one output (CLI:gate)",
            ),
            (
                {"attention": "lone", "attention__gate": "bent"},
                "attention.gate: attention 'lone' takes no gate, because",
            ),
            ({"attention": "lone", "mask": "window"}, "mask: attention 'lone' takes no mask (CLI:mask)"),
        ],
    )
    def test_a_piece_that_has_no_place_is_refused_with_the_reason(self, said: dict, says: str) -> None:
        """A slot that a row closes, and a name that it does not take, are told with row, reason and flag."""
        assert says in refused(layer("CLI", **said))

    def test_an_inline_row_is_asked_as_well(self) -> None:
        """What a system accepts holds for the slots beside it."""
        assert "gate: only_shut takes no gate 'bent'" in refused(
            layer("CLI", system="only_shut", gate="bent"), root=Task
        )


class TestMistakes:
    """Every mistake is told, each once, with who made it."""

    @pytest.mark.parametrize(
        ("said", "says"),
        [
            ({"widht": 3}, "widht: unknown parameter. Did you mean 'width'?"),
            ({"experts": 3}, "experts: unknown parameter. Did you mean --ffn.experts?"),
            ({"expert": 3}, "expert: unknown parameter. Did you mean --ffn.experts?"),
            ({"ffn__top": 3}, "ffn.top: unknown parameter. Did you mean 'top_k'? 'wide' takes experts, top_k, rate"),
            ({"ffn__heads": 3}, "ffn.heads: unknown parameter. Did you mean --attention.heads?"),
            ({"plan__step": 3}, "plan.step: unknown parameter. Did you mean 'steps'?"),
            ({"plan": 3}, "plan is a table. Give its parameters one by one: --plan.steps,"),
            ({"width__x": 3}, "width.x: unknown parameter"),
            ({"metrics[0]": "half"}, "metrics[0]: one item of a list cannot be named anew"),
            ({"metrics[7].share": 0.1}, "metrics[7].share: unknown parameter"),
            ({"metrics": ["share(shar=1)"]}, "metrics[0].shar: unknown parameter. Did you mean 'share'?"),
            ({"metrics": ["shar"]}, "no metric is called 'shar'. Did you mean 'share'?"),
            ({"metrics": 3}, "metrics: expected a list of names, got 3"),
            ({"metrics": ["share", 3]}, "metrics: expected a list of names, got ['share', 3]"),
            ({"metrics": "share(share=1"}, "metrics: 'share(share=1': brackets or quotes do not close"),
            ({"metrics": Bare("true")}, "metrics: names are missing"),
            ({"attention": 3}, "attention is chosen by name, not by 3"),
            ({"attention": ["heads"]}, "attention is chosen by name, not by ['heads']"),
            ({"attention": Bare("true")}, "a name is missing. Known: heads, bent_heads, lone, only_shut"),
            ({"attention": "haeds"}, "no attention is called 'haeds'. Did you mean 'heads'?"),
            ({"attention": "none"}, "no attention is called 'none'"),
            ({"width": 0}, "width: must be >= 1, got 0"),
            ({"width": "16"}, "width: expected int, got '16'"),
            ({"width": None}, "width: expected int, got None"),
            ({"open": "false"}, "open: expected true|false, got 'false'"),
            ({"plan__rates": [0.5, 1.5]}, "plan.rates: must be >= 0.0 and < 1.0, got 1.5"),
            ({"plan__rates": 0.5}, "plan.rates: expected list of float, got 0.5"),
            ({"ffn": "wide2x3"}, "ffn: top_k must be at most experts=2, got 3 (name wide2x3)"),
            ({"ffn__top_k": 5}, "ffn: top_k must be at most experts=4, got 5 (CLI:ffn.top_k)"),
            ({"": 3}, "unknown parameter"),
            ({"..": 3}, "unknown parameter"),
        ],
    )
    def test_each_mistake_names_parameter_place_and_nearest(self, said: dict, says: str) -> None:
        """One line for the mistake, with the flag or file that made it."""
        text = refused(layer("CLI", **said))
        assert says in text
        assert "\n" not in text
        assert "CLI:" in text or "name wide2x3" in text or "share(shar=1)" in text

    def test_all_mistakes_are_told_at_once(self) -> None:
        """Independent mistakes come together, a line each, none twice."""
        text = refused(layer("CLI", width=0, open=3, plan__steps=-1, ffn__rate="x", metrics="shar,shar"))
        assert len(text.splitlines()) == 5

    def test_a_wrong_file_is_told_in_a_screenful(self) -> None:
        """Hundreds of unknown keys are cut to the first dozen and a count."""
        lines = refused(layer("f", **{f"key{i}": i for i in range(100)})).splitlines()
        assert len(lines) == 13
        assert lines[-1] == "and 88 more mistakes"

    def test_an_unknown_piece_is_told_without_the_noise_below_it(self) -> None:
        """What is said of the parameters of a piece that does not exist is not judged."""
        text = refused(layer("CLI", attention="haeds", attention__heads=2, gate="bent", gate__bias=1))
        assert "\n" not in text

    @law
    @given(
        entries=st.dictionaries(
            st.sampled_from(["width", "attention", "gate", "ffn.rate", "metrics", "metrics[0].share", "plan", "x.y"])
            | st.text("abw.[]0", max_size=6),
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(),
                st.text(max_size=6),
                st.text(max_size=6).map(Text),
                st.lists(st.text(max_size=3)),
                st.just(Bare("true")),
            ),
            max_size=4,
        )
    )
    def test_whatever_is_said_resolves_or_is_refused(self, entries: Mapping[str, Any]) -> None:
        """No choice of keys and values ends in anything but an object or a `UserError`."""
        try:
            found = solved(Layer("CLI", {key: (value, "CLI") for key, value in entries.items()}))
        except UserError as error:
            assert str(error)  # noqa: PT017 - both ends are lawful
        else:
            assert isinstance(found.root, Root)

    def test_an_author_whose_fields_collide_is_told(self) -> None:
        """An inline piece that brings a field of the same name as one beside it cannot be resolved."""

        @params
        class Clash:
            """Two fields of one name."""

            heads: int = knob(1, "x")
            system: Attention = slot("heads", "x", inline=True)

        with pytest.raises(TypeError, match="heads collides"):
            solved(root=Clash)


class TestLibrary:
    """`core.load` and `core.part`."""

    def test_a_part_with_nested_pieces(self) -> None:
        """Names, presets, patterns and dotted keys work from Python as they do on the command line."""
        gated = core.part("attention", "gated_headwise", heads=4, **{"gate.bias": 2.0})
        assert (gated.heads, type(gated.gate).__name__, gated.gate.bias) == (4, "Headwise", 2.0)
        assert core.part("attention", "gated_headwise", gate="elementwise").gate == core.part("gate", "elementwise")
        moe = core.part("ffn", "moe8x2", ratio=2)
        assert (moe.experts, moe.top_k, moe.ratio) == (8, 2, 2.0)
        assert core.load("ffn", "moe8x2") is type(moe)

    @pytest.mark.parametrize(
        ("kind", "name", "said", "says"),
        [
            ("gaet", "headwise", {}, "Did you mean 'gate'?"),
            ("gate", "hedwise", {}, "Did you mean 'headwise'?"),
            ("gate", "headwise", {"bais": 1.0}, "Did you mean 'bias'?"),
            ("gate", "headwise", {"bias": "1.0"}, "bias: expected float, got '1.0' (gate headwise)"),
            ("ffn", "moe2x3", {}, "top_k must be between 1 and experts=2"),
            ("attention", "linear", {"sparsifier": "softmax"}, "sparsifier"),
        ],
    )
    def test_mistakes_are_user_errors(self, kind: str, name: str, said: dict, says: str) -> None:
        """The same sentences as on the command line."""
        with pytest.raises(UserError) as caught:
            core.part(kind, name, **said)
        assert says in str(caught.value)


@law
@given(
    table=st.recursive(
        st.integers(),
        lambda inner: st.dictionaries(st.sampled_from(["a", "b", "c", "name"]), inner, max_size=3),
        max_leaves=6,
    ).filter(lambda t: isinstance(t, dict))
)
def test_flattening_keeps_every_leaf(table: dict) -> None:
    """Nested tables become dotted keys; `name` inside a table is the table itself."""

    def walk(inner: Mapping, path: tuple[str, ...]) -> list[tuple[str, int]]:
        found = []
        for key, value in inner.items():
            here = path if key == "name" and path and not isinstance(value, Mapping) else (*path, key)
            found += walk(value, here) if isinstance(value, Mapping) else [(".".join(here), value)]
        return found

    assert flatten(table) == dict(walk(table, ()))
