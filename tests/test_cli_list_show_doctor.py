"""`core list`, `core show`, `core doctor`: what is installed, what a piece is, and what is broken."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from core.cli import VERBS
from core.params import fields
from core.registry import KINDS, installed
from tests.fakes import ROW, command, package, python, swish

ROOT = Path(__file__).resolve().parent.parent
BROKEN = {
    "acme-api": ({"manifest": "api = 2\n"}, "acme-api 1.0: its manifest says api = 2; this core speaks 1"),
    "acme-kind": ({"manifest": "api = 1\n[gaet.x]\n"}, "acme-kind 1.0: [gaet] is no kind. Did you mean 'gate'?"),
    "acme-row": ({"manifest": "api = 1\n[gate.x]\ntarget = 3\n"}, "acme-row 1.0: [gate.x] target must be str"),
    "acme-toml": ({"manifest": "api = 1\n[gate\n"}, "acme-toml 1.0: acme_toml:registry.toml: Expected ']'"),
    "acme-file": ({"manifest": None}, "acme-file 1.0: acme_file:registry.toml: registry.toml is missing"),
    "acme-point": ({"manifest": "api = 1\n", "point": "gone:x.toml"}, "acme-point 1.0: gone:x.toml: package 'gone'"),
}


@pytest.fixture
def broken(site: Path) -> Path:
    """A folder of packages with one broken manifest each."""
    for name, (keys, _) in BROKEN.items():
        package(site, name, **keys)
    return site


class TestList:
    """`core list`."""

    def test_every_built_in_stands_in_it_with_its_summary(self, core: Callable) -> None:
        """A line a row, below its kind; kinds without rows are named at the end."""
        said = core("list")
        assert (said.code, said.err) == (0, "")
        for kind in installed().kinds():
            assert f"{kind}: {KINDS[kind]}\n" in said.out
            for row in installed().rows(kind):
                assert re.search(rf"^  {re.escape(row.spoken)} +{re.escape(row.summary)}$", said.out, re.MULTILINE)
        empty = [kind for kind in KINDS if kind not in installed().kinds()]
        assert said.out.endswith(f"kinds without a piece yet: {', '.join(empty)}\n")

    def test_again_and_again(self, core: Callable) -> None:
        """The command can be called any number of times in one process."""
        assert core("list", "gate") == core("list", "gate")
        assert core("--help") == core("help") == core("-h")

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_kind(self, core: Callable, kind: str) -> None:
        """Only that kind, also where it is empty."""
        said = core("list", kind)
        assert said.code == 0
        assert said.out.startswith(f"{kind}: ")
        assert said.out.count(": ") >= 1
        assert ("none installed" in said.out) == (kind not in installed().kinds())

    def test_as_json(self, core: Callable) -> None:
        """Names, versions and sources for programs."""
        facts = json.loads(core("list", "ffn", "--json").out)
        assert [*facts] == ["ffn"]
        assert {one["name"]: one["spoken"] for one in facts["ffn"]}["moe"] == "moe{experts:int}x{top_k:int}"
        assert {one["version"] for one in facts["ffn"]} == {version("cellcore")}
        assert [*json.loads(core("list", "--json").out)] == installed().kinds()

    def test_broken_packages_are_marked_and_hide_nothing(self, core: Callable, broken: Path) -> None:
        """Each broken manifest is one line on the other stream; the status stays 0."""
        swish(broken, "acme-good", version="2.5")
        said = core("list", "gate")
        assert said.code == 0
        assert sorted(said.err.splitlines()) == sorted(
            line for line in said.err.splitlines() if line.startswith("broken: acme-")
        )
        for _, reason in BROKEN.values():
            assert f"broken: {reason}" in said.err
        assert "[acme-good 2.5]" in said.out
        assert "  headwise" in said.out

    def test_clashes_are_shown(
        self, core: Callable, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name that two claim is listed as such; with `[prefer]` the preferred one answers."""
        swish(site, "acme-gates")
        swish(site, "other")
        listed = core("list").out
        assert "clash: gate swish: acme-gates/swish, other/swish; say which by its full name" in listed
        assert "  acme-gates/swish  " in listed
        assert "  other/swish  " in listed
        (tmp_path / "config.toml").write_text('[prefer]\ngate.swish = "other"\n')
        monkeypatch.setenv("CORE_CONFIG", str(tmp_path / "config.toml"))
        installed.cache_clear()
        said = core("list", "gate")
        assert "clash: gate swish: acme-gates/swish, other/swish; other/swish answers" in said.out
        assert "[other 1.0]" in said.out

    def test_deprecated_names_are_left_out(self, core: Callable, site: Path) -> None:
        """New names only."""
        package(site, "acme", 'api = 1\n[gate.per_head]\ndeprecated = "headwise"\n')
        assert "per_head" not in core("list", "gate").out


