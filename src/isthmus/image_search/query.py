"""Queries of an image search: a text, the path of an image file, or a picture."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.data.images import EXTENSIONS, FOREIGN, BadImage, decode
from isthmus.data.sources import read_file
from isthmus.errors import InputError, UsageError
from isthmus.modality import others, spec_of

if TYPE_CHECKING:
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


@dataclass(frozen=True)
class AskedQuery:
    """A query, checked: what is asked for, with what is added and taken away."""

    query: Query
    plus: list[tuple[Query, float]]
    minus: list[tuple[Query, float]]

    @classmethod
    def of(cls, query: Query | np.ndarray, plus: Any, minus: Any) -> AskedQuery:
        if isinstance(query, np.ndarray):
            from isthmus.encoders.images import to_pil  # loads torch, which a text does without

            query = to_pil(query)
        check_query(query)
        return cls(query, as_terms(plus), as_terms(minus))

    @property
    def text(self) -> bool:
        """Whether it is a text and nothing else, which alone has probabilities."""
        return is_text(self.query) and not self.plus and not self.minus

    @property
    def texts(self) -> list[str] | None:
        """The texts that it is made of; None where a picture or a file is among them."""
        parts = [self.query, *(term for term, _ in (*self.plus, *self.minus))]
        return [str(part) for part in parts] if all(map(is_text, parts)) else None

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
