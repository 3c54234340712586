"""`search`: the images that fit a text, or look like an image; or items of another modality that a model joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
from PIL import Image
from tabulate import tabulate

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import SIDES
from isthmus.data.frames import as_pandas
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.tables import Frame
from isthmus.encoders.images import to_pil
from isthmus.errors import UsageError
from isthmus.evaluation.inputs import embed_items
from isthmus.files import write_atomic
from isthmus.image_search.query import check_query, embed_query, is_text
from isthmus.metrics.absence import null_of
from isthmus.metrics.nearest import top_k
from isthmus.modality import Modality, spec_of
from isthmus.models.dual_encoder import DualEncoder
from isthmus.report import Picture, notebook
from isthmus.report.contact_sheet import check_image_name, contact_sheet
from isthmus.store import Store, open_store
from isthmus.store.opening import holds_features, read_first

LEAST = 0.5  # probability: as likely as not


class Hit(TypedDict):
    """An image that was found. score: its cosine with the query. probability: that it fits, if before the search it was
    as likely as not (`isthmus.metrics.absence`); None for a query that is no text."""

    score: float
    id: str
    probability: float | None


@dataclass(repr=False)
class SearchResult:
    """The result of `search`.

    hits: best first; equal images in the order of the data. skipped: (id, reason) of images that could not be read.
    notes: remarks on the data. pairs: the pictures; None if a store's features were searched. least: the probability
    below which nothing fits.
    """

    query: str
    hits: list[Hit]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pairs: Pairs | None = field(default=None, repr=False)
    least: float = LEAST

    @property
    def fits(self) -> bool | None:
        """Whether anything found is as probable as `least`; None where no probability is known."""
        best = max((hit["probability"] for hit in self.hits if hit["probability"] is not None), default=None)
        return None if best is None else best >= self.least

    @property
    def title(self) -> str:
        """The query, and whether nothing fits it."""
        return f"nothing fits: {self.query}" if self.fits is False else self.query

    @property
    def pictures(self) -> bool:
        """Whether there is something to lay out on a contact sheet."""
        return self.pairs is not None and self.pairs.modality == SIDES[0]

    def contact_sheet(self) -> Image.Image:
        """The pictures found, each with its score and id. Raises `UsageError` if no pictures were searched."""
        if self.pairs is None:
            raise UsageError("A store holds no pictures for a contact sheet; search the folder they are in.")
        if not self.pictures:
            raise UsageError(f"There are no pictures of {self.pairs.modality} for a contact sheet.")
        row = {id: i for i, id in enumerate(self.pairs.images["id"].to_pylist())}
        pictures = [self.pairs.decode(row[hit["id"]]) for hit in self.hits]
        return contact_sheet(pictures, [_label(hit) for hit in self.hits], self.title)

    def write_sheet(self, path: str | Path) -> None:
        """The contact sheet as a file."""
        write_atomic(path, self.contact_sheet().save)

    def to_dict(self) -> dict[str, object]:
        """As `isthmus search --json` writes it."""
        told = {"query": self.query, "fits": self.fits, "least": self.least, "hits": self.hits}
        return told | {"skipped": dict(self.skipped)}

    def to_pandas(self) -> Any:
        """A pandas data frame with a row per hit: score, id, probability."""
        return as_pandas(pa.Table.from_pylist([dict(hit) for hit in self.hits]))

    def _repr_html_(self) -> str:
        """The pictures found, in a notebook; without pictures the table."""
        if self.pairs is None or not self.pictures:
            return notebook.rows(["score", "id"], [(f"{hit['score']:.3f}", hit["id"]) for hit in self.hits])
        row = {id: i for i, id in enumerate(self.pairs.images["id"].to_pylist())}
        shown = (Picture(self.pairs.decode(row[hit["id"]]), _label(hit)) for hit in self.hits)
        return notebook.grid(self.title, shown)

    def __repr__(self) -> str:
        known = self.fits is not None
        headers = ["score", *(["probability"] if known else []), "id"]
        rows = [[f"{hit['score']:.3f}", *([_percent(hit)] if known else []), hit["id"]] for hit in self.hits]
        table = tabulate(rows, headers=headers, disable_numparse=True)
        if self.fits is not False:
            return table
        least = f"less than {100 * self.least:.0f} % probable"
        return f"Nothing fits {self.query!r}: {least}. The nearest all the same:\n{table}"


def _percent(hit: Hit) -> str:
    return "" if hit["probability"] is None else f"{100 * hit['probability']:.0f} %"


def _label(hit: Hit) -> str:
    """Under a picture: its score, the probability that it fits, its id."""
    percent = _percent(hit)
    return f"{hit['score']:.3f}{f', {percent}' if percent else ''}\n{hit['id']}"


def search(
    model: DualEncoder | str | Path,
    images: Pairs | Store | Frame | str | Path,
    query: str | Path | Image.Image | np.ndarray,
    *,
    k: int = 20,
    least: float = LEAST,
    out: str | Path | None = None,
    columns: str | Columns | None = None,
    image_folder: str | Path | None = None,
    split: str | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SearchResult:
    """Find the images that are nearest to a text or an image in the model's space.

    Use this when you want to look at what a model finds, or to find pictures in a folder. For numbers, `evaluate`
    with the task retrieval; for many queries, `model.encode_image` and `isthmus.metrics.nearest.top_k`. A model that
    joins other modalities is searched in the same way: by a text or a file, for items of the first of them that is no
    text.

        >>> found = ist.search("model/", "photos/", "a red bicycle", k=8, out="bicycles.png")
        >>> found.hits[0]
        {'score': 0.31, 'id': 'IMG_0412.jpg', 'probability': 0.83}

    Args:
        model: a `DualEncoder`, its folder, or the URI of a pretrained one.
        images: a folder of images, pairs or what `read_pairs` reads (captions are not needed), or a store, whose cached
            features are used.
        query: a text, the path of an image file, or a picture (PIL, or an array uint8 [H, W, 3]). A text that
            looks like a path begins with a space.
        k: how many images, at most.
        least: the probability that some image must have for anything to fit (`SearchResult.fits`).
        out: also write a contact sheet there, which needs the pictures: not of a store.
        columns, image_folder, split, pages, range: of reading pairs, as in `read_pairs`, whose `images` is the folder.
        device, trust_remote_code: for loading a model that is given by its folder or URI.

    Raises:
        UsageError: k below 1, or a sheet that cannot be written; before anything is encoded.
        InputError: images that cannot be used, or a query that looks like a path and is no file.
    """
    images = images.path if isinstance(images, Store) else images
    images = read_first(images, columns=columns, images=image_folder, split=split, pages=pages, range=range)
    cached = holds_features(images)
    _check(k, out, images, cached)
    if not 0 <= least <= 1:
        raise UsageError(f"least = {least}: a probability, from 0 to 1.")
    query = to_pil(query) if isinstance(query, np.ndarray) else query
    check_query(query)
    if isinstance(model, str | Path):
        model = DualEncoder.from_pretrained(model, device=device, trust_remote_code=trust_remote_code)
    wanted, gallery = embed_query(model, query), _gallery(model)
    if out is not None and gallery != SIDES[0]:
        raise UsageError(f"{out}: there are no pictures of {gallery} for a contact sheet.")
    pairs = None
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    if isinstance(images, str | Path) and cached:
        ids, embeddings, captions = _from_store(model, images, gallery)
    else:
        read = images if isinstance(images, Pairs) else read_pairs(images, captions="optional")
        pairs = read.side(gallery)
        found_items = embed_items(model, pairs)
        every = pairs.images["id"].to_pylist()
        ids, embeddings = [every[row] for row in found_items.kept], found_items.emb
        skipped, notes = [*read.skipped, *found_items.skipped], read.notes
        captions = read.captions["caption"].to_pylist()
    scores, rows = (found[0].tolist() for found in top_k(wanted, embeddings, k))
    null = null_of(partial(model.encode, SIDES[1]), embeddings, captions) if is_text(query) else None
    sure = [None] * len(scores) if null is None else null.probability(scores).tolist()
    hits = [Hit(score=s, id=ids[row], probability=p) for s, row, p in zip(scores, rows, sure, strict=True)]
    found = SearchResult("image" if isinstance(query, Image.Image) else str(query), hits, skipped, notes, pairs, least)
    if out is not None:
        found.write_sheet(out)
    return found


def _check(k: int, out: str | Path | None, images: object, cached: bool) -> None:
    """Refuse wrong options before anything is encoded."""
    if k < 1:
        raise UsageError(f"k = {k}: at least one image is needed.")
    if out is not None:
        if cached:
            raise UsageError(f"{out}: {images} is a store, which holds no pictures; name their folder.")
        check_image_name(out)


def _gallery(model: DualEncoder) -> Modality:
    """What is searched: items of the model's first modality that is no text."""
    return next(modality for modality in model.modalities if spec_of(modality).decode is not None)


def _from_store(
    model: DualEncoder, path: str | Path, modality: Modality
) -> tuple[list[str], np.ndarray, list[str | None]]:
    """The ids, embeddings [n, d] of the cached features, and the captions."""
    store, side = open_store(path), model.side_of(modality)
    features = store.features(modality, [record["fingerprint"] for record in model.records[side]])
    captions = store.captions["caption"].to_pylist()
    return store.table(modality).column(0).to_pylist(), model.project(side, features), captions