class TestShow:
    """`core show`."""

    @pytest.mark.parametrize("kind", installed().kinds())
    def test_every_built_in_can_be_shown(self, core: Callable, kind: str) -> None:
        """Summary, distribution and every parameter with its help."""
        for row in installed().rows(kind):
            said = core("show", kind, row.name)
            assert (said.code, said.err) == (0, "")
            assert said.out.startswith(f"{kind} {row.spoken}: {row.summary}\n")
            assert f"brought by: {row.origin}" in said.out
            for field in fields(row.load()) if kind != "recipe" else ():
                if field.role != "group":
                    assert re.search(rf"^  {field.name} .*{re.escape(field.help)}", said.out, re.MULTILINE)

    def test_what_a_name_carries_stands_as_default(self, core: Callable) -> None:
        """Presets and pattern values are shown where the parameters are."""
        assert re.search(r"^  experts +int >= 1 +8 ", core("show", "ffn", "moe8x3").out, re.MULTILINE)
        assert re.search(
            r"^  gate +gate by name +headwise ", core("show", "attention", "gated_headwise").out, re.MULTILINE
        )

    def test_old_names_show_the_new_piece(self, core: Callable, site: Path) -> None:
        """A deprecated name works and says so."""
        package(site, "acme", 'api = 1\n[gate.per_head]\ndeprecated = "headwise"\n')
        said = core("show", "gate", "per_head")
        assert said.code == 0
        assert said.out.startswith("gate headwise: ")
        assert said.err == "core: gate 'per_head' is deprecated; use 'headwise'\n"

    def test_slots_without_a_default_can_be_shown(self, core: Callable, site: Path) -> None:
        """An empty slot, a list without a default and a required parameter have a word in the column of defaults."""
        text = (
            "import attrs\nfrom core.kinds import Gate, Mask, Metric\nfrom core.params import knob, params, slot\n\n"
            "@params\nclass Swish(Gate):\n    'All sorts.'\n    path: str = knob(attrs.NOTHING, 'a file')\n"
            "    mask: Mask | None = slot(None, 'hides')\n    other: Mask = slot(None, 'hides too')\n"
            "    metrics: tuple[Metric, ...] = slot(None, 'judges')\n    rate: float | None = knob(None, 'a rate')\n"
            "    def build(self, width, heads, head_width): ...\n"
        )
        package(site, "acme", "api = 1\n" + ROW.format(module="acme"), modules={"gates": text})
        said = core("show", "gate", "swish")
        assert said.code == 0
        words = {line.split()[0]: line for line in said.out.partition("parameters\n")[2].splitlines()}
        assert "required" in words["path"]
        assert "none" in words["mask"]
        assert "by kind" in words["other"]
        assert "0 names" in words["metrics"]
        assert "none" in words["rate"]


