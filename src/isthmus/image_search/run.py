"""`search`: the images that fit a text, or look like an image; or items of another modality that a model joins.

What loads torch is imported where it is needed: an index answers a text without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.data.columns import Columns
from isthmus.data.pairs import Pairs
from isthmus.data.tables import Frame
from isthmus.errors import UsageError
from isthmus.image_search.indexed import check_model, chosen_rows, nearest_pictures, shown_by
from isthmus.image_search.query import AskedQuery, Query, Term
from isthmus.image_search.result import LEAST, SearchResult
from isthmus.index import ImageIndex, is_index, open_index
from isthmus.index.text_graph import text_graph_of
from isthmus.report.contact_sheet import check_image_name

if TYPE_CHECKING:
    from isthmus.models.dual_encoder import DualEncoder
    from isthmus.store import Store


UNKNOWN = "No probabilities: they are known for a text alone, not for pictures and mixes (docs/guide/search.md)."


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
    reading = {"columns": columns, "images": image_folder, "split": split, "pages": pages, "range": range}
    loading: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
    if isinstance(images, ImageIndex):
        if given := [name for name, value in reading.items() if value is not None]:
            raise UsageError(f"{images.path}: an index: {', '.join(given)} are for reading pairs.")
        _check(k, least, out)
        asked = AskedQuery.of(query, plus, minus)
        found = _in_index(model, images, asked, k, label, folder, loading)
    else:
        from isthmus.image_search.unindexed import check_images, search_pairs

        images = check_images(images, reading, out, filtered=label or folder)
        _check(k, least, out)
        asked = AskedQuery.of(query, plus, minus)
        found = search_pairs(_loaded(model, loading), images, asked, k, out)
    found.least, found.asked = least, asked.picture
    if found.hits and not asked.text:
        found.notes = [*found.notes, UNKNOWN]
    if out is not None:
        found.write_sheet(out)
    return found


def _check(k: int, least: float, out: str | Path | None) -> None:
    """Refuse wrong options before anything is encoded."""
    if k < 1:
        raise UsageError(f"k = {k}: at least one image is needed.")
    if out is not None:
        check_image_name(out)
    if not 0 <= least <= 1:
        raise UsageError(f"least = {least}: a probability, from 0 to 1.")


def _loaded(model: DualEncoder | str | Path, loading: dict[str, Any]) -> DualEncoder:
    """A model whose encoders are loaded when they are needed."""
    from isthmus.models.dual_encoder import DualEncoder

    return DualEncoder.from_pretrained(model, encoders={}, **loading) if isinstance(model, str | Path) else model


def _in_index(
    model: DualEncoder | str | Path,
    index: ImageIndex,
    asked: AskedQuery,
    k: int,
    label: str | None,
    folder: str | None,
    loading: dict[str, Any],
) -> SearchResult:
    encoder: Any = None
    if isinstance(model, str | Path) and asked.texts is not None:
        encoder = text_graph_of(index, model, asked.texts)
    if encoder is None:
        encoder = _loaded(model, loading)
        check_model(index, encoder)
    rows = chosen_rows(index, label, folder)
    hits = nearest_pictures(index, asked.embed(encoder), k, rows, asked.text)
    return SearchResult(str(asked), hits, shown=shown_by(index))
