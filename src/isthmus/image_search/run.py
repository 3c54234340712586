"""`search`: the images that fit a text, or look like an image; or items of another modality that a model joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import BadImage, decode
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.sources import read_file
from isthmus.data.tables import Frame
from isthmus.encoders.images import to_pil
from isthmus.errors import UsageError
from isthmus.evaluation.inputs import embed_items
from isthmus.image_search.indexed import check_model, chosen_rows, nearest_pictures, shown_by
from isthmus.image_search.query import Query, Term, as_terms, check_query, embed_mix, is_text
from isthmus.image_search.result import LEAST, Hit, SearchResult
from isthmus.index import ImageIndex, is_index, open_index
from isthmus.metrics.absence import null_of
from isthmus.metrics.nearest import top_k
from isthmus.modality import Modality, spec_of
from isthmus.models.dual_encoder import DualEncoder
from isthmus.report.contact_sheet import check_image_name
from isthmus.store import Store, open_store
from isthmus.store.opening import holds_features, read_first


def search(
    model: DualEncoder | str | Path,
    images: Pairs | Store | ImageIndex | Frame | str | Path,
    query: Query | np.ndarray,
    *,
    k: int = 20,
    plus: Term | Sequence[Term] = (),
    minus: Term | Sequence[Term] = (),
    label: str | None = None,
    folder: str | None = None,
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

    Use this when you want to look at what a model finds, or to find pictures in a folder. A folder is encoded for every
    search; an index (`build_index`) is encoded once and answers at once. For numbers, `evaluate` with the task
    retrieval; for many queries, `model.encode_image` and `isthmus.metrics.nearest.top_k`. A model that joins other
    modalities is searched in the same way: by a text or a file, for items of the first of them that is no text.

        >>> found = ist.search("model/", "photos/", "a red bicycle", k=8, out="bicycles.png")
        >>> found.hits[0]
        {'score': 0.31, 'id': 'IMG_0412.jpg', 'probability': 0.83}
        >>> ist.search("model/", "photos.index/", "IMG_0412.jpg", plus="red", minus=[("a bicycle", 0.5)])

    Args:
        model: a `DualEncoder`, its folder, or the URI of a pretrained one.
        images: a folder of images, pairs or what `read_pairs` reads (captions are not needed), or a store, whose cached
            features are used, or an index or its folder.
        query: a text, the path of an image file, or a picture (PIL, or an array uint8 [H, W, 3]). A text that
            looks like a path begins with a space.
        k: how many images, at most.
        plus, minus: texts, paths or pictures, one or a list, that are added to the query or taken from it, "this, but
            red"; each with a weight if it is a tuple with one, or a text that ends in `:weight`.
        label, folder: only pictures with this label, or in this folder or one below it; of an index.
        least: the probability that some image must have for anything to fit (`SearchResult.fits`).
        out: also write a contact sheet there, which needs the pictures: not of a store.
        columns, image_folder, split, pages, range: of reading pairs, as in `read_pairs`, whose `images` is the folder.
        device, trust_remote_code: for loading a model that is given by its folder or URI. Of its encoders only those
            are loaded that are needed.

    Raises:
        UsageError: k below 1, or a sheet that cannot be written; before anything is encoded. A filter that leaves
            nothing, or for what is no index.
        InputError: images that cannot be used, an index of another model, or a query that looks like a path and is no
            file.
    """
    if isinstance(images, str | Path) and is_index(images):
        images = open_index(images)
    if isinstance(images, Store):
        images = images.path
    reading: dict[str, Any] = {
        "columns": columns,
        "images": image_folder,
        "split": split,
        "pages": pages,
        "range": range,
    }
    if not isinstance(images, ImageIndex):
        images = read_first(images, **reading)
    elif given := [name for name, value in reading.items() if value is not None]:
        raise UsageError(f"{images.path}: an index: {', '.join(given)} are for reading pairs.")
    _check(k, out, images, least, label or folder)
    wanted = _Asked.of(query, plus, minus)
    if isinstance(model, str | Path):
        loading: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
        model = DualEncoder.from_pretrained(model, encoders={}, **loading)
    if isinstance(images, ImageIndex):
        found = _in_index(model, images, wanted, k, label, folder)
    else:
        found = _in_pairs(model, images, wanted, k, out)
    found.least, found.asked = least, wanted.picture
    if out is not None:
        found.write_sheet(out)
    return found


