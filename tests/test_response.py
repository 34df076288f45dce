"""Networks of perturbation responses: formulas, sets of perturbations, co-expression, what is computed and what not."""

from __future__ import annotations

import functools
import itertools
import math

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.nn.correlated import most_correlated
from core.testing.draws import close, coins, gradients, law, randn, seeds, started
from plugins.backbones._coexpression import CoExpression
from plugins.backbones._contrast import Contrast
from response import BACKBONES, backbone, batch, card, fresh, moved, network, parts


def run(net: nn.Module, fields: dict[str, Tensor], times: dict[str, Tensor], **more: object) -> dict[str, Tensor]:
    real_BN = torch.ones(fields["gene"].shape, dtype=torch.bool)
    with torch.no_grad():
        return net(fields, times, real_BN, **more)[0]


def part(rows: object, *trees: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{k: v[rows] for k, v in tree.items()} for tree in trees]


def split(x_BND: Tensor, heads: int) -> Tensor:
    return torch.stack(x_BND.chunk(heads, -1), 1)


def plain_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def plain_share(share: nn.Module) -> Tensor:
    first, second = ((a * b).sum() for a, b in ((share.query_1, share.key_1), (share.query_2, share.key_2)))
    return first.exp() - second.exp() + share.initial


def plain_maps(layer: nn.Module, queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], heads: int) -> Tensor:
    """softmax(Q_1 K_1^T / sqrt K) - lambda softmax(Q_2 K_2^T / sqrt K), formed."""
    maps = []
    for place, (n, m) in enumerate(zip(queries, keys, strict=True), 1):
        q, k = (split(getattr(layer, f"{what}_{place}")(x), heads) for what, x in (("query", n), ("key", m)))
        maps.append(torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1))
    return maps[0] - plain_share(layer.share) * maps[1]


def plain_read(layer: nn.Module, map_BHNN: Tensor, n: Tensor, heads: int, initial: float, eps: float) -> Tensor:
    read = map_BHNN @ split(layer.value(n), heads)
    read = read / (read.square().mean(-1, keepdim=True) + eps).sqrt() * layer.norm.weight * (1 - initial)
    return layer.output(torch.cat([*read.unbind(1)], -1))


def test_differential_perceiver_block() -> None:
    """The block is, in float64: for the genes, then against the control, y += gate Attn(modulated LN y), y += gate
    MLP(modulated LN y), with A = softmax(Q1 K1) - lambda softmax(Q2 K2), Q2 and K2 of the control in the second."""
    net = network("diff_perceiver", seed=3)
    y, v2, c = (randn(i, *shape) for i, shape in enumerate([(2, 6, 8), (2, 6, 8), (2, 8)]))
    with torch.no_grad():
        for i, layer in enumerate(net.layers):
            found, _ = layer.block(y, v2, c, None)
            wanted = y
            for place, ffn in (("itself", "ffn"), ("control", "control_ffn")):
                reads, thinks = layer.block.parts[place], layer.block.parts[ffn]
                scale, shift, gate = reads.steered.steer(F.silu(c))[:, None].chunk(3, -1)
                n = plain_norm(wanted) * (1 + scale) + shift
                other = n if place == "itself" else v2
                attention = reads.attention
                initial, eps = (0.8, 1e-6) if place == "itself" else (0.8 - 0.6 * math.exp(-0.3 * i), 1e-5)
                map_BHNN = plain_maps(attention, (n, other), (n, other), heads=2)
                wanted = wanted + gate * plain_read(attention, map_BHNN, n, 2, initial, eps)
                scale, shift, gate = thinks.steered.steer(F.silu(c))[:, None].chunk(3, -1)
                inner = F.gelu(thinks.ffn.up(plain_norm(wanted) * (1 + scale) + shift))
                wanted = wanted + gate * thinks.ffn.down(inner)
            close([found], [wanted], 1e-10)


