"""The registry: manifests are read without importing anything, third parties are isolated, clashes are settled."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.registry import (
    BUILTIN,
    GROUP,
    KINDS,
    Origin,
    Registry,
    canonical,
    discover,
    installed,
    manifest_path,
    shadowed,
    user_preferences,
)
from tests.fakes import ROW, package, read, registry, swish

ACME, OTHER = Origin("acme", "1.0"), Origin("other", "2.0")
law = settings(deadline=None, max_examples=60)


def told(found: Registry) -> str:
    return "\n".join(f"{b.origin}: {b.reason}" for b in found.broken)


def added(manifest: dict, *more: tuple[dict, Origin], prefer: dict | None = None) -> Registry:
    made = Registry(prefer=prefer or {})
    made.add(manifest, ACME)
    for doc, origin in more:
        made.add(doc, origin)
    return made


def row(**keys: object) -> dict:
    return {"target": "acme.gates:Swish", "summary": "A gate.", **keys}


class TestBuiltins:
    """What cellcore itself brings."""

    def test_every_row_loads_and_is_of_its_kind(self) -> None:
        """Each target imports, is a concrete parameter class of its kind, and is found under its name again."""
        found = installed()
        assert found.broken == []
        assert found.clashes() == []
        for kind in found.kinds():
            for one in found.rows(kind):
                assert found.find(kind, one.name).row is one
                assert found.find(kind, one.qualified).row is one
                if kind != "recipe":
                    assert kind == one.load().KIND

    def test_every_preset_and_contract_names_what_exists(self) -> None:
        """Names in `accepts`, of a recipe's system and of at most one default a kind are those of rows."""
        found = installed()
        for kind in found.kinds():
            rows = found.rows(kind)
            assert sum(one.default for one in rows) <= 1
            for one in rows:
                for slot, names in one.accepts.items():
                    for name in names:
                        found.find(slot, name)
                if one.system is not None:
                    assert found.find("system", one.system).row.kind == "system"

    def test_names_and_patterns(self) -> None:
        """One implementation answers to several names; a pattern carries its values, a call overrides them."""
        found = installed()
        assert found.find("attention", "softmax").row.target == found.find("attention", "gated_headwise").row.target
        assert found.find("ffn", "moe4x2").values == {"experts": 4, "top_k": 2}
        assert found.find("ffn", "cellcore/moe8x1").values == {"experts": 8, "top_k": 1}
        assert found.find("ffn", "moe4x2(top_k=1)").values == {"experts": 4, "top_k": "1"}
        assert found.find("data", "some/Cells (1).H5AD").values["path"].endswith("some/Cells (1).H5AD")

    def test_kinds_without_rows_are_kinds(self) -> None:
        """A kind that nothing fills yet is listed empty and not refused."""
        found = registry('api = 1\n[gate.x]\ntarget = "a:B"\nsummary = "x"\n')
        assert found.kinds() == ["gate"]
        assert found.rows("mask") == []
        with pytest.raises(UserError, match="none installed"):
            found.find("mask", "full")


class TestUnknown:
    """Near matches for kinds and names."""

    @pytest.mark.parametrize(
        ("kind", "name", "says"),
        [
            ("gaet", "headwise", "Did you mean 'gate'?"),
            ("gate", "hedwise", "Did you mean 'headwise'?"),
            ("ffn", "meo4x2", "Did you mean 'moe{experts:int}x{top_k:int}'?"),
            ("ffn", "moe4", "Did you mean 'moe'?"),
            ("gate", "cellcor/headwise", "Did you mean 'cellcore/headwise'?"),
            ("ffn", "headwise", "That is a name of kind 'gate'."),
            (
                "extractor",
                "none",
                "no extractor is called 'none': where a piece may be left out, that says there is none. Kno",
            ),
            ("backbone", "none", "`core list backbone` says what each is"),
            ("gate", "xyzzy", "Known: none, headwise, elementwise"),
            ("data", "cells.csv", "files must end in .h5ad"),
            ("data", "~/cells", "files must end in .h5ad"),
            ("gate", "", "is no name"),
        ],
    )
    def test_the_message_names_the_place_and_the_nearest(self, kind: str, name: str, says: str) -> None:
        """An unknown kind or name is the user's mistake: who said it, what was near, what there is."""
        with pytest.raises(UserError) as caught:
            installed().find(kind, name, "epi.toml:3")
        assert says in str(caught.value)
        if kind in KINDS:
            assert str(caught.value).startswith("epi.toml:3: ")

    @law
    @given(
        kind=st.sampled_from([*KINDS]),
        name=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    )
    def test_any_text_is_found_or_refused(self, kind: str, name: str) -> None:
        """Whatever is typed as a name, it is either a row or a `UserError` of one line."""
        try:
            found = installed().find(kind, name)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both ends are lawful
        else:
            assert found.row.kind == kind


