"""Presets that evaluate as two papers do; each lists how it still differs from the paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from isthmus.data.pairs import Pairs
from isthmus.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Protocol:
    """A paper's evaluation.

    sets: of its tables. splits: of sets where not the reader's own. templates: prompts for every class, in place of
    CLIP's for each set. captions: use only the first so many captions of an image. caption: what is done to each.
    padded, renormalise: of descriptions, see `class_embeddings`.
    segmentation: options of the task. differs: how the original still differs.
    """

    name: str
    sets: tuple[str, ...]
    splits: Mapping[str, str] = field(default_factory=dict)
    templates: tuple[str, ...] | None = None
    captions: int | None = None
    caption: Callable[[str], str] | None = None
    padded: int | None = None
    renormalise: bool = True
    segmentation: Mapping[str, Any] = field(default_factory=dict)
    differs: tuple[str, ...] = ()

    def remarks(self) -> list[str]:
        """The remaining differences from the paper, as remarks."""
        return [f"protocol {self.name}: {text}" for text in self.differs]

    def prepared(self, pairs: Pairs) -> Pairs:
        """`pairs` with captions selected and treated as in the paper."""
        table = pairs.captions
        if self.captions is not None:
            seen: dict[str, int] = {}
            kept = []
            for row, id in enumerate(table["id"].to_pylist()):
                seen[id] = seen.get(id, 0) + 1
                if seen[id] <= self.captions:
                    kept.append(row)
            table = table.take(pa.array(kept, pa.int64()))
        if self.caption is not None:
            texts = [self.caption(text) for text in table["caption"].to_pylist()]
            table = table.set_column(table.column_names.index("caption"), "caption", pa.array(texts, pa.string()))
        return pairs.having(pairs.images, table)


def plain_words(caption: str, most: int = 30) -> str:
    """A caption in lower case, without punctuation, cut to its first words: freeze-align's `pre_caption`, which is
    ALBEF's (Li et al., NeurIPS 2021). A caption of which nothing would remain stays as it is.
    """
    bare = re.sub(r"[,.'!?\"()*#:;~]", "", caption.lower()).replace("-", " ").replace("/", " ")
    words = re.sub(r"\s{2,}", " ", bare.replace("<person>", "person")).rstrip("\n").strip(" ").split(" ")
    return " ".join(words[:most]) or caption


FREEZE_ALIGN = Protocol(
    name="freeze-align",
    sets=(
        *("imagenet1k", "imagenetv2", "imagenet-a", "caltech101", "pets", "cars", "flowers", "food101", "sun397"),
        *("fgvc_aircraft", "dtd", "cub", "eurosat", "ucf101", "fashion_mnist", "flickr30k", "mscoco_captions"),
    ),
    splits={"sun397": "all", "eurosat": "all", "caltech101": "all", "ucf101": "all", "mscoco_captions": "val"},
    templates=("photo of {}",),
    caption=plain_words,
    padded=19,
    renormalise=False,
    segmentation={"size": 256, "templates": ("{}",), "cls": False},
    differs=(
        "pictures pass through the encoder's own preprocessing (published: squashed to 256 × 256, with CLIP's mean and "
        "deviation in classification)",
        "all classes and captions are ranked (published: those outside the first k_test, 7 to 128, are out)",
        "class names are CLIP's (published: torchvision's)",
        "COCO is Karpathy's val, as the configuration of its last evaluation names; which one the table is from is not "
        "known",
        "descriptions are not packaged: give them with --descriptions; which of both gave 76.3 % is not known",
    ),
)
SAIL = Protocol(
    name="sail",
    sets=(
        *("food101", "cifar10", "cifar100", "sun397", "cars", "fgvc_aircraft", "dtd", "pets", "caltech101"),
        *("flowers", "imagenet1k", "imagenetv2", "flickr30k", "mscoco_captions"),
    ),
    splits={"sun397": "all", "caltech101": "all", "mscoco_captions": "val2017"},
    captions=5,
    segmentation={
        **{"size": 448, "window": 448, "stride": 224, "longest": 2048, "resample": "bilinear"},
        **{"normalise": "clip", "templates": "imagenet"},
    },
    differs=(
        "COCO is val2017 with the first five captions, as its own eval.py has it; whether the table is from there or "
        "from CLIP_benchmark's split is not known",
        "the sets beside ImageNet and COCO are CLIP_benchmark's: all pictures of SUN397 and Caltech-101",
        "segmentation: pictures are resized by Pillow, with antialiasing (published: OpenCV, without), and a window "
        "that is no whole number of patches is resized to one (published: padded with zeros)",
    ),
)
PROTOCOLS = {one.name: one for one in (FREEZE_ALIGN, SAIL)}


def find_protocol(name: str | None) -> Protocol | None:
    """The preset with this name, None for None. Raises `UsageError` for another name."""
    if name is None or name in PROTOCOLS:
        return None if name is None else PROTOCOLS[name]
    raise UsageError(f"No protocol {name!r}: there are {', '.join(PROTOCOLS)}.{did_you_mean(name, PROTOCOLS)}")
