"""The extractor `scgpt`: its files, its bins, its encoder, its cache."""

from __future__ import annotations

import itertools
import json
import os
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import scgpt
from core.errors import UserError
from core.testing.draws import law, seeds
from core.testing.extractor import ExtractorLaws
from core.train.streams import Streams
from plugins.extractors._scgpt_files import read_settings, read_weights
from plugins.extractors._scgpt_raw import Tokenised, grouped
from plugins.extractors._scgpt_tokens import binned, chosen
from plugins.extractors.scgpt import Scgpt
from plugins.extractors.scgpt_random import ScgptRandom
from plugins.extractors.shuffled import Shuffled

LAYOUTS: tuple[scgpt.Layout, ...] = ("torch", "flash", "impl")
counts = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.integers(0, 5))


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scgpt.folder(tmp_path_factory.mktemp("scgpt"), "flash")


@pytest.fixture(scope="module", params=["itself", "shuffled"])
def extractor(where: Path, request: pytest.FixtureRequest) -> Scgpt | Shuffled:
    made = Scgpt(dir=str(where))
    return Shuffled(of=made) if request.param == "shuffled" else made


class TestScgpt(ExtractorLaws):
    """The laws of extractors."""


@pytest.mark.parametrize("extractor", [ScgptRandom(embed=6, layers=1, heads=3, ties="middle")], ids=repr)
class TestScgptRandom(ExtractorLaws):
    """The laws of extractors."""


def values(seed: int, items: int = 6, columns: int = 24) -> np.ndarray:
    """log1p of counts, many of them equal."""
    return np.log1p(np.random.default_rng(seed).poisson(0.8, (items, columns))).astype(np.float32)


def latents(made: Scgpt, values_NG: np.ndarray, names: tuple[str, ...] = scgpt.NAMES[:24]) -> torch.Tensor:
    return made.fit(values_NG, names, Streams(0))(torch.from_numpy(values_NG)).z_NKD


# Bins


@law
@given(values_NG=counts, bins=st.integers(3, 60), ties=st.sampled_from(["left", "middle"]))
def test_bins(values_NG: np.ndarray, bins: int, ties: str) -> None:
    """0 for zeros, else 1 to bins - 1; growing with the value, equal for equal values, the same at any scale."""
    found = binned(torch.from_numpy(values_NG), bins, ties).numpy()
    assert ((found == 0) == (values_NG == 0)).all()
    assert (found[values_NG > 0] >= 1).all()
    assert (found < bins).all()
    for value_G, bin_G in zip(values_NG, found, strict=True):
        order = np.argsort(value_G, kind="stable")
        assert (np.diff(bin_G[order]) >= 0).all()
        assert all(len({*bin_G[value_G == value]}) == 1 for value in {*value_G})
    for scaled in (values_NG * np.float32(0.3), np.log1p(values_NG)):
        np.testing.assert_array_equal(binned(torch.from_numpy(scaled), bins, ties).numpy(), found)


@law
@given(values_NG=counts, bins=st.integers(3, 60))
def test_bins_are_those_of_quantiles(values_NG: np.ndarray, bins: int) -> None:
    """The edges are quantiles of the positive values, in exact arithmetic; ties lie between two counts."""
    left, middle = (binned(torch.from_numpy(values_NG), bins, ties) for ties in ("left", "middle"))
    for item, value_G in enumerate(values_NG):
        held = sorted(Fraction(float(v)) for v in value_G if v > 0)
        if not held:
            continue
        edges = []
        for j in range(bins - 1):
            at = Fraction((len(held) - 1) * j, bins - 2)
            low = int(at)
            high = min(low + 1, len(held) - 1)
            edges.append(held[low] + (held[high] - held[low]) * (at - low))
        for column, value in enumerate(value_G):
            if value > 0:
                below, up_to = sum(e < value for e in edges), sum(e <= value for e in edges)
                assert left[item, column] == up_to
                # Published training draws ceil(u (below - up_to) + up_to), u in [0, 1): below + 1 ... up_to.
                assert middle[item, column] == (below + 1 + up_to) // 2