class TestManifests:
    """What a manifest may say, and what becomes of one that says something else."""

    @pytest.mark.parametrize(
        ("manifest", "says"),
        [
            ({"gate": {"swish": row()}}, "set `api = 1` at its top"),
            ({"api": 2, "gate": {"swish": row()}}, "api = 2; this core speaks 1"),
            ({"api": "1", "gate": {"swish": row()}}, "api = 1; this core speaks 1"),
            ({"api": 1, "gaet": {"swish": row()}}, "[gaet] is no kind. Did you mean 'gate'?"),
            ({"api": 1, "gate": 3}, "[gate] is no kind"),
            ({"api": 1, "hooks": {"modul": "x"}}, '[hooks] must read module = "package.module"'),
            ({"api": 1, "hooks": "acme.hooks"}, '[hooks] must read module = "package.module"'),
            ({"api": 1, "gate": {"swish": 3}}, "[gate.swish] a row is a table"),
            ({"api": 1, "gate": {"Swish": row()}}, "[gate.Swish] a name is lower-case"),
            ({"api": 1, "gate": {"2swish": row()}}, "[gate.2swish] a name is"),
            ({"api": 1, "gate": {"swish": row(sumary="x")}}, "unknown key 'sumary'. Did you mean 'summary'?"),
            ({"api": 1, "gate": {"swish": row(target=3)}}, "target must be str, not int"),
            ({"api": 1, "gate": {"swish": row(target="acme.gates")}}, "target must read module:Class"),
            ({"api": 1, "gate": {"swish": row(target="")}}, "target is missing"),
            ({"api": 1, "gate": {"swish": {"target": "a:B"}}}, "summary is missing"),
            ({"api": 1, "gate": {"swish": row(summary="x" * 81)}}, "summary has 81 characters"),
            ({"api": 1, "gate": {"swish": row(summary="a\nb")}}, "one line"),
            ({"api": 1, "gate": {"swish": row(summary="a\x1b[2Jb")}}, "one line"),
            ({"api": 1, "gate": {"swish": row(revision="2")}}, "revision must be int, not str"),
            ({"api": 1, "gate": {"swish": row(revision=True)}}, "revision must be int, not bool"),
            ({"api": 1, "gate": {"swish": row(preset=[1])}}, "preset must be dict, not list"),
            ({"api": 1, "gate": {"swish": row(needs="torch")}}, "needs must be list, not str"),
            ({"api": 1, "gate": {"swish": row(needs=[3])}}, "needs must be a list of texts"),
            ({"api": 1, "gate": {"swish": row(files=[3])}}, "files must be a list of texts"),
            ({"api": 1, "gate": {"swish": row(files=[""])}}, "endings with their dot"),
            ({"api": 1, "gate": {"swish": row(files=["csv"])}}, "endings with their dot"),
            ({"api": 1, "gate": {"swish": row(accepts={"maks": []})}}, "Did you mean 'mask'?"),
            ({"api": 1, "gate": {"swish": row(accepts={"mask": "full"})}}, "accepts.mask must be a list of names"),
            ({"api": 1, "gate": {"swish": row(accepts={"mask": [3]})}}, "accepts.mask must be a list of names"),
            ({"api": 1, "gate": {"swish": row(because={"mask": 3})}}, "because must hold texts"),
            ({"api": 1, "gate": {"swish": row(pattern="s{n:number}")}}, "int, float or word"),
            ({"api": 1, "gate": {"swish": row(pattern="s{n:int}{n:int}")}}, "pattern"),
            ({"api": 1, "recipe": {"quick": {"summary": "x"}}}, "system is missing"),
        ],
    )
    def test_a_fault_is_kept_as_data_and_hides_nothing_else(self, manifest: dict, says: str) -> None:
        """A wrong manifest or row is recorded with its distribution and place; a sound one beside it works."""
        found = added(manifest, ({"api": 1, "mask": {"lone": row(target="other.masks:Lone")}}, OTHER))
        assert len(found.broken) == 1
        assert found.broken[0].origin == "acme 1.0"
        assert says in found.broken[0].reason
        assert found.kinds() == ["mask"]
        with pytest.raises(UserError, match="none installed"):
            found.find("gate", "swish")

    @law
    @given(
        doc=st.dictionaries(
            st.sampled_from(["api", "gate", "hooks", "recipe", "nokind"]) | st.text(max_size=3),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(
                            ["target", "summary", "pattern", "needs", "files", "accepts", "deprecated", "a"]
                        ),
                        inner,
                        max_size=4,
                    )
                ),
                max_leaves=8,
            ),
            max_size=4,
        )
    )
    def test_no_manifest_raises(self, doc: dict) -> None:
        """Whatever a manifest holds, reading it ends in rows or in recorded faults, and listing still works."""
        found = added({"api": 1, **doc}, ({"api": 1, "mask": {"lone": row()}}, OTHER))
        for kind in found.kinds():
            found.rows(kind)
        for kind, table in doc.items():
            for name in table if kind in KINDS and isinstance(table, dict) else ():
                with contextlib.suppress(UserError):
                    assert found.find(kind, name).row.kind == kind
        assert found.find("mask", "lone").row.origin == OTHER

    def test_a_row_is_kept_as_written(self) -> None:
        """Every key of a row is kept, and its names are derived from it."""
        keys = {
            "preset": {"beta": 2.0},
            "pattern": "swish{beta:float}",
            "accepts": {"mask": []},
            "because": {"mask": "it has none"},
            "needs": ["torch>=2"],
            "revision": 3,
            "source": "Someone 2020",
            "files": [".x"],
            "default": True,
        }
        found = added({"api": 1, "gate": {"swish": row(**keys)}}).find("gate", "swish").row
        assert (found.qualified, found.spoken, str(found.origin)) == ("acme/swish", "swish{beta:float}", "acme 1.0")
        assert (found.needs, found.files, found.revision, found.default) == (("torch>=2",), (".x",), 3, True)
        assert (found.preset, found.accepts, found.because) == (keys["preset"], keys["accepts"], keys["because"])