@law
@given(seed=seeds, tokens=st.integers(1, 7), hidden=st.booleans())
def test_contrast_is_its_explicit_form(seed: int, tokens: int, hidden: bool) -> None:
    """Values and gradients of the fused form are those of formed maps; rows sum to 1 - lambda, hidden keys weigh 0."""
    layer = moved(fresh(lambda: Contrast(8, 2, 0.3), seed), seed)
    x, other = (randn(seed + i, 2, tokens, 8).requires_grad_() for i in range(2))
    real = coins(seed, 2, tokens) if hidden else torch.ones(2, tokens, dtype=torch.bool)
    real[:, 0] = True
    logits = [
        (split(q(s), 2) @ split(k(s), 2).mT / 2.0).masked_fill(~real[:, None, None], -torch.inf)
        for s, q, k in ((x, layer.query_1, layer.key_1), (other, layer.query_2, layer.key_2))
    ]
    map_BHNN = logits[0].softmax(-1) - plain_share(layer.share) * logits[1].softmax(-1)
    wanted = plain_read(layer, map_BHNN, x, 2, 0.3, 1e-5)
    found = layer(x, other, real)
    close([found], [wanted], 1e-9)
    inputs = [x, other, *layer.parameters()]
    close(gradients(found, inputs), gradients(wanted, inputs), 1e-8)
    weights = layer.weights(x, other, real)
    close([weights.sum(-1)], [(1 - layer.share()).expand(weights.shape[:-1])], 1e-12)
    assert not weights.masked_select(~real[:, None, None].expand_as(weights)).any()


def test_contrast_without_a_share_is_attention() -> None:
    """With lambda = 0 the weights are those of ordinary attention, whatever the other state."""
    layer = fresh(lambda: Contrast(8, 2, 0.3))
    with torch.no_grad():
        for parameter in layer.share.parameters():
            parameter.zero_()
        layer.share.query_2[0] = layer.share.key_2[0] = math.sqrt(math.log(1.3))
        x = randn(0, 2, 5, 8)
        logits = split(layer.query_1(x), 2) @ split(layer.key_1(x), 2).mT / 2.0
        close([layer.weights(x, randn(1, 2, 5, 8), None)], [logits.softmax(-1)], 1e-12)