@law
@given(values_NG=counts, most=st.integers(1, 45))
def test_chosen(values_NG: np.ndarray, most: int) -> None:
    """The largest positive entries, ties in the order of columns."""
    found = chosen(torch.from_numpy(values_NG), most).numpy()
    for value_G, chosen_G in zip(values_NG, found, strict=True):
        order = sorted(np.flatnonzero(value_G > 0), key=lambda i: (-value_G[i], i))
        assert sorted(order[:most]) == np.flatnonzero(chosen_G).tolist()


def test_bins_come_from_all_expressed_genes(tmp_path: Path) -> None:
    """Beyond `max_seq_len - 1` genes the most expressed are read, in bins of all; the rest is not covered."""
    short = Scgpt(dir=str(scgpt.folder(tmp_path / "short", max_seq_len=6)))
    values_NG = 1.0 + np.random.default_rng(0).random((3, 24)).astype(np.float32)
    found = short.fit(values_NG, scgpt.NAMES[:24], Streams(0))(torch.from_numpy(values_NG))
    largest = np.argsort(-values_NG, axis=1)[:, :5]
    wanted = np.zeros(values_NG.shape, bool)
    np.put_along_axis(wanted, largest, True, 1)
    np.testing.assert_array_equal(found.covered_NK.numpy(), wanted)
    raw = short._raw(scgpt.NAMES[:24])
    seen: list[torch.Tensor] = []
    raw._encoder.value_encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    raw(torch.from_numpy(values_NG), torch.arange(24))
    everything = binned(torch.from_numpy(values_NG), 11)
    for item, bins_1L in enumerate(seen):
        assert bins_1L[0].tolist() == [-2.0, *everything[item][wanted[item]].tolist()]


# The encoder


def reference(state: dict[str, torch.Tensor], rows: list[int], bins: list[float]) -> torch.Tensor:
    """Tokens (L, D) by torch's own transformer, float64."""
    wide = {key: tensor.double() for key, tensor in state.items()}

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (8,), wide[f"{key}.weight"], wide[f"{key}.bias"])

    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, dtype=torch.float64)
    stack = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    inside = "transformer_encoder."
    stack.load_state_dict({k.removeprefix(inside): v for k, v in wide.items() if k.startswith(inside)})
    names = norm(wide["encoder.embedding.weight"][rows], "encoder.enc_norm")
    x = torch.tensor(bins, dtype=torch.float64).clamp(max=512)[:, None]
    x = torch.relu(x @ wide["value_encoder.linear1.weight"].T + wide["value_encoder.linear1.bias"])
    x = norm(x @ wide["value_encoder.linear2.weight"].T + wide["value_encoder.linear2.bias"], "value_encoder.norm")
    return stack.train()((names + x)[None])[0].detach()


def test_encoder_is_torch_s_transformer(where: Path) -> None:
    """Embedded names and bins through torch's layers, in float64, give the raw latents of each item."""
    values_NG = values(1)
    names = scgpt.NAMES[:24]
    raw = Scgpt(dir=str(where))._raw(names)
    found = raw(torch.from_numpy(values_NG), torch.arange(24))
    bins_NG = binned(torch.from_numpy(values_NG), 11)
    rows = scgpt.vocabulary()
    for item in range(len(values_NG)):
        there = np.flatnonzero(values_NG[item])
        wanted = reference(
            scgpt.weights("torch"),
            [rows["<cls>"], *(rows[names[i]] for i in there)],
            [-2.0, *bins_NG[item, there].tolist()],
        )
        torch.testing.assert_close(found.z_NKD[item, there].double(), wanted[1:], rtol=1e-5, atol=1e-5)