class TestDiscovery:
    """Entry points: packages are located, never imported."""

    def test_listing_imports_no_package(self, site: Path) -> None:
        """A package whose `__init__` raises is listed; it is imported only when its row is loaded."""
        swish(site, "acme-gates", init="raise RuntimeError('imported')")
        found = read(site)
        assert found.broken == []
        assert [r.qualified for r in found.rows("gate") if r.origin.name != BUILTIN] == ["acme-gates/swish"]
        assert "acme_gates" not in sys.modules
        with pytest.raises(UserError) as caught:
            found.find("gate", "swish").row.load()
        assert "gate 'swish' (from acme-gates 1.0) cannot be loaded" in str(caught.value)
        assert "RuntimeError: imported" in str(caught.value)

    def test_a_sound_package_loads(self, site: Path) -> None:
        """A row of a third party is found by its bare and its full name, and loads like a built-in."""
        swish(site, "Acme_Gates", version="3.2")
        found = read(site)
        for name in ("swish", "acme-gates/swish", "Acme_Gates/swish", "swish(beta=2)"):
            assert found.find("gate", name).row.load()(beta=2.0).beta == 2.0
        assert str(found.find("gate", "swish").row.origin) == "acme-gates 3.2"

    @pytest.mark.parametrize(
        ("keys", "says"),
        [
            ({"manifest": None}, "registry.toml is missing"),
            ({"manifest": "api = 1\n[gate.swish\n"}, "Expected ']'"),
            ({"manifest": "api = 2\n"}, "api = 2; this core speaks 1"),
            ({"manifest": "api = 1\n", "point": "acme_bad"}, "package:registry.toml"),
            ({"manifest": "api = 1\n", "point": "acme_bad.sub:registry.toml"}, "top-level package"),
            ({"manifest": "api = 1\n", "point": "acme_bad:"}, "package:registry.toml"),
            ({"manifest": "api = 1\n", "point": "nowhere:registry.toml"}, "'nowhere' is not importable"),
            ({"manifest": "api = 1\n[gaet.x]\n"}, "[gaet] is no kind"),
            ({"manifest": "api = 1\nx = " + "[" * 3000}, "acme-bad 1.0: acme_bad:registry.toml: "),
            ({"manifest": "api = 1\nx = 1" + "0" * 5000}, "acme-bad 1.0: acme_bad:registry.toml: "),
        ],
    )
    def test_a_broken_package_hides_no_other(self, site: Path, keys: dict, says: str) -> None:
        """Broken manifests are told with their distribution; the built-ins and other packages stay."""
        package(site, "acme-bad", **keys)
        swish(site, "acme-good")
        found = read(site)
        assert len(found.broken) == 1
        assert says in told(found)
        assert found.find("gate", "swish").row.origin.name == "acme-good"
        assert found.find("gate", "headwise").row.origin.name == BUILTIN

    def test_a_manifest_that_is_not_text_is_isolated(self, site: Path) -> None:
        """Bytes that are no UTF-8 are a fault of that manifest."""
        (swish(site, "acme-bad") / "registry.toml").write_bytes(b"api = 1 # \xff\n")
        found = read(site)
        assert "utf-8" in told(found)
        assert found.find("gate", "headwise").row.origin.name == BUILTIN

    def test_metadata_that_lost_its_name_is_isolated(self, site: Path) -> None:
        """A half-removed installation (METADATA without a name) neither hides nor sorts away the others."""
        swish(site, "acme-bad", metadata="Metadata-Version: 2.1\n")
        swish(site, "acme-good")
        found = read(site)
        assert {r.origin.name for rows in found.clashes() for r in rows[2]} == {"unknown", "acme-good"}
        assert found.find("gate", "acme-good/swish").row.load().KIND == "gate"

    def test_an_editable_install_that_announces_itself_twice_counts_once(self, site: Path) -> None:
        """The same manifest of the same distribution is read once, whatever the number of its entry points."""
        swish(site, "acme")
        (site / "acme-1.0.dist-info" / "entry_points.txt").write_text(
            f"[{GROUP}]\na = acme:registry.toml\nb = acme:registry.toml\n"
        )
        found = read(site)
        assert found.clashes() == []
        assert found.find("gate", "swish").row.origin.name == "acme"

    def test_built_ins_come_first_whatever_the_order(self, site: Path) -> None:
        """Rows are listed built-ins first, then distributions by name."""
        for name in ("zeta", "alpha"):
            package(site, name, "api = 1\n" + ROW.format(module=name).replace("swish", name))
        names = [r.origin.name for r in read(site).rows("gate")]
        assert names == sorted(names, key=lambda n: (n != BUILTIN, n))
        assert {"zeta", "alpha", BUILTIN} == {*names}

    def test_a_checkout_that_is_not_installed_still_has_its_pieces(self) -> None:
        """Without any entry point the built-in manifest is found beside the package."""
        assert discover([], {}).find("gate", "headwise").row.origin == Origin(BUILTIN, "0+checkout")

    def test_an_entry_point_without_a_distribution_is_read(self) -> None:
        """An entry point that nobody owns is read as of an unknown distribution."""
        found = discover([EntryPoint("x", "core:registry.toml", GROUP)], {})
        assert found.find("gate", "unknown/headwise").row.origin == Origin("unknown", "0")

    def test_a_manifest_is_found_without_importing(self, site: Path) -> None:
        """`manifest_path` finds the file of a package that could not be imported."""
        folder = swish(site, "acme", init="raise RuntimeError")
        assert manifest_path("acme:registry.toml") == folder / "registry.toml"
        with pytest.raises(ValueError, match="top-level package"):
            manifest_path("acme.sub:registry.toml")
        assert "acme" not in sys.modules


