"""The resolver: layers, presets, names, slots, provenance, and every mistake told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import core
from core.config import ConfigError, Layer, Resolved, flatten, resolve
from core.errors import UserError
from core.names import Bare, Text, match_pattern, parse
from core.params import fields, knob, params
from core.registry import Origin, Registry
from tests.fakes import LEAVES, MANIFEST, Bent, Heads, Lone, Root, Share, Shut, Wide, made, registry

law = settings(deadline=None, max_examples=80)
FAKES = registry()


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

    @law
    @given(choices=st.data())
    def test_names_presets_and_values_weigh_by_layer_first(self, choices: st.DataObject) -> None:
        """Against a slow reference: by layer; within one, preset < name < value; a replaced piece takes its own along."""
        heads = st.sampled_from(["heads", "bent_heads", "heads(heads=3)", "bent_heads(heads=6)", "lone", "only_shut"])
        gates = st.sampled_from(["shut", "bent", "bent7", "bent3(bias=2.0)"])
        layers = []
        for i in range(choices.draw(st.integers(0, 3))):
            said: dict[str, Any] = {}
            for key, strategy in {
                "attention": heads,
                "attention__gate": gates,
                "attention__heads": st.integers(1, 9),
                "attention__gate__steps": st.integers(1, 9),
                "attention__gate__bias": st.floats(-9, 9),
            }.items():
                if choices.draw(st.booleans()):
                    said[key] = choices.draw(strategy)
            layers.append(layer(f"l{i}", **said))
        expected = reference(layers)
        try:
            found = values(solved(*layers))
        except ConfigError as error:
            assert expected is None, str(error)  # noqa: PT017 - both ends are lawful
        else:
            assert expected is not None
            assert {k: v for k, v in found.items() if k.startswith("attention")} == expected

    def test_a_default_has_the_type_of_its_parameter(self) -> None:
        """A whole number as default of a float is that float, as it is when said, so that one value has one identity."""
        cls = params(type("C", (), {"__doc__": "C.", "__annotations__": {"x": float}, "x": knob(1, "x")}))
        assert type(solved(root=cls).settings["x"].value) is float
        assert solved(root=cls).root == solved(layer("CLI", x=Text("1")), root=cls).root


def reference(layers: list[Layer]) -> dict[str, Any] | None:
    """What `attention` resolves to, by definition; None where something below it is refused."""
    classes = {"heads": Heads, "bent_heads": Heads, "only_shut": Heads, "lone": Lone, "shut": Shut, "bent": Bent}
    presets = {"bent_heads": {"heads": 8, "gate": "bent", "gate.bias": 1.0}}
    patterns = {"bent": "bent{steps:int}"}

    def spoken(text: str) -> tuple[str, dict[str, Any]]:
        head = parse(text)
        for name, pattern in patterns.items():
            if head.head != name and match_pattern(pattern, head.head) is not None:
                return name, {**(match_pattern(pattern, head.head) or {}), **head.args}
        return head.head, dict(head.args)

    said: list[tuple[tuple[int, int], str, Any]] = [
        ((-1, -1), "attention", "heads"),
        ((-1, -1), "attention.gate", "shut"),
    ]
    said += [((i, 2), key, value) for i, la in enumerate(layers) for key, (value, _) in la.entries.items()]
    final: dict[str, Any] = {}
    for slot in ("attention", "attention.gate", "attention.mask"):
        if slot == "attention.mask":
            said.append(((-1, -1), slot, "window"))
        links = [(rank, *spoken(v)) for rank, key, v in sorted(said, key=lambda s: s[0]) if key == slot]
        if slot != "attention" and final["attention"] == "lone":
            if any(rank[0] >= chosen for rank, key, _ in said if (key + ".").startswith(f"{slot}.")):
                return None
            continue
        (_, name, _) = links[-1]
        run = len(links)
        while run and links[run - 1][1] == name:
            run -= 1
        final[slot] = name
        if slot == "attention":
            chosen = max(links[run][0][0], -1)
        for rank, _, args in links[run:]:
            said += [((rank[0], 1), f"{slot}.{key}", value) for key, value in args.items()]
        start = links[run][0][0]
        said += [((start, 0), f"{slot}.{key}", value) for key, value in presets.get(name, {}).items()]
        own = (
            {f.name: f.default for f in fields(classes[name]) if f.role == "knob"} if name in classes else {"radius": 8}
        )
        for key, default in own.items():
            ranked = [v for rank, k, v in sorted(said, key=lambda s: s[0]) if k == f"{slot}.{key}"]
            value = ranked[-1] if ranked else default
            final[f"{slot}.{key}"] = type(default)(value)
        unread = [(rank, k) for rank, k, _ in said if k.startswith(f"{slot}.") and k.count(".") == slot.count(".") + 1]
        for rank, key in unread:
            leaf = key.removeprefix(f"{slot}.")
            if leaf not in own and f"{slot}.{leaf}" not in ("attention.gate", "attention.mask") and rank[0] >= max(start, chosen):
                return None
    if final["attention"] == "only_shut" and final["attention.gate"] != "shut":
        return None
    return final
