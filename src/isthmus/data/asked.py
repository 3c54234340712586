"""Questions about pictures, with the answers that count: what `vqa`, `entailment` and training on answers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from isthmus.data.answers import written
from isthmus.data.pairs import Pairs, pairs_from_lists
from isthmus.data.records import ANSWERS
from isthmus.errors import InputError, UsageError


@dataclass(frozen=True)
class Asked:
    """A question about a picture, or a statement about it.

    image: the picture's id. scores: what each accepted answer earns, in (0, 1]. kind: of the question, for a line of
    its own in results; "" for none. place: where it stands, for messages.
    """

    image: str
    question: str
    scores: dict[str, float]
    kind: str = ""
    split: str | None = None
    place: str = ""


def _as_written(answer: str) -> str:
    return answer


@dataclass(frozen=True)
class AskedQuestions:
    """Questions and the pictures that they are about.

    pairs: the pictures, each with its questions as captions, with their answers: what `isthmus.embed` takes.
    asked: in the order read.
    normalise: what is done to an answer before it is looked up among `Asked.scores`, whose keys it was done to already.
    """

    pairs: Pairs
    asked: Sequence[Asked]
    name: str
    normalise: Callable[[str], str] = field(default=_as_written)

    def __len__(self) -> int:
        return len(self.asked)

    def score(self, asked: Asked, answer: str) -> float:
        """What `answer` earns."""
        return asked.scores.get(self.normalise(answer), 0.0)

    def answers(self) -> list[str]:
        """All accepted answers, sorted."""
        return sorted({answer for one in self.asked for answer in one.scores})

    def of_split(self, split: str | None) -> AskedQuestions:
        """Those of one split; None: all. Raises `UsageError` where there are none."""
        if split is None:
            return self
        kept = [one for one in self.asked if one.split == split]
        if not kept:
            there = ", ".join(sorted({one.split for one in self.asked if one.split})) or "none"
            raise UsageError(f"{self.name}: no questions of split {split!r}; splits are: {there}.")
        images = dict.fromkeys(one.image for one in kept)
        return AskedQuestions(self.pairs.subset(images), kept, self.name, self.normalise)


def asked_questions(
    name: str,
    asked: Iterable[Asked],
    paths: Callable[[str], Any],
    normalise: Callable[[str], str] = _as_written,
) -> AskedQuestions:
    """The questions with their pictures. paths: the file of a picture by its id.

    Raises `InputError` where there is no question. A picture that is missing shows when it is read.
    """
    listed = list(asked)
    if not listed:
        raise InputError(f"{name}: no questions.")
    by_image: dict[str, list[str]] = {}
    for one in listed:
        by_image.setdefault(one.image, []).append(one.question)
    captions = [list(dict.fromkeys(questions)) for questions in by_image.values()]
    pairs = pairs_from_lists([paths(id) for id in by_image], captions, ids=list(by_image))
    splits = {one.image: one.split for one in listed}
    split = pa.array([splits[id] for id in pairs.images["id"].to_pylist()], pa.string())
    column = pairs.images.column_names.index("split")
    images = pairs.images.set_column(column, "split", split)
    pairs = pairs.having(images, pairs.captions.append_column(ANSWERS, _answers(listed, pairs.captions)))
    pairs.path = Path(name)
    return AskedQuestions(pairs, listed, name, normalise)


def _answers(asked: Sequence[Asked], captions: pa.Table) -> pa.Array:
    """The answers to each caption, as a store keeps them."""
    known = {(one.image, one.question): written(one.scores) for one in asked}
    rows = captions.select(["id", "caption"]).to_pylist()
    return pa.array([known.get((row["id"], row["caption"])) for row in rows], pa.string())