class TestLoading:
    """What can go wrong when a target is loaded, each told with who brought it."""

    def load(self, site: Path, text: str, **keys: object) -> str:
        package(site, "acme", modules={"gates": text})
        found = Registry()
        found.add({"api": 1, "gate": {"swish": row(**keys)}}, ACME)
        assert found.broken == []
        with pytest.raises(UserError) as caught:
            found.find("gate", "swish").row.load()
        assert "gate 'swish' (from acme 1.0)" in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
            ("x = 1", "has no attribute 'Swish'"),
            ("1 / 0", "ZeroDivisionError"),
            ("raise SystemExit(3)", "SystemExit: 3"),
            ("def (", "SyntaxError"),
            ("Swish = 3", "is no gate (its KIND is None)"),
            ("class Swish:\n    KIND = 'mask'", "is no gate (its KIND is 'mask')"),
            ("class Swish:\n    KIND = 'gate'", "decorate it with @params"),
            (
                "from core.kinds import Gate\nfrom core.params import params\n@params\nclass Swish(Gate):\n    'Half.'",
                "lacks build, which every gate has",
            ),
            (
                "from core.kinds import Gate\nfrom core.params import knob, params\n@params\nclass Swish(Gate):\n"
                "    'A gate.'\n    beta: int = knob(0, 'x', ge=1)",
                "out of bounds",
            ),
        ],
    )
    def test_a_target_that_does_not_load(self, site: Path, text: str, says: str) -> None:
        """Import errors, wrong kinds and half-written classes are one sentence, never a traceback."""
        assert says in self.load(site, text)

    @pytest.mark.parametrize(
        ("needs", "says"),
        [
            (["no-such-distribution>=2"], "Install with: pip install 'no-such-distribution>=2'"),
            (
                ["numpy", "numpy<0.1", "no-such"],
                "needs numpy<0.1, no-such. Install with: pip install 'numpy<0.1' 'no-such'",
            ),
            (["not a requirement!"], "what is no requirement"),
        ],
    )
    def test_needs_are_checked_before_anything_is_imported(self, site: Path, needs: list, says: str) -> None:
        """A missing distribution is told with the line that installs it, and the target is left alone."""
        assert says in self.load(site, "raise RuntimeError('imported')", needs=needs)
        assert "acme" not in sys.modules

    def test_needs_that_are_met(self, site: Path) -> None:
        """Installed versions, and needs of other platforms, are no obstacle."""
        folder = swish(site, "acme")
        met = 'needs = ["numpy", "attrs>=1", "no-such; python_version < \'3\'"]\n'
        (folder / "registry.toml").write_text((folder / "registry.toml").read_text() + met)
        assert read(site).find("gate", "swish").row.load().KIND == "gate"


