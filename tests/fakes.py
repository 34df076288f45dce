"""Third-party packages as an installer would leave them, and a small tree of plugins for tests of the resolver."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import typing
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Literal

import attrs
import tomlkit
from hypothesis import strategies as st

from core.kinds import FFN, Attention, Gate, Mask, Metric
from core.params import group, knob, params, slot
from core.registry import GROUP, Origin, Registry, discover
from tests.small import environment

SWISH = '''
from core.kinds import Gate
from core.params import knob, params


@params
class Swish(Gate):
    """A gate of a third party."""

    beta: float = knob(1.0, "slope", gt=0.0)

    def build(self, width, heads, head_width):
        raise NotImplementedError
'''
ROW = '[gate.swish]\ntarget = "{module}.gates:Swish"\nsummary = "A gate of a third party."\n'


def package(
    root: Path,
    name: str,
    manifest: str | None = None,
    *,
    version: str = "1.0",
    init: str = "",
    modules: Mapping[str, str] | None = None,
    point: str | None = None,
    metadata: str | None = None,
) -> Path:
    """Write a distribution and its package below `root`, and return the package's folder.

    Args:
        root: a folder that stands on the path.
        name: of the distribution; the package is called the same, with underscores.
        manifest: content of its `registry.toml`; None leaves the file out.
        version: of the distribution.
        init: content of the package's `__init__.py`.
        modules: further modules by name; without any there is `gates`, which holds `Swish`.
        point: value of the entry point, where it is not `package:registry.toml`.
        metadata: content of METADATA, where it is not name and version.
    """
    module = name.replace("-", "_").lower()
    info = root / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    said = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" if metadata is None else metadata
    (info / "METADATA").write_text(said)
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{module} = {point or f'{module}:registry.toml'}\n")
    folder = root / module
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(init)
    for stem, text in ({"gates": SWISH} if modules is None else modules).items():
        (folder / f"{stem}.py").write_text(text)
    if manifest is not None:
        (folder / "registry.toml").write_text(manifest)
    return folder


def swish(root: Path, name: str, **more: str) -> Path:
    """A sound package that brings `gate.swish`."""
    return package(root, name, "api = 1\n" + ROW.format(module=name.replace("-", "_").lower()), **more)


def read(root: Path, prefer: Mapping[str, str] | None = None) -> Registry:
    """The built-ins and what the distributions below `root` bring; `root` must stand on `sys.path`."""
    points = [p for found in distributions(path=[str(root)]) for p in found.entry_points if p.group == GROUP]
    return discover(points, prefer or {})


def python(
    *words: str, cwd: Path, path: Sequence[Path] = (), env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with `path` before the checkout on its path, which is never its current folder."""
    kept = environment()
    kept["PYTHONPATH"] = os.pathsep.join([*map(str, path), kept["PYTHONPATH"]])
    kept.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=kept | dict(env or {}), capture_output=True, text=True, timeout=120
    )