@pytest.mark.parametrize("name", BACKBONES)
def test_order_of_genes_and_cells(name: str) -> None:
    """In float32, permuting genes and cells permutes the outputs, and padded genes change none of the others."""
    net = network(name, by=0.1).float()
    fields, times = batch(sets=5)
    fields = {k: v.float() if v.is_floating_point() else v for k, v in fields.items()}
    times = {k: v.float() for k, v in times.items()}
    there = run(net, fields, times)
    genes, cells = torch.tensor([3, 0, 5, 1, 4, 2]), torch.tensor([4, 2, 0, 3, 1])
    moved_fields = {k: v if k in ("perturbation", "told") else v[:, genes] for k, v in fields.items()}
    here = run(net, *part(cells, moved_fields, times))
    close([here[k] for k in there], [v[cells][:, genes] for v in there.values()], 5e-6)
    longer = {
        k: v if k in ("perturbation", "told") else F.pad(v, (0, 0) * (v.ndim - 2) + (0, 3)) for k, v in fields.items()
    }
    real_BN = (torch.arange(9) < 6).expand(5, -1)
    padded, _ = net(longer, times, real_BN)
    close([padded[k][:, :6] for k in there], [*there.values()], 5e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_determinism(name: str) -> None:
    """In evaluation two calls agree to the bit, and cells in chunks are the cells at once."""
    net = network(name, dropout=0.5)
    fields, times = batch(sets=5)
    whole = run(net, fields, times)
    close([*run(net, fields, times).values()], [*whole.values()], 0.0)
    chunks = [run(net, *part(slice(a, b), fields, times)) for a, b in ((0, 2), (2, 3), (3, 5))]
    close([torch.cat([chunk[k] for chunk in chunks]) for k in whole], [*whole.values()], 1e-12)


@functools.cache
def of_sets(how: tuple[tuple[str, object], ...]) -> nn.Module:
    return network("perceiver", how=dict(how))


@pytest.mark.parametrize(
    "how", [{}, {"frame.combine": "mean"}, {"frame.combine": "mean", "frame.average_control": True}], ids=str
)
@law
@given(members=st.sets(st.integers(1, 4), max_size=3), data=st.data())
def test_perturbations_are_a_set(how: dict[str, object], members: set[int], data: st.DataObject) -> None:
    """Order, repetition and how much room is left change nothing; other sets give other outputs."""
    net = of_sets(tuple(how.items()))
    fields, times = batch(sets=1)
    del fields["told"]

    def told(codes: list[int]) -> Tensor:
        outputs = run(net, fields | {"perturbation": torch.tensor([codes])}, times)
        return torch.cat([v.flatten() for v in outputs.values()])

    plain = told([*sorted(members), 0])
    again = data.draw(st.lists(st.sampled_from([*members, 0]), max_size=2))
    close([told(data.draw(st.permutations([*members, *again, 0])))], [plain], 1e-12)
    for other in ({*members, 1}, {*members, 4}, set()):
        if other != members:
            assert (told([*other, 0]) - plain).abs().max() > 1e-6


def test_average_with_control() -> None:
    """As in scDFM if asked: a single is the mean of its embedding and the control's, a pair that of its members."""
    net = network("perceiver", how={"frame.combine": "mean", "frame.average_control": True}).perturbations
    embed = network("perceiver").genes
    codes = torch.tensor([[1, 0], [1, 2], [0, 0]])
    with torch.no_grad():
        found, table = net(codes, None, embed), net.codes()
    close([found], [torch.stack([(table[1] + table[0]) / 2, (table[1] + table[2]) / 2, table[0]])], 1e-12)


@pytest.mark.parametrize("name", BACKBONES)
def test_mixed_conditions(name: str) -> None:
    """A batch of several conditions, with other genes each, is its conditions one by one."""
    net = network(name)
    net.set_perturbed_genes(torch.tensor([-1, 2, 5, -1, 0]))
    fields, times = batch(sets=4, same=False)
    whole = run(net, fields, times)
    alone = [run(net, *part(slice(b, b + 1), fields, times)) for b in range(4)]
    close([torch.cat([one[k] for one in alone]) for k in whole], [*whole.values()], 1e-12)


def test_untold_perturbations() -> None:
    """Where the perturbation is not told it does not matter, and it is neither control nor any other."""
    net = network("diff_perceiver")
    fields, times = batch(sets=3)
    one, other = (
        run(net, fields | {"perturbation": torch.tensor(codes), "told": torch.tensor([False, False, True])}, times)
        for codes in ([[1, 2], [3, 0], [1, 0]], [[4, 0], [0, 0], [2, 0]])
    )
    close([one[k][:2] for k in one], [other[k][:2] for k in one], 0.0)
    assert all((one[k][2] - other[k][2]).abs().max() > 1e-6 for k in one)
    control = run(net, fields | {"perturbation": torch.zeros(3, 2).long(), "told": torch.ones(3).bool()}, times)
    assert all((one[k][:2] - control[k][:2]).abs().max() > 1e-6 for k in one)


def test_perturbed_genes_share_their_embedding() -> None:
    """A perturbation that is a gene is that gene's embedding, neighbours read; the others have a table of their own."""
    net = network("perceiver")
    net.set_perturbed_genes(torch.tensor([7, 3, -1, 8, -1]))
    with torch.no_grad():
        found = net.perturbations(torch.tensor([[1], [2], [3], [0]]), None, net.genes)
        genes, own = net.genes(torch.arange(9)), net.perturbations.codes()
    close([found], [torch.stack([genes[3], own[2], genes[8], own[0]])], 1e-12)
    for wrong in (torch.zeros(3).long(), torch.tensor([0, 1, 2, 3, 9]), torch.tensor([0, -2, 0, 0, 0])):
        with pytest.raises(ValueError, match=r"takes 5 codes from -1 \(none\) to 8"):
            net.set_perturbed_genes(wrong)


@law
@given(seed=seeds, asked=st.integers(1, 9))
def test_coexpression_is_masked_attention(seed: int, asked: int) -> None:
    """Reading gathered neighbours equals attention over the whole vocabulary under their mask, gradients too."""
    layer = moved(fresh(lambda: CoExpression(9, 8, 2, 4, 0.0), seed), seed)
    generator = torch.Generator().manual_seed(seed)
    table = torch.randint(-1, 9, (9, 4), generator=generator)
    layer.set_neighbours(table)
    seen = torch.eye(9, dtype=torch.bool)
    for gene, near in itertools.product(range(9), range(4)):
        if table[gene, near] >= 0:
            seen[gene, table[gene, near]] = True
    memory, gene_U = randn(seed, 9, 8).requires_grad_(), torch.randint(9, (asked,), generator=generator)
    q = split(layer.query(layer.norm_attention(memory[gene_U]))[None], 2)
    k, v = (split(project(memory)[None], 2) for project in (layer.key, layer.value))
    weights = (q @ k.mT / 2.0).masked_fill(~seen[gene_U], -torch.inf).softmax(-1)
    wanted = memory[gene_U] + layer.output(torch.cat([*(weights @ v)[0]], -1))
    wanted = wanted + layer.down(F.gelu(layer.up(layer.norm_ffn(wanted))))
    found = layer(memory, gene_U)
    close([found], [wanted], 1e-10)
    inputs = [memory, *layer.parameters()]
    close(gradients(found, inputs), gradients(wanted, inputs), 1e-8)


def test_neighbours_are_saved_and_refused() -> None:
    """A table travels with the weights; one of other genes, too wide, or with codes that are none is refused."""
    net = network("perceiver")
    other = fresh(lambda: backbone("perceiver").build(card(), parts()), seed=1)
    assert other.genes.reading.neighbours_VK[:, 1:].eq(-1).all()
    other.load_state_dict(net.state_dict())
    fields, times = batch()
    close([*run(other, fields, times).values()], [*run(net, fields, times).values()], 0.0)
    for wrong in (torch.zeros(8, 2), torch.zeros(9, 4), torch.zeros(9)):
        with pytest.raises(ValueError, match="9 genes, at most 3"):
            net.set_neighbours(wrong)
    with pytest.raises(ValueError, match="genes are 0 to 8"):
        net.set_neighbours(torch.full((9, 1), 9))
    with pytest.raises(ValueError, match=r"set backbone\.frame\.neighbours"):
        network("perceiver", how={"frame.neighbours": 0}).set_neighbours(torch.zeros(9, 1))


@law
@given(seed=st.integers(0, 10**6), k=st.integers(1, 8), negative=st.booleans(), blocks=st.booleans())
def test_most_correlated(seed: int, k: int, negative: bool, blocks: bool) -> None:
    """Neighbours are the genes of greatest correlation; a constant gene has none, and no gene is its own."""
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(20, 7)).astype(np.float32)
    cells[:, 1] = cells[:, 0] * 0.7 + 0.1 * cells[:, 1]
    cells[:, 2] = -cells[:, 3] + 0.1 * cells[:, 2]
    cells[:, 4] = 1.7
    table = most_correlated([cells[:9], cells[9:]] if blocks else cells, k, negative=negative)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(cells.astype(np.float64), rowvar=False))
    r = np.abs(r) if negative else r
    for gene in range(7):
        wanted = sorted((g for g in range(7) if g != gene and r[gene, g] > 1e-12), key=lambda g: -r[gene, g])[:k]
        assert table[gene].tolist() == wanted + [-1] * (k - len(wanted))


