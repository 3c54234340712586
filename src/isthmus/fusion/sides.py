"""One encoder's states as the cross-modal layers take them: patches on one grid, behind a token for the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from isthmus.errors import UsageError

Layers = Tensor | list[Tensor]  # [B, N, T, D], or where the layers differ in width N of [B, T, D_k]


@dataclass(frozen=True)
class SideStates:
    """States of B items at N layers of one encoder, and which tokens are real: bool [B, T], the same in all layers.

    breaks: which of these end a row of tiles and have no states, bool [B, T]; None where there are no tiles.
    """

    values: Layers
    mask: Tensor
    breaks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mask)

    @property
    def last(self) -> Tensor:
        """The uppermost layer, [B, T, D]."""
        return self.values[-1] if isinstance(self.values, list) else self.values[:, -1]

    def take(self, index: Tensor) -> SideStates:
        """Some items, in the order of `index`, int64 [n]."""
        return self.each(lambda tensor: tensor.index_select(0, index))

    def trimmed(self) -> SideStates:
        """Without the tokens that are padding in every item; padding is at the end."""
        length = max(1, int(self.mask.sum(1).max())) if len(self) else 1
        cut = [one[:, :length] for one in self.values] if isinstance(self.values, list) else self.values[:, :, :length]
        return SideStates(cut, self.mask[:, :length], None if self.breaks is None else self.breaks[:, :length])

    def each(self, change: Any) -> SideStates:
        """The same change of every tensor."""
        values = [change(one) for one in self.values] if isinstance(self.values, list) else change(self.values)
        return SideStates(values, change(self.mask), None if self.breaks is None else change(self.breaks))

    def ready(self, device: torch.device) -> SideStates:
        """On a device, in float32."""
        return self.each(lambda one: one.to(device, torch.float32 if one.is_floating_point() else None))


def joined(parts: Sequence[SideStates]) -> SideStates:
    """Several batches as one, padded to the longest."""
    longest = max(part.mask.shape[1] for part in parts)
    padded = [part.each(lambda one: _padded(one, longest)) for part in parts]
    masks = torch.cat([part.mask for part in padded])
    if isinstance(padded[0].values, list):
        layers = zip(*(part.values for part in padded), strict=True)
        breaks = None if padded[0].breaks is None else torch.cat([part.breaks for part in padded])  # type: ignore[misc]
        return SideStates([torch.cat(layer) for layer in layers], masks, breaks)
    return SideStates(torch.cat([part.values for part in padded]), masks)  # type: ignore[misc]


def _padded(one: Tensor, length: int) -> Tensor:
    axis = max(1, one.ndim - 2)  # tokens: of a mask the last axis, of values the last but one
    missing = length - one.shape[axis]
    if not missing:
        return one
    shape = [*one.shape[:axis], missing, *one.shape[axis + 1 :]]
    return torch.cat([one, one.new_zeros(shape)], axis)


def side_states(values: Layers, masks: Tensor | list[Tensor], prefix: int | None, grid: int = 0) -> SideStates:
    """An encoder's states as `SideStates`.

    values, masks: as `isthmus.encoders.States` has them. prefix: how many leading tokens are no patches; None for
    texts, whose tokens are no grid and stay as they are. grid: see `FusionOptions`.
    Raises `UsageError` for patches that are no square, where a grid is asked for or needed.
    """
    if prefix is None:
        if isinstance(values, list):
            raise UsageError("layers of a text encoder with different numbers of tokens or widths cannot be joined.")
        return SideStates(values, masks)  # type: ignore[arg-type]
    listed = isinstance(values, list)
    layers: list[Tensor] = list(values) if listed else [values.flatten(0, 1)]  # type: ignore[union-attr]
    sides = [square_side(layer.shape[1] - prefix) for layer in layers]
    if not listed and not grid and prefix:
        return SideStates(values, masks)  # type: ignore[arg-type]
    if None in sides:
        raise UsageError(
            f"{[layer.shape[1] - prefix for layer in layers]} patches are no square, and cannot be put on a grid. "
            "Take an encoder with square pictures, and fusion.grid = 0."
        )
    side = grid or min(one for one in sides if one)
    found = [gridded(layer, prefix, side) for layer in layers]
    mask = torch.ones(len(values[0]) if listed else len(values), found[0].shape[1], dtype=torch.bool)
    mask = mask.to(found[0].device)
    return SideStates(found if listed else found[0].unflatten(0, values.shape[:2]), mask)  # type: ignore[union-attr]


def gridded(layer: Tensor, prefix: int, side: int) -> Tensor:
    """[B, prefix + T, D] to [B, 1 + side², D]: the first token, or the mean of the patches, then their averages."""
    patches = layer[:, prefix:].float()
    own = square_side(patches.shape[1]) or 0
    first = layer[:, :1].float() if prefix else patches.mean(1, keepdim=True)
    if own != side:
        plane = patches.transpose(1, 2).unflatten(2, (own, own))
        patches = adaptive_avg_pool2d(plane, side).flatten(2).transpose(1, 2)
    return torch.cat([first, patches], 1)


def square_side(count: int) -> int | None:
    """The side of a square of so many patches; None if it is none."""
    side = math.isqrt(max(0, count))
    return side if side and side * side == count else None