def command(
    *words: str, cwd: Path, path: Sequence[Path] = (), env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`core WORDS` in a process of its own; `-P` as the console script: the current folder is not looked into."""
    return python("-P", "-m", "core", *words, cwd=cwd, path=path, env=env)


@params
class Shut(Gate):
    """A gate without parameters."""

    def build(self, width: int, heads: int, head_width: int) -> None:
        """Never called."""


@params
class Bent(Gate):
    """A gate with parameters."""

    bias: float = knob(0.5, "where it starts", ge=-10.0, le=10.0)
    steps: int = knob(2, "steps of its curve", ge=1)

    def build(self, width: int, heads: int, head_width: int) -> None:
        """Never called."""


@params
class Window(Mask):
    """A mask with parameters."""

    radius: int = knob(8, "tokens on either side", ge=0)

    def sees(self, q: object, s: object) -> None:
        """Never called."""


@params
class Heads(Attention):
    """An attention with slots: one filled, one that may be emptied, one empty."""

    heads: int = knob(4, "number of heads", ge=1)
    gate: Gate = slot("shut", "scales")
    mask: Mask | None = slot("window", "hides")
    second: FFN | None = slot(None, "after it")

    def build(self, width: int) -> None:
        """Never called."""


@params
class Lone(Attention):
    """An attention without slots."""

    heads: int = knob(2, "number of heads", ge=1)

    def build(self, width: int) -> None:
        """Never called."""


@params
class Wide(FFN):
    """A network with a group and a pattern."""

    experts: int = knob(4, "experts", ge=1)
    top_k: int = knob(2, "experts of a token", ge=1)
    rate: float = knob(0.1, "a rate", ge=0.0, lt=1.0)

    def __attrs_post_init__(self) -> None:
        if self.top_k > self.experts:
            raise ValueError(f"top_k must be at most experts={self.experts}, got {self.top_k}")

    def build(self, width: int) -> None:
        """Never called."""

    def params(self, width: int) -> int:
        return 0

    def flops(self, width: int, tokens: int) -> int:
        return 0


@params
class Nest(FFN):
    """A network with a slot and a list of its own."""

    gate: Gate = slot("bent", "scales")
    metrics: tuple[Metric, ...] = slot(("share",), "judges")

    def build(self, width: int) -> None:
        """Never called."""

    def params(self, width: int) -> int:
        return 0

    def flops(self, width: int, tokens: int) -> int:
        return 0


@params
class Share(Metric):
    """A metric with parameters."""

    share: float = knob(0.1, "a share", ge=0.0, le=1.0)
    label: str = knob("share", "what tables call it")
    of, higher, best = "x", True, 1.0

    def score(self, predicted: object, true: object) -> float:
        return self.share


@params
class Schedule:
    """A group of plain parameters."""

    steps: int = knob(10, "steps", ge=0)
    rates: tuple[float, ...] = knob((0.9, 0.99), "rates", ge=0.0, lt=1.0)
    limit: float | None = knob(0.5, "a limit; none: no limit", gt=0.0)
    note: str | None = knob(None, "a remark")
    log: int = knob(1, "changes no number", ge=1, identity=False)


@params
class Root:
    """A tree like that of a run: slots, a list, a group, plain parameters."""

    width: int = knob(16, "width", ge=1)
    title: str = knob("", "text")
    open: bool = knob(False, "a switch")
    attention: Attention = slot("heads", "reads")
    ffn: FFN = slot("wide", "acts")
    extra: FFN | None = slot(None, "acts again")
    metrics: tuple[Metric, ...] = slot(("share",), "judges")
    plan: Schedule = group("how long")


@params
class Task:
    """A tree whose main piece stands inline, as a run's system does."""

    width: int = knob(16, "width", ge=1)
    system: Attention = slot("heads", "the task", inline=True)
    plan: Schedule = group("how long")
    tracker: FFN = slot("tall", "changes no number", identity=False)


@params
class Curved(Attention):
    """An attention whose gate is curved unless told otherwise."""

    heads: int = knob(4, "number of heads", ge=1)
    gate: Gate = slot("curved", "scales")

    def build(self, width: int) -> None:
        """Never called."""


@params
class Bend:
    """A tree two slots deep."""

    attention: Attention = slot("heads", "reads")


@params
class Pair:
    """A tree with two slots of one kind."""

    a: Attention = slot("heads", "one")
    b: Attention = slot("heads", "other")


@params
class Needy:
    """A tree with a slot that has no default of its own, and a parameter that must be given."""

    gate: Gate = slot(None, "scales")
    path: str = knob(attrs.NOTHING, "a file")


@params
class Planner(FFN):
    """A piece with a parameter that is called as a block of `Task` is."""

    plan: int = knob(1, "a number")

    def build(self, width: int) -> None:
        """Never called."""

    def params(self, width: int) -> int:
        return 0

    def flops(self, width: int, tokens: int) -> int:
        return 0


@params
class Loop(FFN):
    """A piece that would hold itself."""

    inner: FFN = slot("loop", "itself")

    def build(self, width: int) -> None:
        """Never called."""

    def params(self, width: int) -> int:
        return 0

    def flops(self, width: int, tokens: int) -> int:
        return 0


@params
class Loops(Metric):
    """A piece that would hold a list of itself."""

    inner: tuple[Metric, ...] = slot(("loops",), "itself")
    of, higher, best, label = "x", True, 1.0, "x"

    def score(self, predicted: object, true: object) -> float:
        return 0.0


MANIFEST = """
api = 1
[attention.heads]
target = "tests.fakes:Heads"
summary = "Slots."
[attention.bent_heads]
target = "tests.fakes:Heads"
summary = "The same, with other values."
preset = { heads = 8, gate = { name = "bent", bias = 1.0 } }
[attention.lone]
target = "tests.fakes:Lone"
summary = "No slots."
accepts = { gate = [], mask = ["window"] }
because = { gate = "it has one output" }
[attention.only_shut]
target = "tests.fakes:Heads"
summary = "Takes one gate only."
accepts = { gate = ["shut"] }
[gate.shut]
target = "tests.fakes:Shut"
summary = "Nothing to set."
[gate.bent]
target = "tests.fakes:Bent"
summary = "Two numbers."
pattern = "bent{steps:int}"
[gate.curved]
target = "tests.fakes:Bent"
summary = "The same with a preset."
preset = { steps = 5 }
[gate.crooked]
deprecated = "bent"
[mask.window]
target = "tests.fakes:Window"
summary = "A mask."
[ffn.wide]
target = "tests.fakes:Wide"
summary = "Experts."
pattern = "wide{experts:int}x{top_k:int}"
[ffn.tall]
target = "tests.fakes:Wide"
summary = "The same with a preset."
preset = { rate = 0.25, experts = 3 }
[metric.share]
target = "tests.fakes:Share"
summary = "A share."
[metric.half]
target = "tests.fakes:Share"
summary = "A share with a preset."
preset = { share = 0.5 }
[metric.part]
deprecated = "half"
"""


def registry(
    manifest: str = MANIFEST, origin: Origin | None = None, prefer: Mapping[str, str] | None = None
) -> Registry:
    """A registry of this module's plugins alone."""
    made = Registry(prefer=prefer or {})
    made.add(tomllib.loads(manifest), origin or Origin("cellcore", "0"))
    return made


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@attrs.frozen
class Leaf:
    """A plain parameter to generate: its type, default, bounds, and the values it may take."""

    hint: Any
    default: Any
    bounds: dict[str, float]
    values: st.SearchStrategy

    @property
    def field(self) -> Any:
        names = {">=": "ge", ">": "gt", "<=": "le", "<": "lt"}
        return knob(self.default, "generated", **{names[sign]: limit for sign, limit in self.bounds.items()})

    def spell(self, value: Any) -> str:
        """What a user types for a value."""
        if value is None:
            return "none"
        return (
            value
            if isinstance(value, str)
            else tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string()
        )


@st.composite
def _leaves(draw: st.DrawFn) -> Leaf:
    """A parameter of any type that can be declared, with bounds now and then."""
    hint = draw(
        st.sampled_from(
            [int, float, bool, str, Literal["a", "b", "3"], tuple[int, ...], tuple[float, ...], tuple[str, ...]]
        )
    )
    number = int if hint in (int, tuple[int, ...]) else float
    low = draw(st.none() | st.integers(-100, 100)) if hint not in (bool, str) else None
    high = None if low is None else low + draw(st.integers(0, 100))
    numbers = {
        int: st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high),
        float: st.floats(low, high, allow_nan=False, allow_infinity=False),
    }
    values: st.SearchStrategy
    if hint in (int, float):
        values = numbers[number]
    elif hint in (tuple[int, ...], tuple[float, ...]):
        values = st.lists(numbers[number], max_size=3).map(tuple)
    elif hint is bool:
        values = st.booleans()
    elif hint is str:
        values = TEXTS
    elif hint == tuple[str, ...]:
        values = st.lists(TEXTS, max_size=3).map(tuple)
    else:
        values = st.sampled_from(["a", "b", "3"])
    bounded = low is not None and hint in (int, float, tuple[int, ...], tuple[float, ...])
    if draw(st.booleans()) and typing.get_origin(hint) is not tuple:
        hint, values = hint | None, st.none() | values.filter(lambda value: value != "none")
    return Leaf(hint, draw(values), {">=": low, "<=": high} if bounded else {}, values)


LEAVES = _leaves()


def made(leaves: Sequence[Leaf], name: str = "Generated") -> type:
    """A parameter class of fields p0, p1, ..."""
    hints = {f"p{i}": leaf.hint for i, leaf in enumerate(leaves)}
    return params(
        type(
            name,
            (),
            {
                "__doc__": "Generated.",
                "__annotations__": hints,
                **{f"p{i}": leaf.field for i, leaf in enumerate(leaves)},
            },
        )
    )
