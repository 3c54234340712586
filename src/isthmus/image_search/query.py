"""Queries of an image search: a text, the path of an image file, or a picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import EXTENSIONS, FOREIGN
from isthmus.errors import InputError
from isthmus.modality import others, spec_of
from isthmus.models.dual_encoder import DualEncoder


def check_query(query: str | Path | Image.Image) -> None:
    """Raise `InputError` for a query that looks like a path and is no file."""
    if not is_text(query):
        return
    if isinstance(query, Path) or looks_like_path(str(query)):
        raise InputError(
            f"{query}: no such image, though it looks like a path. Name one that exists, or, if it is a text, "
            f"begin it with a space: {f' {query}'!r}."
        )


def looks_like_path(query: str) -> bool:
    """Whether a query was meant for a file: it begins like a path, or ends like a picture or, in one word, any file."""
    if query[:1].isspace():
        return False
    begins = re.match(r"(~|\.{1,2})?[/\\]|[A-Za-z]:[/\\]|file:", query)
    one_word = re.fullmatch(r"\S*[^\s/]/\S*|\S*\w\.[A-Za-z][A-Za-z0-9]{1,4}", query)
    beside = [ending for spec in others().values() for ending in spec.endings]
    return bool(begins or one_word or query.lower().endswith((*EXTENSIONS, *FOREIGN, *beside)))


def is_text(query: str | Path | Image.Image) -> bool:
    """Whether a query is a text: no picture, and no file."""
    return not isinstance(query, Image.Image) and not Path(query).is_file()


def embed_query(model: DualEncoder, query: str | Path | Image.Image) -> np.ndarray:
    """The embedding [1, d] of a picture, of the file that `query` names, or of the text."""
    if isinstance(query, Image.Image):
        return model.encode(SIDES[0], [query])
    if is_text(query):
        return model.encode(SIDES[1], [str(query).strip()])
    files = [modality for modality in model.modalities if spec_of(modality).decode is not None]
    meant = [modality for modality in files if str(query).lower().endswith(spec_of(modality).endings)]
    return model.encode((meant or files)[0], [query])
