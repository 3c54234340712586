"""What decides the shape of a language model that sees: sections of its recipes, and the plan that they become."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from isthmus.fusion.language.grids import TileGrid, tile_grid
from isthmus.values import within


@dataclass(frozen=True)
class LanguageOptions:
    """The `[language]` section of a recipe.

    model: a causal language model, `hf:` or `wheel:`. template: a file with a chat template (Jinja) in place of the
    model's own. system: what the system says first; "": what the template says by itself.
    unfreeze: how many of the model's last layers are trained too; lora: rank of adapters on its attention (needs
    isthmus[lora]), 0 for none. caption: what is asked where a text of the data is no question.
    pack: tokens of a row that short sequences share; 0: each has a row of its own, padded.
    """

    model: str = "hf:HuggingFaceTB/SmolLM2-135M-Instruct"
    template: str = ""
    system: str = ""
    unfreeze: int = within(0, 0)
    lora: int = within(0, 0, 1024)
    caption: str = "Describe the picture."
    pack: int = within(256, 0, 65536)


@dataclass(frozen=True)
class PictureOptions:
    """The `[picture]` section: what of the image encoder becomes tokens of the language model.

    layers: which of the store's layers, side by side where several; (): the last that is stored.
    tokens: of a picture, averaged on a square grid; 0: as many as the encoder has patches. cls: one more, the encoder's
    first token (the mean of the patches where it has none).
    grids: rows and columns of tiles, of which each picture takes the grid that fits it, behind the picture as a whole;
    each tile has the encoder's own size, and `tokens` tokens. (): the picture as a whole alone. tiles: as many tokens
    as these have are not exceeded much, 0: any number (`isthmus.fusion.language.grids`).
    projector: "mlp" (two layers, GELU) or "linear". norm: "data" takes out each feature's mean and spread in the
    training data, since layers of one encoder differ twentyfold.
    head: a trained dual encoder of isthmus, whose image head is put on every token before.
    blind: pictures are replaced by zeros: what training alone teaches. With grids, the number of tokens still tells a
    picture's shape.
    """

    layers: tuple[int, ...] = within((), 0)
    tokens: int = within(0, 0, 4096)
    grids: tuple[tuple[int, int], ...] = ()
    tiles: int = within(9, 0, 4096)
    cls: bool = False
    projector: Literal["mlp", "linear"] = "mlp"
    norm: Literal["data", "none"] = "data"
    head: str = ""
    blind: bool = False


@dataclass(frozen=True)
class ManagerOptions:
    """The `[managers]` section: layers of the image encoder, added to the picture's tokens before decoder layers.

    every: before decoder layers 0, every, 2·every, …; 0: no managers. layers: which of the store's layers they weigh;
    (): all that are stored. jitter: in training, each weight is multiplied by one of 1 ± jitter.
    """

    every: int = within(0, 0)
    layers: tuple[int, ...] = within((), 0)
    jitter: float = within(0.02, 0, 0.5)


@dataclass(frozen=True)
class LanguagePlan:
    """All that decides a network's shape, beside the language model.

    widths: of the layers read, in the order of `records`. fed: places among them of those that become tokens;
    managed: of those that the managers weigh. tokens: of a picture, `cls` included. patches: of the encoder, in each
    layer. prefix: its leading tokens that are no patches. hidden: width of the language model.
    before: the decoder layers that managers stand before. head: of a `TokenProjector`, its `config()`.
    grids, tiles: as in `PictureOptions`. pixels: of a tile's side, where there are grids.
    """

    widths: list[int]
    fed: list[int]
    tokens: int
    patches: list[int]
    prefix: int
    hidden: int
    managed: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    cls: bool = False
    projector: str = "mlp"
    norm: str = "data"
    blind: bool = False
    jitter: float = 0.0
    head: dict[str, Any] | None = None
    unfreeze: int = 0
    lora: int = 0
    grids: list[list[int]] = field(default_factory=list)
    tiles: int = 0
    pixels: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> LanguagePlan:
        """From `to_dict`. Raises TypeError for anything else."""
        return cls(**found)

    @property
    def side(self) -> int:
        """Tokens along one side of a picture's grid."""
        return round((self.tokens - self.cls) ** 0.5)

    def grid_of(self, width: int, height: int) -> TileGrid:
        """The grid that a picture of so many pixels is cut into, where there are grids."""
        grids = [(rows, columns) for rows, columns in self.grids]
        return tile_grid(width, height, grids, pixels=self.pixels, side=self.side, most=self.tiles)

    def tokens_of(self, width: int, height: int) -> int:
        """Tokens of a picture of so many pixels."""
        return self.tokens + (self.grid_of(width, height).count if self.grids else 0)

    @property
    def token_widths(self) -> list[int]:
        """Widths of the layers as the projector meets them: those of a head where there is one."""
        return [int(self.head["width"])] * len(self.widths) if self.head else list(self.widths)

    @property
    def shared(self) -> bool:
        """Whether one projector serves all layers: they are of one width, and one of them becomes tokens."""
        return len(set(self.token_widths)) == 1 and len(self.fed) == 1
