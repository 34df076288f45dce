"""Position: how attention knows where tokens are.

B batch, N queries or sources, D width, H heads, K head width, P axes of space.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin
from core.kinds.size import counted_flops, counted_params

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.kinds.mask import Layout


class Position(Plugin):
    """Tells attention where tokens stand: by what it adds to them, or by turning queries and keys.

    Laws (`core.testing.position.PositionLaws`): shape and dtype are kept; what it does is a function of the places and
    of the configuration, never of earlier calls, of other samples or of how far a sample is padded; padding, whatever
    its place says, changes nothing of real tokens; queries and sources at one place are treated alike; a state loads
    into another module; `params` and `flops` are what a count gives.
    """

    KIND: ClassVar[str] = "position"
    ordered: ClassVar[bool] = True
    """whether it tells tokens apart by where they stand"""

    @property
    def indexed(self) -> bool:
        """Whether the order in which tokens lie in the sequence is what it tells; not so where it reads coordinates."""
        return self.ordered

    def space(self) -> int | None:
        """How many axes the coordinates of the tokens must have; None: any number."""
        return None

    @abstractmethod
    def build(self, width: int, heads: int, head_width: int) -> nn.Module:
        """A module with the two methods of `PositionLayer`.

        Raises:
            ValueError: the position needs another width.
        """

    def params(self, width: int, heads: int, head_width: int) -> int:
        """How many parameters the module has that `build` makes; a built-in piece says so in closed form."""
        return counted_params(lambda: self.build(width, heads, head_width))

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        """FLOPs of the matrix products of `tokens` for one set; turning queries and keys takes none.

        Where a piece gives no closed form, they are those at places in a plane.
        """
        import torch

        def run() -> object:
            module = self.build(width, heads, head_width).eval()
            places = Places(count=tokens, longest=tokens, place_BNP=torch.empty(1, tokens, 2))
            return module.tokens(torch.empty(1, tokens, width), places)  # type: ignore[operator]

        return counted_flops(run)


@attrs.frozen(kw_only=True, eq=False)
class Places:
    """Where the tokens of one side of a call stand, and what both sides share."""

    count: int
    """tokens, padding included"""
    real_BN: Tensor | None = None
    """False on padding; None: all are real"""
    place_BNP: Tensor | None = None
    """coordinates, where the data have any"""
    longest_B: Tensor | None = None
    """true length of the longer side of each sample; None: both are as long as their tensors"""
    longest: int = 0
    """the longer side's length where nothing is padded"""


class PositionLayer:
    """Base of position modules; mix it into an `nn.Module` first in the bases. Each method does nothing by itself."""

    def tokens(self, x_BND: Tensor, places: Places) -> Tensor:
        """Tokens with what tells their place added, before any projection."""
        return x_BND

    def heads(self, x_BHNK: Tensor, places: Places) -> Tensor:
        """Queries or keys of each head, turned by their place."""
        return x_BHNK


def sides(layout: Layout) -> tuple[Places, Places]:
    """Places of the queries and of the sources of a call; anchors have none and are not counted."""
    import torch

    own = layout.sources - layout.anchors
    real_BS = None if layout.real_BS is None else layout.real_BS[:, layout.anchors :]
    lengths = [
        count if real is None else real.sum(1) for real, count in ((layout.real_BQ, layout.queries), (real_BS, own))
    ]
    padded = [length for length in lengths if not isinstance(length, int)]
    longest_B = None
    if padded:
        known = [length if not isinstance(length, int) else torch.full_like(padded[0], length) for length in lengths]
        longest_B = torch.maximum(*known)
    longest = max(layout.queries, own)
    queries = Places(
        count=layout.queries, real_BN=layout.real_BQ, place_BNP=layout.place_BQP, longest_B=longest_B, longest=longest
    )
    if not layout.apart:
        return queries, queries
    sources = Places(count=own, real_BN=real_BS, place_BNP=layout.place_BSP, longest_B=longest_B, longest=longest)
    return queries, sources
