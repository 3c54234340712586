"""Queries of an image search: a text, the path of an image file, or a picture."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import EXTENSIONS, FOREIGN
from isthmus.errors import InputError, UsageError
from isthmus.modality import others, spec_of
from isthmus.models.dual_encoder import DualEncoder

Query = str | Path | Image.Image
Term = Query | tuple[Query, float]  # what is added to a query or taken from it, and how much of it
LEAST_LENGTH = 1e-4  # of a mix; of a shorter one nothing is left


def parse_term(term: Term) -> tuple[Query, float]:
    """What a term names and its weight: `"red:0.5"` and `("red", 0.5)` alike; without one it is 1. Raises `UsageError`
    for a weight that is not above 0.
    """
    if isinstance(term, tuple):
        query, weight = term
    else:
        text, colon, number = term.rpartition(":") if isinstance(term, str) else ("", "", "")
        weighted = bool(colon and text.strip() and re.fullmatch(r"\d*\.?\d+", number))
        query, weight = (text, float(number)) if weighted else (term, 1.0)
    if not (math.isfinite(weight) and weight > 0):
        raise UsageError(f"{query}: a weight of {weight}; weights are above 0, and --minus takes away.")
    return query, float(weight)


def as_terms(terms: Term | Sequence[Term]) -> list[tuple[Query, float]]:
    """One term or several, each with its weight; those that look like a path must be files."""
    one = isinstance(terms, str | Path | Image.Image) or (
        isinstance(terms, tuple) and len(terms) == 2 and not isinstance(terms[1], str)
    )
    listed = [terms] if one else list(terms)  # type: ignore[arg-type]
    parsed = [parse_term(one) for one in listed]  # type: ignore[arg-type]
    for query, _ in parsed:
        check_query(query)
    return parsed


def embed_mix(
    model: DualEncoder, query: Query, plus: Sequence[tuple[Query, float]], minus: Sequence[tuple[Query, float]]
) -> np.ndarray:
    """The embedding [1, d] of a query, with terms added and taken away, each by its weight; L2-normalised.

    Raises `UsageError` where nothing is left of it.
    """
    mixed = embed_query(model, query)
    for sign, terms in ((1, plus), (-1, minus)):
        for term, weight in terms:
            mixed = mixed + sign * weight * embed_query(model, term)
    length = float(np.linalg.norm(mixed))
    if length < LEAST_LENGTH:
        raise UsageError("What is added and taken away cancels out; nothing is left to search for.")
    return mixed / np.float32(length)


def check_query(query: Query) -> None:
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


def is_text(query: Query) -> bool:
    """Whether a query is a text: no picture, and no file."""
    return not isinstance(query, Image.Image) and not Path(query).is_file()


def embed_query(model: DualEncoder, query: Query) -> np.ndarray:
    """The embedding [1, d] of a picture, of the file that `query` names, or of the text."""
    if isinstance(query, Image.Image):
        return model.encode(SIDES[0], [query])
    if is_text(query):
        return model.encode(SIDES[1], [str(query).strip()])
    files = [modality for modality in model.modalities if spec_of(modality).decode is not None]
    meant = [modality for modality in files if str(query).lower().endswith(spec_of(modality).endings)]
    return model.encode((meant or files)[0], [query])
