"""Where choices come from: files with their lines, `CORE_*` variables, the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from core.choices import flatten
from core.errors import UserError
from core.layers import cli_layer, env_layer, file_layer, is_flag
from core.names import Bare, Text
from tests.fakes import TEXTS

law = settings(deadline=None, max_examples=80)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(lambda key: "__" not in key and key[-1] != "_")
PATHS = st.lists(KEYS, min_size=1, max_size=3).map(".".join).filter(lambda path: not path.endswith("name"))
VALUES = TEXTS | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.floats(allow_nan=False) | st.lists(st.integers())


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


class TestFiles:
    """TOML files."""

    @law
    @given(table=st.recursive(VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6))
    def test_a_file_says_what_a_toml_reader_reads(
        self, table: object, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """The entries of a file are its flattened values, each with the file's name as origin."""
        doc = table if isinstance(table, dict) else {"only": table}
        path = tmp_path_factory.mktemp("files") / "epi.toml"
        layer = file_layer(written(path, tomlkit.dumps(doc)))
        assert {key: value for key, (value, _) in layer.entries.items()} == flatten(doc)
        assert all(re.fullmatch(r"epi\.toml(:\d+)?", origin) for _, origin in layer.entries.values())

    @law
    @given(paths=st.lists(PATHS, min_size=1, max_size=6, unique=True), gaps=st.lists(st.integers(0, 3), min_size=6))
    def test_each_value_knows_its_line(
        self, paths: list[str], gaps: list[int], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Whether written dotted or below a table, with or without a comment, the origin is the line of the key."""
        tables: dict[str, list[str]] = {}
        for path in paths:
            if not any(
                other != path and (other.startswith(f"{path}.") or path.startswith(f"{other}.")) for other in paths
            ):
                home, _, key = path.rpartition(".")
                tables.setdefault(home, []).append(key)
        lines, expected = [], {}
        for home, keys in sorted(tables.items()):
            lines += [f"[ {home} ]  # a table"] if home else []
            for key, gap in zip(keys, gaps, strict=False):
                lines += [f"# {key} = 1"] * gap + [f"  {key} = {len(lines)}  # {key} = 2"]
                expected[f"{home}.{key}" if home else key] = len(lines)
        path = tmp_path_factory.mktemp("files") / "a.toml"
        layer = file_layer(written(path, "\n".join(lines)))
        assert {key: origin for key, (_, origin) in layer.entries.items()} == {
            key: f"a.toml:{line}" for key, line in expected.items()
        }

    @pytest.mark.parametrize(
        ("text", "key", "line"),
        [
            ("train.steps = 3", "train.steps", 1),
            ("\n[train]\nsteps = 3", "train.steps", 3),
            ("ffn = { name = 'moe', top_k = 2 }", "ffn.top_k", 1),
            ("\nffn = { name = 'moe' }", "ffn", 2),
            ("[ffn]\n\nname = 'moe'", "ffn", 3),
            ("[attention.gate]\nbias = 1.0", "attention.gate.bias", 2),
            ("[attention]\ngate.bias = 1.0", "attention.gate.bias", 2),
            ("'attention.gate' = 'x'", "attention.gate", None),
            ('"width" = 3', "width", 1),
            ("betas = [\n  0.9,\n  0.99,\n]\nlr = 1.0", "lr", 5),
            ("a = 1\r\n[b]\r\nc = 2\r\n", "b.c", 3),
        ],
    )
    def test_spellings_of_a_place(self, tmp_path: Path, text: str, key: str, line: int | None) -> None:
        """Dotted keys, tables, inline tables, quotes and Windows line ends."""
        (tmp_path / "f.toml").write_bytes(text.encode())
        origin = file_layer(str(tmp_path / "f.toml")).entries[key][1]
        assert origin == (f"f.toml:{line}" if line else "f.toml")

    def test_a_byte_order_mark_is_no_content(self, tmp_path: Path) -> None:
        """Editors on Windows begin a file with one."""
        (tmp_path / "f.toml").write_bytes("\ufeffwidth = 3\n".encode())
        assert file_layer(str(tmp_path / "f.toml")).entries == {"width": (3, "f.toml:1")}

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("gone.toml", None, "no file {path}."),
            ("epj.toml", None, "Did you mean epi.toml?"),
            ("gone/epi.toml", None, "no file {path}."),
            ("bad.toml", b"[train\n", "{path} is not TOML: Expected ']' at the end of a table declaration (at line 1"),
            ("bad.toml", b"a = 1\na = 2\n", "{path} is not TOML: Cannot overwrite a value (at line 2"),
            ("bad.toml", b"a = \xff", "{path} cannot be read: 'utf-8' codec"),
            ("bad.toml", b"a = 1" + b"0" * 5000, "{path} is not TOML: "),
            ("bad.toml", b"a = " + b"[" * 5000, "{path} is not TOML: "),
            ("folder.toml", "folder", "{path} cannot be read: [Errno 21] Is a directory"),
        ],
    )
    def test_files_that_cannot_be_used(self, tmp_path: Path, name: str, content: bytes | str | None, says: str) -> None:
        """A missing, damaged or unreadable file is the user's mistake, told with its path."""
        (tmp_path / "epi.toml").touch()
        path = tmp_path / name
        if content == "folder":
            path.mkdir()
        elif isinstance(content, bytes):
            path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            file_layer(str(path))
        assert says.format(path=path) in str(caught.value)

    def test_a_missing_file_names_its_neighbours(self, tmp_path: Path) -> None:
        """Up to eight configuration files of the folder are named."""
        for i in range(12):
            (tmp_path / f"study{i:02d}.toml").touch()
        with pytest.raises(UserError) as caught:
            file_layer(str(tmp_path / "q.toml"))
        assert str(caught.value).endswith("study06.toml, study07.toml, ...")


class TestEnvironment:
    """`CORE_*` variables."""

    @law
    @given(path=PATHS, value=TEXTS.filter(lambda text: "\0" not in text))
    def test_two_underscores_are_a_dot(self, path: str, value: str) -> None:
        """Every dotted path can be spelled, its value is typed text, and the origin names the variable."""
        name = "CORE_" + path.upper().replace(".", "__")
        layer = env_layer({name: value, "PATH": "/bin", "HARDCORE_X": "1"})
        assert layer.entries == {path: (value, f"environment {name}")}
        assert isinstance(layer.entries[path][0], Text)

    def test_variables_of_the_command_itself_are_no_parameters(self) -> None:
        """Where settings, data and results lie is not part of a run."""
        assert env_layer({"CORE_CONFIG": "x", "CORE_REALDATA": "y", "CORE_STORE": "z"}).entries == {}

    def test_what_is_no_text_is_refused(self) -> None:
        """A variable with bytes that are no UTF-8 is named."""
        with pytest.raises(UserError, match=r"CORE_A: .* is no UTF-8 text"):
            env_layer({"CORE_A": os.fsdecode(b"\xff")})


class TestCommandLine:
    """`--key value`, `--key=value` and the bare `--key`."""

    @law
    @given(
        said=st.dictionaries(PATHS, TEXTS.filter(lambda text: not is_flag(text)), max_size=4),
        equals=st.booleans(),
        dashes=st.booleans(),
    )
    def test_what_is_said_is_read(self, said: dict[str, str], equals: bool, dashes: bool) -> None:
        """Both spellings, and dashes for underscores, give the same entries: typed text, with the flag as origin."""
        words = []
        for key, value in said.items():
            flag = "--" + (key.replace("_", "-") if dashes else key)
            words += [f"{flag}={value}"] if equals else [flag, value]
        layer = cli_layer(words)
        assert {key: str(value) for key, (value, _) in layer.entries.items()} == said
        assert all(isinstance(value, Text) and not isinstance(value, Bare) for value, _ in layer.entries.values())
        assert {origin.replace("-", "_") for _, origin in layer.entries.values()} == {f"CLI __{key}" for key in said}

    @law
    @given(value=st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: f"-{text}"))
    def test_after_an_equals_sign_anything_is_a_value(self, value: str) -> None:
        """A value that looks like a flag is given with `=`."""
        assert cli_layer([f"--data.section={value}"]).entries["data.section"][0] == value

    @pytest.mark.parametrize(
        ("word", "flag"),
        [
            ("-1", False),
            ("-.5", False),
            ("-1e-3", False),
            ("-", False),
            ("-x", True),
            ("--x", True),
            ("-inf", True),
            ("x", False),
        ],
    )
    def test_a_negative_number_is_no_flag(self, word: str, flag: bool) -> None:
        """`--bias -1` has a value."""
        assert is_flag(word) == flag
        assert isinstance(cli_layer(["--bias", "--seed"]).entries["bias"][0], Bare)
        if not flag:
            assert cli_layer(["--bias", word]).entries == {"bias": (word, "CLI --bias")}

    def test_a_flag_without_a_value_says_true(self) -> None:
        """At the end, or before another flag."""
        entries = cli_layer(["--rotate", "--seed", "3", "--open"]).entries
        assert entries == {
            "rotate": ("true", "CLI --rotate"),
            "seed": ("3", "CLI --seed"),
            "open": ("true", "CLI --open"),
        }
        assert [isinstance(value, Bare) for value, _ in entries.values()] == [True, False, True]

    def test_the_name_of_a_piece_is_the_piece(self) -> None:
        """`--ffn.name moe` says what `--ffn moe` says."""
        assert [*cli_layer(["--ffn.name", "moe"]).entries] == ["ffn"]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["x"], "'x' belongs to no flag"),
            (["--"], "'--' belongs to no flag"),
            (["--=3"], "'--=3' belongs to no flag"),
            (["-x", "3"], "'-x' belongs to no flag"),
            (["--seed", "1", "2"], "'2' belongs to no flag"),
            (["--seed", "1", "--seed", "2"], "--seed is given twice, as '1' and as '2'; keep one"),
            (["--seed=1", "--seed=2"], "--seed is given twice, as '1' and as '2'; keep one"),
            (["--rotate", "--rotate=false"], "--rotate is given twice, as 'true' and as 'false'; keep one"),
            (["--ffn", "moe", "--ffn.name", "dense"], "--ffn.name is given twice, as 'moe' and as 'dense'; keep one"),
            (["--top-k", "1", "--top_k", "2"], "--top_k is given twice, as '1' and as '2'; keep one"),
            (["--data.section", os.fsdecode(b"\xff")], "--data.section: '\\udcff' is no UTF-8 text"),
        ],
    )
    def test_words_that_contradict_or_belong_nowhere(self, words: list[str], says: str) -> None:
        """Stray words, flags that contradict each other, and bytes that are no text."""
        with pytest.raises(UserError) as caught:
            cli_layer(words)
        assert says in str(caught.value)

    def test_the_same_twice_is_no_contradiction(self) -> None:
        """A script may append what was there already."""
        assert cli_layer(["--seed", "1", "--seed=1"]).entries == {"seed": ("1", "CLI --seed")}
