"""What else a network may be told of the cells: their type, and the section they come from.

B sets, N cells, D width, C entries.
"""

from __future__ import annotations

from typing import Any, Literal, final

import attrs
import torch
from torch import Tensor, nn

from core.kinds import Batch, Card, Encoder, Tokens

Condition = Literal["cell_type", "section"]
DROPPED = 0.1
"""share of training sets in which a condition is withheld, so that the network knows how to do without (Ho & Salimans
2022, arXiv:2207.12598)"""


@final
@attrs.frozen
class Told(Encoder):
    """An encoder whose tokens are told conditions: a learned vector for each is added to every token.

    A hook on the encoder and no wrapper, so that its parameters keep the names that their first values hang on.
    """

    inner: Encoder
    conditions: tuple[Condition, ...]

    def build(self, card: Card, width: int) -> nn.Module:
        """The encoder, which reads the field of each condition beside its own.

        Raises:
            ValueError: the data know nothing of a condition.
        """
        module = self.inner.build(card, width)
        module.add_module("labels", Labels(card, self.conditions, width))
        module.register_forward_hook(_add, with_kwargs=True)
        return module


class Labels(nn.Module):
    """The vectors of all conditions."""

    def __init__(self, card: Card, conditions: tuple[Condition, ...], width: int) -> None:
        super().__init__()
        known = card.facts.get("sections", {})
        self.sections = {name: code for code, name in enumerate(n for n, cells in known.items() if cells["train"])}
        entries = {"cell_type": card.sizes.get("cell_types", 0), "section": len(self.sections)}
        for condition in conditions:
            if not entries[condition]:
                raise ValueError(
                    f"the data name no {condition}, so it cannot be a condition; leave it out of conditions"
                )
        # Told beside the tables: where parameters are sharded they are empty outside of their module's forward pass.
        self.entries = {condition: entries[condition] for condition in conditions}
        self.tables = nn.ModuleDict({condition: Label(entries[condition], width) for condition in conditions})

    def forward(self, fields: dict[str, Tensor]) -> Tensor:
        """The sum of the vectors that the codes of each condition stand for, (B, N, D)."""
        vectors = [table(fields[condition]) for condition, table in self.tables.items()]
        return sum(vectors[1:], vectors[0])

    def codes(self, batch: Batch, drop: torch.Generator | None) -> dict[str, Tensor]:
        """The codes (B, N) of each condition, -1 where it is not known, and on padding.

        Args:
            batch: with the field `cell_type` where that is a condition; sections are told by its units' names.
            drop: withholds each condition from a share of the sets; None: all is told that is known.
        """
        found: dict[str, Tensor] = {}
        for condition, entries in self.entries.items():
            if condition == "cell_type":
                code_BN = batch.fields["cell_type"]
            else:
                of_B = torch.tensor([self.sections.get(name, -1) for name in batch.units])
                code_BN = of_B.to(batch.real_BN.device)[:, None].expand(batch.real_BN.shape)
            seen_BN = batch.real_BN & (code_BN >= 0) & (code_BN < entries)
            code_BN = torch.where(seen_BN, code_BN, -1)
            if drop is not None:
                gone_B = (torch.rand(len(code_BN), generator=drop) < DROPPED).to(code_BN.device)
                code_BN = torch.where(gone_B[:, None], -1, code_BN)
            found[condition] = code_BN
        return found


class Label(nn.Module):
    """One condition: a vector for what is not known, and for each entry how it differs from that.

    Entries start as the unknown one, so that one that training never shows stays unknown.
    """

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.unknown_D = nn.Parameter(torch.empty(width))
        self.known_CD = nn.Parameter(torch.empty(entries, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The unknown small, the others like it."""
        nn.init.normal_(self.unknown_D, std=0.02)
        nn.init.zeros_(self.known_CD)

    def forward(self, code_BN: Tensor) -> Tensor:
        """The vector of each code (B, N, D), that of the unknown for -1."""
        known_BND = nn.functional.embedding(code_BN.clamp_min(0), self.known_CD)
        return self.unknown_D + torch.where((code_BN >= 0)[..., None], known_BND, 0.0)


def labels_of(model: nn.Module) -> Labels | None:
    """The conditions of a model, whatever it is wrapped in; None: it is told none."""
    return next((module for module in model.modules() if isinstance(module, Labels)), None)


def _add(encoder: nn.Module, given: tuple[Any, ...], named: dict[str, Any], made: Tokens) -> Tokens:
    fields = given[0] if given else named["fields"]
    return attrs.evolve(made, x_BTD=made.x_BTD + encoder.get_submodule("labels")(fields))