class TestClashes:
    """Two distributions claim one name."""

    @pytest.fixture
    def two(self, site: Path) -> Callable[..., Registry]:
        swish(site, "acme-gates")
        swish(site, "other")
        return lambda **prefer: read(site, {f"gate.{k}": v for k, v in prefer.items()})

    def test_third_parties_that_clash_answer_to_full_names_only(self, two: Callable[..., Registry]) -> None:
        """The bare name is an error that lists both and says how to settle it; the full names work."""
        found = two()
        with pytest.raises(UserError) as caught:
            found.find("gate", "swish", "CLI --gate")
        assert "CLI --gate: gate 'swish' is claimed by acme-gates/swish and other/swish" in str(caught.value)
        assert 'gate.swish = "acme-gates"' in str(caught.value)
        for name in ("acme-gates", "other"):
            assert found.find("gate", f"{name}/swish").row.origin.name == name
        assert all(r.name != "swish" for r in found.rows("gate"))
        ((kind, name, claims, winner),) = found.clashes()
        assert (kind, name, [c.origin.name for c in claims], winner) == ("gate", "swish", ["acme-gates", "other"], None)

    @pytest.mark.parametrize("wish", ["other", "Other"])
    def test_prefer_settles_a_clash(self, two: Callable[..., Registry], wish: str) -> None:
        """The user's `[prefer]` gives the bare name to one of them."""
        found = two(swish=wish)
        assert found.find("gate", "swish").row.origin.name == "other"
        assert found.clashes()[0][3].origin.name == "other"
        assert [r.origin.name for r in found.rows("gate") if r.name == "swish"] == ["other"]

    def test_a_preference_for_somebody_else_settles_nothing(self, two: Callable[..., Registry]) -> None:
        """A preferred distribution that does not claim the name leaves the clash as it was."""
        with pytest.raises(UserError, match="is claimed by"):
            two(swish="third").find("gate", "swish")

    def test_a_built_in_keeps_its_name(self, site: Path) -> None:
        """A third party cannot take a built-in's bare name; by its full name, or preferred, it is there."""
        package(site, "acme", "api = 1\n" + ROW.format(module="acme").replace("gate.swish", "gate.headwise"))
        found = read(site)
        assert found.find("gate", "headwise").row.origin.name == BUILTIN
        assert found.find("gate", "acme/headwise").row.origin.name == "acme"
        assert found.clashes()[0][3].origin.name == BUILTIN
        assert read(site, {"gate.headwise": "acme"}).find("gate", "headwise").row.origin.name == "acme"
        assert read(site, {"gate.headwise": "acme"}).find("gate", "cellcore/headwise").row.origin.name == BUILTIN

    @law
    @given(
        claims=st.sets(st.sampled_from([BUILTIN, "acme", "other", "third"]), min_size=1),
        wish=st.none() | st.sampled_from([BUILTIN, "acme", "other", "third"]),
    )
    def test_who_answers_to_a_bare_name(self, claims: set[str], wish: str | None) -> None:
        """The preferred claimant, else (without a preference) the built-in, else the only one, else nobody."""
        found = Registry(prefer={"gate.swish": wish} if wish else {})
        for name in sorted(claims):
            found.add({"api": 1, "gate": {"swish": row()}}, Origin(name, "1"))
        if wish in claims:
            expected = wish
        elif BUILTIN in claims and wish is None:
            expected = BUILTIN
        else:
            expected = next(iter(claims)) if len(claims) == 1 else None
        try:
            answer = found.find("gate", "swish").row.origin.name
        except UserError:
            answer = None
        assert answer == expected