@law
@given(seed=seeds)
def test_many_at_once_are_one_by_one(where: Path, seed: int) -> None:
    """Items padded into one pass, as on an accelerator, get what each gets alone."""
    raw = Scgpt(dir=str(where))._raw(scgpt.NAMES[:24])
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for length in torch.randint(0, 20, (5,), generator=generator).tolist():
        parts.append(
            (torch.randint(2, 26, (length,), generator=generator), torch.randint(1, 11, (length,), generator=generator))
        )
    for together, part in zip(raw.encode(parts), parts, strict=True):
        torch.testing.assert_close(together, raw.encode([part])[0], rtol=1e-5, atol=1e-5)


@law
@given(lengths=st.lists(st.integers(1, 30), max_size=12), most=st.integers(1, 90))
def test_groups(lengths: list[int], most: int) -> None:
    """Every item once; a group of several holds no more tokens than allowed, and none could take the next item."""
    groups = grouped(lengths, most)
    assert sorted(i for group in groups for i in group) == [*range(len(lengths))]
    padded = [len(group) * max(lengths[i] for i in group) for group in groups]
    assert all(len(group) == 1 or tokens <= most for group, tokens in zip(groups, padded, strict=True))
    for one, other in itertools.pairwise(groups):
        assert (len(one) + 1) * lengths[other[0]] > most


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_key_layouts(tmp_path: Path, where: Path, layout: scgpt.Layout, safe: bool) -> None:
    """Flash, wrapped flash and torch names, pickled or not, give the same bits."""
    found = latents(Scgpt(dir=str(scgpt.folder(tmp_path, layout, safe=safe))), values(2))
    assert torch.equal(found, latents(Scgpt(dir=str(where)), values(2)))


def test_nothing_of_it_trains(where: Path) -> None:
    """No parameter of the encoder asks for a gradient, and dropout is not there."""
    raw = Scgpt(dir=str(where))._raw(scgpt.NAMES)
    assert isinstance(raw, Tokenised)
    assert not any(p.requires_grad for p in raw._encoder.parameters())
    assert not raw._encoder.training


# Files


