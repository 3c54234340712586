"""The last blocks of an encoder, trained together with what reads its states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from isthmus.encoders.base import Encoder, find_blocks
from isthmus.errors import UsageError


@dataclass(frozen=True)
class Unfrozen:
    """The last blocks of the network behind `views`, with gradients. They stay in eval mode: no dropout in them."""

    views: list[Encoder]
    blocks: nn.ModuleList

    @classmethod
    def of(cls, views: Sequence[Encoder], count: int) -> Unfrozen:
        """Raises `UsageError` for an encoder that is no stack of so many equal blocks."""
        blocks = last_blocks(views[0], count)
        blocks.requires_grad_(True)
        return cls(list(views), blocks)

    @property
    def identity(self) -> str:
        return f"{self.views[0].backbone_key} last {len(self.blocks)}"


def last_blocks(encoder: Encoder, count: int) -> nn.ModuleList:
    """The last `count` blocks of an encoder, which share its weights. Raises as `Unfrozen.of`."""
    found = find_blocks(encoder.network, encoder.depth)
    if not 0 < count <= len(found):
        has = f"has {len(found)}" if found else "is no stack of equal blocks"
        raise UsageError(f"unfreeze.{encoder.modality} = {count}: {encoder.uri} {has}. Set it to 0, or to fewer.")
    return nn.ModuleList(found[-count:])