class TestDeprecated:
    """Old names are data with a replacement."""

    def test_an_old_name_answers_with_a_warning(self) -> None:
        """The new row answers, what the call says goes along, and the warning names both and who said it."""
        found = registry().find("gate", "crooked(bias=1)", "epi.toml:3")
        assert (found.row.name, found.values) == ("bent", {"bias": "1"})
        assert found.warning == "epi.toml:3: gate 'crooked' is deprecated; use 'bent'"

    def test_an_old_name_is_not_listed(self) -> None:
        """Listings show new names only."""
        assert "crooked" not in [r.name for r in registry().rows("gate")]

    def test_an_old_pattern_keeps_its_values(self) -> None:
        """A deprecated pattern hands its values to the new name."""
        found = registry(
            'api = 1\n[ffn.old]\ndeprecated = "new"\npattern = "old{n:int}"\n[ffn.new]\ntarget = "a:B"\nsummary = "x"\n'
        )
        assert found.find("ffn", "old3").values == {"n": 3}

    def test_chains_are_followed_and_circles_refused(self) -> None:
        """A chain of old names leads to its end; a circle is told, not followed for ever."""
        rows = {"a": {"deprecated": "b"}, "b": {"deprecated": "c"}, "c": row()}
        assert added({"api": 1, "gate": rows}).find("gate", "a").row.name == "c"
        for circle in ({"a": {"deprecated": "a"}}, {"a": {"deprecated": "b"}, "b": {"deprecated": "a"}}):
            with pytest.raises(UserError, match="in favour of itself"):
                added({"api": 1, "gate": circle}).find("gate", "a")

    def test_an_old_name_without_a_successor(self) -> None:
        """A replacement that is not installed is an unknown name."""
        with pytest.raises(UserError, match="no gate is called 'gone'"):
            added({"api": 1, "gate": {"a": {"deprecated": "gone"}}}).find("gate", "a")