def _without(key: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        state = scgpt.weights()
        del state[key]
        torch.save(state, path / "best_model.pt")

    return change


def _with(key: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    return lambda path: torch.save(scgpt.weights() | {key: tensor}, path / "best_model.pt")


def _said(name: str, **fields: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        table = json.loads((path / name).read_text()) | fields
        (path / name).write_text(json.dumps({k: v for k, v in table.items() if v is not None}))

    return change


QKV = "transformer_encoder.layers.1.self_attn.in_proj_weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing key": (_without(QKV), f"lacks {QKV}"),
    "extra key": (_with("encoder.more.weight", torch.ones(2)), "has besides encoder.more.weight"),
    "shape": (_with(QKV, torch.ones(8, 24)), rf"another shape {QKV} \(8, 24\) for \(24, 8\)"),
    "twice": (_with(QKV.replace("in_proj_", "Wqkv."), torch.ones(24, 8)), f"holds {QKV} twice"),
    "not finite": (_with("encoder.enc_norm.bias", torch.full((8,), torch.nan)), "enc_norm.bias hold NaN"),
    "batch norm": (_with("bn.weight", torch.ones(8)), "trained with bn.weight, which this encoder does not have"),
    "few rows": (_with("encoder.embedding.weight", torch.ones(5, 8)), r"embedding.weight \(5, 8\) for \(31, 8\)"),
    "no table": (lambda p: torch.save([torch.ones(2)], p / "best_model.pt"), "flat table of named tensors"),
    "garbage": (lambda p: (p / "best_model.pt").write_bytes(b"PK\x03\x04 no"), "no file of tensors"),
    "empty": (lambda p: (p / "best_model.pt").write_bytes(b""), "no file of tensors"),
    "no weights": (lambda p: (p / "best_model.pt").unlink(), "has none of best_model.pt"),
    "no args": (lambda p: (p / "args.json").unlink(), "has no args.json"),
    "no vocab": (lambda p: (p / "vocab.json").unlink(), "has no vocab.json"),
    "broken args": (lambda p: (p / "args.json").write_text("{"), "cannot be read as JSON"),
    "list of args": (lambda p: (p / "args.json").write_text("[]"), "must hold a JSON object"),
    "no width": (_said("args.json", embsize=None), "has no 'embsize'"),
    "width": (_said("args.json", embsize="8"), "embsize must be a whole number >= 1, got '8'"),
    "heads": (_said("args.json", nheads=3), "no multiple of nheads 3"),
    "layers": (_said("args.json", nlayers=3), "lacks transformer_encoder.layers.2"),
    "style": (_said("args.json", input_emb_style="scaling"), "input_emb_style is 'scaling'"),
    "pre-norm": (_said("args.json", pre_norm=True), "pre_norm is True, and only False can be read"),
    "no token": (_said("vocab.json", **{"<cls>": None}), "lacks the token '<cls>'"),
    "row": (_said("vocab.json", G01=-1), "the row of 'G01'"),
    "two files": (lambda p: (p / "model.safetensors").write_bytes(b""), "leave the one that is meant"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(tmp_path: Path, case: str) -> None:
    """One sentence that names file and key."""
    path = scgpt.folder(tmp_path)
    change, text = BAD[case]
    change(path)
    with pytest.raises(UserError, match=text) as caught:
        Scgpt(dir=str(path)).fit(values(0), scgpt.NAMES[:24], Streams(0))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_places_as_users_write_them(where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$NAME` and `~` are filled in."""
    monkeypatch.setenv("MODELS", str(where.parent))
    monkeypatch.setenv("HOME", str(where.parent))
    wanted = Scgpt(dir=str(where)).fingerprint()
    assert Scgpt(dir=f"$MODELS/{where.name}").fingerprint() == wanted
    assert Scgpt(dir=f"~/{where.name}").fingerprint() == wanted


def test_no_folder(tmp_path: Path) -> None:
    """The sentence says what should be there."""
    for path in (tmp_path / "absent", tmp_path):
        for look in (lambda p: p.width, Scgpt.vocabulary, Scgpt.fingerprint):
            with pytest.raises(UserError, match="scgpt: "):
                look(Scgpt(dir=str(path)))


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    """Weights that ask for a call are refused, and the call is not made."""
    path = scgpt.folder(tmp_path / "scgpt")
    harm = tmp_path / "harm"
    for data in (pickle.dumps(_Harm(harm)), pickle.dumps({"encoder.embedding.weight": _Harm(harm)}, protocol=2)):
        (path / "best_model.pt").write_bytes(data)
        with pytest.raises(UserError, match="nothing of it was run"):
            Scgpt(dir=str(path)).fit(values(0), scgpt.NAMES[:24], Streams(0))
    torch.save({"encoder.embedding.weight": _Harm(harm)}, path / "best_model.pt")
    with pytest.raises(UserError, match="nothing of it was run"):
        read_weights(path, read_settings(path), 3)
    assert not harm.exists()


def test_fingerprint_is_content(tmp_path: Path) -> None:
    """Equal for equal files wherever they are, another when one of the three changes; what was kept is told apart."""
    one, two = scgpt.folder(tmp_path / "one"), scgpt.folder(tmp_path / "two")
    made = Scgpt(dir=str(two))
    first, state = Scgpt(dir=str(one)).fingerprint(), made.fit(values(0), scgpt.NAMES[:24], Streams(0)).state()
    assert made.fingerprint() == first
    for name in ("args.json", "vocab.json"):
        kept = (two / name).read_text()
        (two / name).write_text(kept + " ")
        assert made.fingerprint() != first
        with pytest.raises(UserError, match="of another scGPT"):
            made.restore(state)
        (two / name).write_text(kept)
        assert made.fingerprint() == first
    scgpt.folder(two, seed=1)
    assert made.fingerprint() != first


def test_names_that_it_does_not_know(where: Path) -> None:
    """No name known is an error; special tokens are no names of genes."""
    made = Scgpt(dir=str(where))
    assert made.vocabulary() == {*scgpt.NAMES}
    with pytest.raises(UserError, match="knows none of the 24 column names, such as 'ENSG0'"):
        made.fit(values(0), [f"ENSG{i}" for i in range(24)], Streams(0))


# The cache


def test_cache(tmp_path: Path, where: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold, warm and without a cache the same bits; warm, nothing is encoded, for columns in any order and number."""
    values_NG, names = values(3), scgpt.NAMES[:24]
    made = Scgpt(dir=str(where), cache=str(tmp_path / "cache"))
    plain = latents(Scgpt(dir=str(where)), values_NG)
    assert torch.equal(latents(made, values_NG), plain)
    files = sorted((tmp_path / "cache").rglob("*.*"))
    assert len(files) == len(values_NG)
    assert all(path.suffix == ".npy" for path in files)
    monkeypatch.setattr(Tokenised, "encode", lambda *given: pytest.fail("encoded what is kept"))
    assert torch.equal(latents(made, values_NG), plain)
    order = np.random.default_rng(0).permutation(24)
    turned = latents(made, values_NG[:, order], tuple(names[i] for i in order))
    torch.testing.assert_close(turned, plain[:, order], rtol=1e-5, atol=1e-5)
    wider = np.concatenate([values_NG, np.zeros((len(values_NG), 2), np.float32)], axis=1)
    # Columns that are never expressed change nothing that is kept.
    made.fit(wider, scgpt.NAMES[:26], Streams(0))
    assert sorted((tmp_path / "cache").rglob("*.*")) == files


def test_cache_keys(tmp_path: Path, where: Path) -> None:
    """Another value, option or checkpoint is another file."""
    cache = tmp_path / "cache"
    values_NG = values(4)
    other = values_NG.copy()
    other[0, 0] += 1.0
    second = scgpt.folder(tmp_path / "second", seed=1)
    sizes = []
    for made, given_NG in (
        (Scgpt(dir=str(where), cache=str(cache)), values_NG),
        (Scgpt(dir=str(where), cache=str(cache)), other),
        (Scgpt(dir=str(where), cache=str(cache), half=True), values_NG),
        (Scgpt(dir=str(where), cache=str(cache), ties="middle"), values_NG),
        (Scgpt(dir=str(second), cache=str(cache)), values_NG),
    ):
        latents(made, given_NG)
        sizes.append(len([*cache.rglob("*.npy")]))
    assert sizes == [6, 7, 13, 19, 25]


def test_half(tmp_path: Path, where: Path) -> None:
    """Latents are rounded to float16 with and without a cache, cold and warm alike, and take half the room."""
    values_NG = values(5)
    plain = latents(Scgpt(dir=str(where), half=True), values_NG)
    made = Scgpt(dir=str(where), half=True, cache=str(tmp_path))
    assert torch.equal(latents(made, values_NG), plain)
    assert torch.equal(latents(made, values_NG), plain)
    assert {np.load(path).dtype for path in tmp_path.rglob("*.npy")} == {np.dtype(np.float16)}
    exact = latents(Scgpt(dir=str(where)), values_NG)
    assert not torch.equal(plain, exact)
    torch.testing.assert_close(plain, exact, rtol=0.01, atol=0.01)


def test_cache_that_is_broken_or_full(tmp_path: Path, where: Path) -> None:
    """A damaged file is made anew, a pickle is not opened, a full folder takes nothing more; numbers stay the same."""
    values_NG = values(6)
    made = Scgpt(dir=str(where), cache=str(tmp_path / "a"))
    plain = latents(made, values_NG)
    one, two, *_ = sorted((tmp_path / "a").rglob("*.npy"))
    kept = one.read_bytes()
    one.write_bytes(kept[:-7])
    two.write_bytes(pickle.dumps(_Harm(tmp_path / "harm")))
    assert torch.equal(latents(made, values_NG), plain)
    assert one.read_bytes() == kept
    assert not (tmp_path / "harm").exists()
    full = Scgpt(dir=str(where), cache=str(tmp_path / "b"), cache_limit=1e-9)
    assert torch.equal(latents(full, values_NG), plain)
    assert not [*(tmp_path / "b").rglob("*.npy")]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache folder"):
        latents(Scgpt(dir=str(where), cache=str(tmp_path / "file")), values_NG)
