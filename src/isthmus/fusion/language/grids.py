"""Base image and grids: which grid of tiles a picture is cut into, and the tokens of all tiles, row by row.

Source: "anyres" of LLaVA-NeXT, as LLaVA-OneVision has it (arXiv 2408.03326, section 3.2): the picture as a whole, then
as tiles of the encoder's own size. The grid is the one in which most of its pixels are kept, and of those the smallest.
Its aspect is kept, with black beside it; tokens of that black are left out again. Tokens follow one another row by row
of the joined tiles, each row ended by a newline, a learned vector. Where they would be more than those of so many
tiles, they are averaged down (bilinear), as `anyres_max_9` does, but in front of the projector and not behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Shape = tuple[int, int]  # rows, columns
TOLERATED = 1.1  # times as many tokens along each side as `most` tiles have


@dataclass(frozen=True)
class TileGrid:
    """How a picture is cut, and what is left of it.

    tiles: rows and columns of them. cut: tokens at the top and at the bottom, at the left and at the right, that are
    black. tokens: rows and columns of those that are given, the newlines not among them.
    """

    tiles: Shape
    cut: Shape
    tokens: Shape

    @property
    def count(self) -> int:
        """Tokens and newlines."""
        return self.tokens[0] * (self.tokens[1] + 1)


def tile_grid(width: int, height: int, grids: Sequence[Shape], *, pixels: int, side: int, most: int) -> TileGrid:
    """The grid of a picture of width × height pixels.

    grids: to choose from. pixels: of a tile's side. side: tokens of a tile's side. most: tiles' worth of tokens, 0 for
    any number.
    """
    rows, columns = best_grid(width, height, grids, pixels)
    whole = (rows * side, columns * side)
    top = left = 0
    if width / height > whole[1] / whole[0]:
        top = (whole[0] - int(round(height * (whole[1] / width), 7))) // 2
    else:
        left = (whole[1] - int(round(width * (whole[0] / height), 7))) // 2
    shape = whole[0] - 2 * top, whole[1] - 2 * left
    times = math.sqrt(shape[0] * shape[1] / (most * side**2)) if most else 0.0
    if times > TOLERATED:
        shape = max(1, int(shape[0] // times)), max(1, int(shape[1] // times))
    return TileGrid((rows, columns), (top, left), shape)


def best_grid(width: int, height: int, grids: Sequence[Shape], pixels: int) -> Shape:
    """The grid that keeps most of a picture's pixels; among equals, the one that wastes least, then the first."""

    def kept(grid: Shape) -> tuple[int, int]:
        rows, columns = grid
        scale = min(columns * pixels / width, rows * pixels / height)
        used = min(int(width * scale) * int(height * scale), width * height)
        return used, -rows * columns

    return max(grids, key=kept)


def squares(picture: Image.Image, tiles: Shape, pixels: int) -> list[Image.Image]:
    """The picture as a whole, in a square whatever its aspect, and then its tiles, row by row."""
    height, width = tiles[0] * pixels, tiles[1] * pixels
    scales = width / picture.width, height / picture.height
    if scales[0] < scales[1]:
        size = width, max(1, min(math.ceil(picture.height * scales[0]), height))
    else:
        size = max(1, min(math.ceil(picture.width * scales[1]), width)), height
    canvas = Image.new("RGB", (width, height))
    canvas.paste(picture.resize(size, Image.Resampling.BICUBIC), ((width - size[0]) // 2, (height - size[1]) // 2))
    corners = [(left, top) for top in range(0, height, pixels) for left in range(0, width, pixels)]
    cut = [canvas.crop((left, top, left + pixels, top + pixels)) for left, top in corners]
    return [picture.resize((pixels, pixels), Image.Resampling.BICUBIC), *cut]


def joined_tiles(tiles: Tensor, grid: TileGrid) -> Tensor:
    """Tokens of the tiles of one picture, [n, side², D], as one plane, [rows, columns, D], without the black."""
    side = math.isqrt(tiles.shape[1])
    plane = tiles.unflatten(1, (side, side)).unflatten(0, grid.tiles).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    top, left = grid.cut
    plane = plane[top : plane.shape[0] - top, left : plane.shape[1] - left]
    if plane.shape[:2] == grid.tokens:
        return plane
    return F.interpolate(plane.permute(2, 0, 1)[None], size=grid.tokens, mode="bilinear")[0].permute(1, 2, 0)
