"""What stores, models and pairs record about an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict

from isthmus.errors import InputError

MAX_ENCODERS = 1000  # most records of one model or store; there is one for each layer


class EncoderRecord(TypedDict, total=False):
    """An encoder as JSON. Imported features lack the unknown fields.

    fingerprint: 64 hex digits that differ when anything that decides the features differs. parts: widths of what
    stands side by side in the features. licence: of the weights, where it is known. compute_dtype: of the forward
    pass; bfloat16_cosine: of its features with float32's, on a sample. Of states of a layer: rate_hz, tokens per second
    where time runs; prefix, how many leading tokens are no patches of an image; stored, "int8" where they are.
    """

    uri: Required[str]
    fingerprint: str
    modality: str
    revision: str | None
    backbone_key: str
    layer: int | None
    pool: str | None
    width: int
    parts: list[int]
    licence: str | None
    compute_dtype: str
    bfloat16_cosine: float
    rate_hz: float | None
    prefix: int
    stored: str
    preprocessing: dict[str, Any]


def check_count(file: Path, records: Any) -> None:
    """Refuse a list of more encoders than any model or store holds."""
    if isinstance(records, list) and len(records) > MAX_ENCODERS:
        raise InputError(f"{file}: {len(records):,} encoders, more than the {MAX_ENCODERS:,} that it may have.")


def modalities_of(records: Mapping[str, Sequence[EncoderRecord]]) -> tuple[str, ...]:
    """What each side takes, by its encoders; where they do not say, what the side is called."""
    return tuple(listed[0].get("modality", side) if listed else side for side, listed in records.items())