def test_coexpressed_refuses() -> None:
    """No neighbour, fewer than two rows and values that are not finite are each named."""
    with pytest.raises(ValueError, match="at least one, got 0"):
        most_correlated(np.ones((3, 2)), 0)
    with pytest.raises(ValueError, match="two rows or more, got 1"):
        most_correlated(np.ones((1, 2)), 1)
    with pytest.raises(ValueError, match="not all finite"):
        most_correlated(np.array([[1.0, np.nan], [0.0, 1.0]]), 1)


def test_genes_are_embedded_once() -> None:
    """However many cells there are, a gene's embedding is computed once; so is each perturbed gene's."""
    net, asked = network("perceiver"), []
    net.genes.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    for same, most in ((True, 6), (False, 9)):
        asked.clear()
        run(net, *batch(sets=7, same=same))
        assert max(asked[:1]) <= most


@pytest.mark.parametrize("name", BACKBONES)
def test_kept_between_calls(name: str) -> None:
    """Calls of a solver that keep what is given agree to the bit with calls that do not, and embed no gene again."""
    net, asked, kept = network(name), [], {}
    net.genes.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    fields, times = batch()
    for call in range(3):
        noisy = {m: randn(call, *fields[m].shape) for m in ("expression", "latent")}
        later = {m: (t + 0.1 * call) / 2 for m, t in times.items()}
        found = run(net, fields | noisy, later, kept=kept)
        assert bool(asked) == (call == 0)
        close([*found.values()], [*run(net, fields | noisy, later).values()], 0.0)
        asked.clear()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("still", ["expression", "latent"])
def test_kept_while_a_stream_stands_still(name: str, still: str) -> None:
    """A stream that stands still is embedded once, and being told the perturbation or not is never kept."""
    net, embedded, kept = network(name), [], {}
    net.latents.register_forward_hook(lambda *_: embedded.append("latent"))
    net.values["expression"].register_forward_hook(lambda *_: embedded.append("expression"))
    fields, times = batch()
    (moves,) = {"expression", "latent"} - {still}
    for call in range(4):
        told = torch.full((len(fields[moves]),), call % 2 == 0)
        now = fields | {moves: randn(call, *fields[moves].shape), "told": told}
        embedded.clear()
        found = run(net, now, times, kept=kept, still=(still,))
        assert (still in embedded) == (call == 0)
        assert moves in embedded
        close([*found.values()], [*run(net, now, times).values()], 0.0)


@pytest.mark.parametrize("name", BACKBONES)
def test_one_stream_alone(name: str) -> None:
    """A stream that is not asked for is not decoded, and the others are what they are; another stream is refused."""
    net, ran = network(name), []
    for stream, decoder in net.decoders.items():
        decoder.register_forward_hook(lambda *_, stream=stream: ran.append(stream))
    fields, times = batch()
    both = run(net, fields, times)
    for stream in both:
        ran.clear()
        alone = run(net, fields, times, streams=(stream,))
        assert ran == [*alone] == [stream]
        close([alone[stream]], [both[stream]], 0.0)
    with pytest.raises(ValueError, match="predicts expression and latent, asked for time"):
        run(net, fields, times, streams=("time",))