@dataclass(frozen=True)
class _Asked:
    """A query, checked: what is asked for, with what is added and taken away."""

    query: Query
    plus: list[tuple[Query, float]]
    minus: list[tuple[Query, float]]

    @classmethod
    def of(cls, query: Query | np.ndarray, plus: Any, minus: Any) -> _Asked:
        asked = to_pil(query) if isinstance(query, np.ndarray) else query
        check_query(asked)
        return cls(asked, as_terms(plus), as_terms(minus))

    @property
    def text(self) -> bool:
        """Whether it is a text and nothing else, which alone has probabilities."""
        return is_text(self.query) and not self.plus and not self.minus

    @property
    def picture(self) -> Image.Image | None:
        """The picture that is asked for."""
        if isinstance(self.query, Image.Image):
            return self.query
        try:
            return None if is_text(self.query) else decode(read_file(Path(self.query)))
        except BadImage:  # of another modality
            return None

    def embed(self, model: DualEncoder) -> np.ndarray:
        """[1, d]."""
        return embed_mix(model, self.query, self.plus, self.minus)

    def __str__(self) -> str:
        terms = [("+", one) for one in self.plus] + [("−", one) for one in self.minus]
        return " ".join([_said(self.query), *(f"{sign} {_weighted(*term)}" for sign, term in terms)])


def _said(query: Query) -> str:
    return "image" if isinstance(query, Image.Image) else str(query)


def _weighted(query: Query, weight: float) -> str:
    return _said(query) if weight == 1 else f"{weight:g} × {_said(query)}"


def _check(k: int, out: str | Path | None, images: object, least: float, filtered: str | None) -> None:
    """Refuse wrong options before anything is encoded."""
    if k < 1:
        raise UsageError(f"k = {k}: at least one image is needed.")
    if out is not None:
        if holds_features(images):
            raise UsageError(f"{out}: {images} is a store, which holds no pictures; name their folder.")
        check_image_name(out)
    if not 0 <= least <= 1:
        raise UsageError(f"least = {least}: a probability, from 0 to 1.")
    if filtered and not isinstance(images, ImageIndex):
        raise UsageError("Only an index is filtered by label or folder: make one with `isthmus index`.")


def _in_index(
    model: DualEncoder, index: ImageIndex, asked: _Asked, k: int, label: str | None, folder: str | None
) -> SearchResult:
    check_model(index, model)
    rows = chosen_rows(index, label, folder)
    hits = nearest_pictures(index, asked.embed(model), k, rows, asked.text)
    return SearchResult(str(asked), hits, shown=shown_by(index))


def _in_pairs(model: DualEncoder, images: Any, asked: _Asked, k: int, out: str | Path | None) -> SearchResult:
    """In a store's features, or in pictures that are all encoded now."""
    wanted, gallery = asked.embed(model), _gallery(model)
    if out is not None and gallery != SIDES[0]:
        raise UsageError(f"{out}: there are no pictures of {gallery} for a contact sheet.")
    pairs = None
    skipped: list[tuple[str, str]] = []
    notes: list[str] = []
    if isinstance(images, str | Path) and holds_features(images):
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
    null = null_of(partial(model.encode, SIDES[1]), embeddings, captions) if asked.text else None
    sure = [None] * len(scores) if null is None else null.probability(scores).tolist()
    hits = [Hit(score=s, id=ids[row], probability=p) for s, row, p in zip(scores, rows, sure, strict=True)]
    return SearchResult(str(asked), hits, skipped, notes, pairs)


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
