"""An image encoder's states as the tokens of a picture: through a trained head if there is one, on a square grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.errors import InputError, UsageError
from isthmus.fusion.language.grids import TileGrid, joined_tiles
from isthmus.fusion.language.plan import LanguagePlan
from isthmus.fusion.sides import SideStates, gridded, joined, square_side
from isthmus.projectors import from_config


class PictureTokens(nn.Module):
    """States at the layers of a plan to tokens: N of [B, tokens, D_k], in float32.

    The head is that of a trained dual encoder and stays as it is.
    """

    def __init__(self, plan: LanguagePlan) -> None:
        super().__init__()
        self.plan = plan
        self.head: Any = None if plan.head is None else from_config(plan.head)
        if self.head is not None:
            check_head(self.head)
            self.head.requires_grad_(False)

    @torch.no_grad()
    def forward(self, values: Any) -> list[Tensor]:
        """values: [B, N, T, D] or a list of N [B, T_k, D_k], as `isthmus.encoders.States` has them.

        Raises `InputError` where there are not as many patches as the plan says.
        """
        each = list(values) if isinstance(values, list) else list(torch.as_tensor(values).unbind(1))
        layers = [torch.as_tensor(one).float() for one in each]
        found = [layer.shape[1] - self.plan.prefix for layer in layers]
        if found != self.plan.patches:
            raise InputError(
                f"the image encoder gives {found} patches at its layers, but the model was made for "
                f"{self.plan.patches}: its pictures have another size."
            )
        return [self._tokens(layer) for layer in layers]

    def tiled(self, values: Any, grids: Sequence[TileGrid]) -> SideStates:
        """Tokens of pictures with grids, of the states of the base image and the tiles of one after the other."""
        layers, cls, found, first = self(values), int(self.plan.cls), [], 0
        for grid in grids:
            last = first + 1 + grid.tiles[0] * grid.tiles[1]
            each = []
            for layer in layers:
                plane = joined_tiles(layer[first + 1 : last, cls:], grid)
                each.append(torch.cat([layer[first], F.pad(plane, (0, 0, 0, 1)).flatten(0, 1)])[None])
            ends = torch.zeros(grid.tokens[0], grid.tokens[1] + 1, dtype=torch.bool)
            ends[:, -1] = True
            breaks = F.pad(ends.flatten(), (self.plan.tokens, 0))[None].to(each[0].device)
            found.append(SideStates(each, torch.ones_like(breaks), breaks))
            first = last
        return joined(found)

    def _tokens(self, layer: Tensor) -> Tensor:
        prefix = self.plan.prefix
        if self.head is not None:
            first = layer[:, 0] if prefix else layer.mean(1)
            patches = self.head.dense(layer[:, prefix:], first)
            layer, prefix = torch.cat([patches.mean(1, keepdim=True), patches], 1), 1
        found = gridded(layer, prefix, self.plan.side)
        return found if self.plan.cls else found[:, 1:]


def check_head(head: Any) -> None:
    """Raise `UsageError` for a head that takes pooled features: what a token becomes by it is not known."""
    if getattr(head, "dense", None) is None or getattr(head, "tokens", None) is None:
        raise UsageError(
            f"picture.head: its image head is {getattr(head, 'kind', type(head).__name__)!r}, which takes pooled "
            "features. Train one on tokens: isthmus train STORE --recipe freeze-align."
        )


def counted(lengths: list[int], prefix: int, wanted: int, fed: list[int], cls: bool) -> tuple[list[int], int]:
    """(patches of each layer, tokens of a picture): the numbers that the encoder really gives, checked.

    lengths: tokens of each layer, `prefix` included. wanted: tokens on a grid, 0 for the encoder's own. fed: places of
    the layers that become tokens. Raises `UsageError` where patches or tokens are no square.
    """
    patches = [length - prefix for length in lengths]
    if any(square_side(count) is None for count in patches):
        raise UsageError(
            f"{patches} patches are no square, and cannot be put on a grid. Take an encoder with square pictures."
        )
    tokens = wanted or min(patches[place] for place in fed)
    if square_side(tokens) is None:
        raise UsageError(f"picture.tokens = {tokens} is no square: 16, 64 and 256 are.")
    return patches, tokens + cls