@pytest.mark.parametrize("name", BACKBONES)
def test_start(name: str) -> None:
    """At first outputs are 0; within three steps of descent the gradient has reached every parameter."""
    net = started(backbone(name).build(card(), parts()), 0)
    net.set_neighbours((torch.arange(9)[:, None] + 1) % 9)
    fields, times = batch()
    assert not any(v.any() for v in run(net, fields, times).values())
    missed = {n for n, _ in net.named_parameters()}
    descent = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(4):
        outputs, _ = net(fields, times, torch.ones(4, 6, dtype=torch.bool))
        sum((v - 1).square().mean() for v in outputs.values()).backward()
        missed -= {n for n, p in net.named_parameters() if p.grad is not None and bool(p.grad.any())}
        descent.step()
        descent.zero_grad()
    assert not missed


def test_layers_that_could_never_open() -> None:
    """A residual that starts at 0 beside gates that do is refused, and serves where the gates are open."""
    with pytest.raises(ValueError, match="never get a gradient; take residual = plain"):
        backbone("perceiver").build(card(), parts(residual="rezero"))
    assert backbone("perceiver", **{"frame.zero": False}).build(card(), parts(residual="rezero"))


@pytest.mark.parametrize("streams", [(), ("expression", "position")])
def test_other_streams(streams: tuple[str, ...]) -> None:
    """Nothing to predict, or something of which the network knows nothing, is refused."""
    wanted = attrs.evolve(parts(), outputs=dict.fromkeys(streams, 1))
    with pytest.raises(ValueError, match="predicts expression, latent or both"):
        backbone("perceiver").build(card(), wanted)


def test_data_without_perturbations() -> None:
    """Data that are no screen are refused by name."""
    with pytest.raises(ValueError, match="the data tissue has none"):
        backbone("perceiver").build(attrs.evolve(card(), name="tissue", sizes={"genes": 3}), parts())


CHANGES = {
    "frame.heads": 4, "frame.neighbours": 2, "frame.combine": "mean", "frame.product": False,
    "frame.condition": "time", "frame.adapter": "add", "frame.time_scale": 1.0, "frame.latent_bottleneck": 5,
    "frame.latent_act": "gelu", "frame.decoder_depth": 2, "frame.zero": False,
}  # fmt: skip
SIZES = {"width": 16, "depth": 3, "attention": "softmax", "ffn": "dense(ratio=3)"}


@pytest.mark.parametrize(("what", "value"), [*CHANGES.items(), *SIZES.items()], ids=[*CHANGES, *SIZES])
def test_every_choice_changes_the_network(what: str, value: object) -> None:
    """No parameter is taken and ignored: each changes what the network starts with or what it gives."""
    how, size = ({what: value}, {}) if what in CHANGES else ({}, {what: value})
    one, other = network("diff_perceiver"), network("diff_perceiver", how=how, **size)
    fields, times = batch()
    fields["perturbation"] = torch.tensor([[1, 0, 0], [1, 2, 0], [3, 0, 0], [0, 0, 0]])
    fields["told"] = torch.ones(4, dtype=torch.bool)
    pairs = zip(run(one, fields, times).values(), run(other, fields, times).values(), strict=True)
    assert any((a - b).abs().max() > 1e-9 for a, b in pairs)


def test_products_add_up() -> None:
    """What the product of gene and perturbation says of a double is the sum of what it says of both singles."""
    net = network("diff_perceiver")
    net.set_perturbed_genes(torch.tensor([-1, 2, 5, -1, 0]))
    with torch.no_grad():
        gene_BND = net.genes(torch.arange(4))[None]
        p_BD = net.perturbations(torch.tensor([[1, 0], [3, 0], [1, 3]]), None, net.genes)
        nothing = net.product(gene_BND, torch.zeros_like(p_BD[:1]))[0]
        one, other, both = net.product(gene_BND, p_BD)
    close([both - nothing], [one + other - 2 * nothing], 1e-12)
    assert (one - other).abs().max() > 1e-3


def test_without_products_genes_and_perturbations_meet_in_the_layers_alone() -> None:
    """`frame.product = false` leaves out the product with all its parameters."""
    names = {name for name, _ in network("diff_perceiver", how={"frame.product": False}).named_parameters()}
    assert names < {name for name, _ in network("diff_perceiver").named_parameters()}
    assert not any("product" in name for name in names)