class TestFiles:
    """Names that are files."""

    def test_endings_speak_a_row(self) -> None:
        """A path with a row's ending is that row with the absolute path; brackets in a file name are no call."""
        found = added({"api": 1, "data": {"table": row(files=[".csv", ".tsv"]), "other": row()}})
        for name in ("x.csv", "./x.TSV", "/a/b (2).csv", "~/x.csv"):
            assert found.find("data", name).row.name == "table"
            assert Path(found.find("data", name).values["path"]).is_absolute()
        assert found.find("data", "table(path=x.csv)").values == {"path": "x.csv"}
        with pytest.raises(UserError, match=r"CLI --data: no data reads 'x.h5': files must end in .csv, .tsv"):
            found.find("data", "x.h5", "CLI --data")


class TestPreferences:
    """The user's settings file."""

    @pytest.mark.parametrize(
        ("text", "flat"),
        [
            ("", {}),
            ("other = 3\n", {}),
            ("\ufeff[prefer]\ngate.swish = 'acme'\n", {"gate.swish": "acme"}),
            ('[prefer]\ngate.swish = "acme"\nffn.wide = "b"\n', {"gate.swish": "acme", "ffn.wide": "b"}),
            ('[prefer.gate]\nswish = "acme"\n', {"gate.swish": "acme"}),
        ],
    )
    def test_preferences_are_flat_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, flat: dict
    ) -> None:
        """`[prefer]` in either spelling, or nothing at all."""
        (tmp_path / "config.toml").write_text(text)
        monkeypatch.setenv("CORE_CONFIG", str(tmp_path / "config.toml"))
        assert user_preferences() == flat

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"[prefer\n", "Expected ']'"),
            (b"\xff", "utf-8"),
            (b"prefer = 3\n", "[prefer] is a table"),
            (b"[prefer]\ngaet.swish = 'acme'\n", "Did you mean 'gate'?"),
            (b"[prefer]\ngate = 'acme'\n", "Write gate.NAME"),
            (b"[prefer]\ngate.swish = 3\n", "gate.swish must name a distribution, not 3"),
            (None, "Is a directory"),
        ],
    )
    def test_a_wrong_file_is_the_users_mistake(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, says: str
    ) -> None:
        """Each mistake names the file."""
        path = tmp_path / "config.toml"
        path.mkdir() if content is None else path.write_bytes(content)
        monkeypatch.setenv("CORE_CONFIG", str(path))
        with pytest.raises(UserError) as caught:
            user_preferences()
        assert str(caught.value).startswith(str(path))
        assert says in str(caught.value)

    def test_where_the_file_is(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without `CORE_CONFIG` it lies in the configuration folder, and need not exist."""
        monkeypatch.delenv("CORE_CONFIG")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        assert user_preferences() == {}
        (tmp_path / "cellcore").mkdir()
        (tmp_path / "cellcore" / "config.toml").write_text("[prefer]\ngate.swish = 'acme'\n")
        assert user_preferences() == {"gate.swish": "acme"}


@pytest.mark.parametrize("name", ["Acme_Gates", "acme.gates", "acme--gates", "ACME-gates"])
def test_distributions_are_compared_as_installers_do(name: str) -> None:
    """Case and separators do not tell distributions apart (PEP 503)."""
    assert canonical(name) == "acme-gates"


def test_our_plugins_are_not_shadowed() -> None:
    """In a sound environment nothing hides the built-in plugins."""
    assert shadowed() is None
