"""Lengths of texts in tokens: how long they are, where an encoder cuts them, and how far that limit can be moved."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isthmus.encoders.base import Encoder
from isthmus.encoders.fingerprint import digest
from isthmus.errors import UsageError

AT_ONCE = 1024  # texts that are tokenised at a time


@dataclass(frozen=True)
class Tokens:
    """Of n texts. count: int64 [n], tokens of the whole text with the encoder's prompt and its special tokens.
    unknown: int64 [n], how many of them stand for something the tokenizer does not know. special: how many of each
    text's tokens are prompt and special ones.
    """

    count: np.ndarray
    unknown: np.ndarray
    special: int


def tokenize(encoder: Encoder, texts: Sequence[str]) -> Tokens | None:
    """Count tokens, nothing cut off. None for an encoder without access to its tokenizer (a callable)."""
    if not hasattr(encoder, "token_ids"):
        return None
    unknown_id: int | None = getattr(encoder, "unknown_id", None)
    count, unknown = [], []
    for start in range(0, len(texts), AT_ONCE):
        for ids in encoder.token_ids(list(texts[start : start + AT_ONCE])):
            count.append(len(ids))
            unknown.append(0 if unknown_id is None else ids.count(unknown_id))
    return Tokens(np.array(count, np.int64), np.array(unknown, np.int64), len(encoder.token_ids([""])[0]))


def token_limit(encoder: Encoder) -> int | None:
    """The number of tokens the encoder reads of a text, special ones included; None if it has no limit."""
    return getattr(encoder, "max_tokens", None)


def token_ceiling(encoder: Encoder) -> int | None:
    """The most tokens it could read: the positions of its network; None if there is no limit."""
    return getattr(encoder, "position_limit", None)


def cut_notes(encoders: Iterable[Encoder], captions: Sequence[str]) -> list[str]:
    """A remark for each text encoder that cuts some of `captions`, with their number.

    Distinct captions are tokenised once by each encoder; encoders without known tokens or limit have no remark.
    """
    repeats = Counter(captions)
    times, notes = np.fromiter(repeats.values(), np.int64), []
    for encoder in encoders:
        limit = token_limit(encoder)
        tokens = None if limit is None else tokenize(encoder, list(repeats))
        longer = 0 if tokens is None else int(times[tokens.count > limit].sum())
        if longer:
            which = f"{longer:,} of {len(captions):,} captions are longer than the {limit} tokens"
            notes.append(f"{which} that {encoder.uri.backbone()} reads; they are cut.")
    return notes


def with_max_tokens(encoder: Encoder, count: int) -> Encoder:
    """The same frozen network (shared, not copied), reading `count` tokens of a text, with another fingerprint.

    Equal to loading its URI with `max_tokens=count`. Raises UsageError beyond the network's positions, and for
    encoders whose length cannot be set.
    """
    if not hasattr(encoder, "token_ids"):
        raise UsageError(f"{encoder.uri}: the length of its texts cannot be set.")
    ceiling = token_ceiling(encoder)
    if count < 3 or (ceiling is not None and count > ceiling):
        why = "room for a word and its special tokens" if count < 3 else "the model has no more positions"
        raise UsageError(f"{encoder.uri}: max_tokens is from 3 to {ceiling or 'any number'}, not {count}: {why}.")
    view: Any = copy.copy(encoder)
    view.max_tokens, view.uri = count, replace(encoder.uri, max_tokens=count)
    view.ingredients = {**encoder.ingredients, "max_tokens": count}
    view.backbone_key = digest(view.ingredients)
    return view