class TestDoctor:
    """`core doctor`."""

    def test_a_sound_installation(self, core: Callable) -> None:
        """Versions, device, the number of pieces, and nothing wrong."""
        said = core("doctor")
        assert (said.code, said.err) == (0, "")
        assert said.out.endswith("all is well\n")
        assert f"torch        {version('torch')}" in said.out
        assert re.search(r"^device       (cpu, \d+ threads|NVIDIA|.+)", said.out, re.MULTILINE)
        assert re.search(r"^pieces       \d+ in \d+ kinds$", said.out, re.MULTILINE)

    def test_everything_that_is_broken_is_told(
        self, core: Callable, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Manifests, targets, needs, clashes, hooks and stale preferences, a line each; exit status 1."""
        package(broken, "acme-load", "api = 1\n" + ROW.format(module="acme_load"), modules={"gates": "1 / 0"})
        needy = (
            'api = 1\n[gate.needy]\ntarget = "acme_needs.gates:Swish"\nsummary = "x"\nneeds = ["no-such-thing>=3"]\n'
        )
        package(broken, "acme-needs", needy + '[hooks]\nmodule = "acme_needs.gone"\n')
        for name in ("zeta", "eta"):
            package(broken, name, "api = 1\n" + ROW.format(module=name).replace("swish", "two"))
        (tmp_path / "config.toml").write_text('[prefer]\ngate.two = "theta"\n')
        monkeypatch.setenv("CORE_CONFIG", str(tmp_path / "config.toml"))
        installed.cache_clear()
        said = core("doctor")
        assert said.code == 1
        problems = [line for line in said.out.splitlines() if line.startswith("problem ")]
        expected = [reason for _, reason in BROKEN.values()] + [
            "gate 'swish' (from acme-load 1.0) cannot be loaded: acme_load.gates:Swish raised ZeroDivisionError",
            "gate 'needy' (from acme-needs 1.0) needs no-such-thing>=3. Install with: pip install 'no-such-thing>=3'",
            "gate 'two' is claimed by eta/two, zeta/two: settle it with [prefer]",
            "hooks of acme-needs 1.0 are left out: acme_needs.gone: ModuleNotFoundError",
            "[prefer] gate.two: no gate is called 'theta/two'. Did you mean 'eta/two'?",
        ]
        for reason in expected:
            assert sum(reason in line for line in problems) == 1, reason
        assert len(problems) == len(expected)
        assert said.out.endswith(f"{len(expected)} problems\n")

    def test_other_distributions_are_named(self, core: Callable, site: Path) -> None:
        """Who else brings pieces, and which clash is settled."""
        swish(site, "acme")
        package(site, "other", "api = 1\n" + ROW.format(module="other").replace("swish", "headwise"))
        said = core("doctor")
        assert said.code == 0
        assert ", also from acme\n" in said.out
        assert "clash        gate headwise: cellcore/headwise answers of cellcore/headwise, other/headwise" in said.out


class TestShadows:
    """Another folder called `plugins`."""

    @pytest.fixture(params=["package", "module"])
    def decoy(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        """A folder that holds a `plugins` of its own, and the path of that."""
        folder = tmp_path / "decoy"
        path = folder / "plugins" if request.param == "package" else folder / "plugins.py"
        (path if request.param == "package" else folder).mkdir(parents=True)
        (path / "__init__.py" if request.param == "package" else path).write_text("raise RuntimeError('imported')\n")
        return path

    def test_started_from_there_both_paths_are_named(self, decoy: Path) -> None:
        """`python -m core` looks into the current folder first: an error that names both and the ways out."""
        for words in (["list"], ["show", "ffn", "dense"]):
            said = python("-m", "core", *words, cwd=decoy.parent)
            assert (said.returncode, said.stdout) == (2, "")
            assert said.stderr.startswith(f"core: {decoy} hides cellcore's own plugins in {ROOT / 'plugins'}.")
            assert "python -P -m core" in said.stderr
        assert python("-m", "core", "--help", cwd=decoy.parent).returncode == 0

    def test_the_command_is_not_affected(self, decoy: Path) -> None:
        """`python -P -m core` and the console script do not look into the current folder."""
        assert command("list", cwd=decoy.parent).returncode == 0
        script = Path(sys.executable).with_name("core")
        if script.exists():  # there is none where the checkout is on the path and not installed
            kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            said = subprocess.run([script, "list"], cwd=decoy.parent, env=kept, capture_output=True, text=True)
            assert (said.returncode, said.stderr) == (0, "")

    def test_the_doctor_explains(self, tmp_path: Path) -> None:
        """`core doctor` runs and names the shadow among the problems."""
        (tmp_path / "plugins.py").touch()
        said = python("-m", "core", "doctor", cwd=tmp_path)
        assert said.returncode == 1
        assert (
            f"problem      {tmp_path / 'plugins.py'} hides cellcore's own plugins in {ROOT / 'plugins'}" in said.stdout
        )
        assert "Traceback" not in said.stderr

    def test_a_folder_that_is_no_package_hides_nothing(self, tmp_path: Path) -> None:
        """A folder without `__init__.py` (somebody's collection of plugins) is no obstacle."""
        (tmp_path / "plugins").mkdir()
        assert python("-m", "core", "list", cwd=tmp_path).returncode == 0
        said = python("-c", "import plugins.executors.local as ours; print(ours.__file__)", cwd=tmp_path)
        assert Path(said.stdout.strip()) == ROOT / "plugins" / "executors" / "local.py"


class TestHelp:
    """`core --help` and the help of verbs."""

    def test_the_command_without_words_is_its_help(self, core: Callable) -> None:
        """Every verb with one line."""
        said = core()
        assert said == core("--help")
        for verb, text in VERBS.items():
            assert f"  {verb:8}  {text}\n" in said.out

    @pytest.mark.parametrize("verb", VERBS)
    def test_every_verb_has_help(self, core: Callable, verb: str) -> None:
        """`--help`, `-h`, also behind other words, and `core help VERB` say the same and do nothing else."""
        said = core(verb, "--help")
        assert (said.code, said.err) == (0, "")
        assert said.out.startswith(f"usage: core {verb}")
        assert said == core(verb, "-h") == core("help", verb)

    def test_the_help_of_run_lists_what_is_installed(self, core: Callable) -> None:
        """Names of pieces and the parameters of training stand in it."""
        said = core("run", "--help").out
        for row in (*installed().rows("attention"), *installed().rows("ffn")):
            assert row.spoken in said
        assert "--train.precision fp32|bf16" in said

    def test_the_version(self, core: Callable) -> None:
        """Name and number."""
        assert core("--version").out == core("-V").out == f"cellcore {version('cellcore')}\n"


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "--json"], ["list", "gate"]])
def test_a_reader_that_has_seen_enough_is_no_failure(words: list[str], tmp_path: Path) -> None:
    """`core list | head`: a closed pipe is no error, and nothing is printed about it."""
    read, write = os.pipe()
    os.close(read)
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
    try:
        said = subprocess.run(
            [sys.executable, "-P", "-m", "core", *words],
            cwd=tmp_path,
            env=kept,
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(write)
    assert (said.returncode, said.stderr) == (0, "")
