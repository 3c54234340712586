"""The encoders behind a pool's features: what turns a concept's name or picture into the same space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.matrix import Matrix
from isthmus.encoders import Encoder, load_encoder, load_recorded
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, UsageError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.saved import check_encoders


@dataclass
class Encode:
    """A function of a list of items, to features float32 [n, width]. fingerprints: of the encoders side by side."""

    function: Callable[[list[Any]], np.ndarray]
    width: int
    fingerprints: list[str] = field(default_factory=list)

    def __call__(self, items: Sequence[Any]) -> np.ndarray:
        return self.function(list(items))


@dataclass
class Encoding:
    """At most one text and one image encoder. joint: both give vectors of one space (CLIP, a dual encoder)."""

    text: Encode | None = None
    image: Encode | None = None
    joint: bool = False
    name: str = ""
    model: DualEncoder | None = field(default=None, repr=False)

    def named(self) -> dict[str, list[str]]:
        """Fingerprints by modality, to choose among the encoders of a store."""
        both = (("text", self.text), ("image", self.image))
        return {modality: encode.fingerprints for modality, encode in both if encode and encode.fingerprints}

    def projected(self, modality: str, matrix: Matrix) -> Matrix:
        """Features as they are, or as the dual encoder projects them."""
        return matrix if self.model is None else self.model.projected(modality, matrix)


def load_encoding(given: Any, **options: Any) -> Encoding:
    """The encoders given (None, one, or a list): a text and an image encoder, one model with both towers, or a dual
    encoder's folder.

    options: device, trust_remote_code, as for `load_encoder`. Raises UsageError for two encoders of one modality,
    and what `load_encoder` raises.
    """
    names = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    if len(names) == 1:
        model = _dual_encoder(names[0], options)
        if model is not None:
            return _of_model(model, str(names[0]) if isinstance(names[0], str | Path) else "dual encoder")
        if isinstance(names[0], str):
            towers = _both_towers(names[0], options)
            return Encoding(side_by_side(towers[:1]), side_by_side(towers[1:]), joint=all(towers), name=names[0])
    encoders = [load_encoder(one, **options) for one in names]
    by_modality: dict[str, list[Encoder | None]] = {"text": [], "image": []}
    for encoder in encoders:
        by_modality[encoder.modality].append(encoder)
    for modality, found in by_modality.items():
        if len(found) > 1:
            raise UsageError(f"Two {modality} encoders are named; a pool's features come from one.")
    text, image = (side_by_side(by_modality[modality]) for modality in ("text", "image"))
    return Encoding(text, image, name=" ".join(map(str, names)))


def encoding_of(records: dict[str, list[EncoderRecord]], wanted: Sequence[Modality], **options: Any) -> Encoding:
    """The encoders that made a store's features, of the modalities wanted; those side by side stay so.

    Raises InputError where one is no longer what made them, or is known only by its output.
    """
    found: dict[str, Encode | None] = {}
    for modality in wanted:
        for record in records[modality]:
            if record["uri"].partition(":")[0] in ("array", "callable"):
                raise InputError(
                    f"The pool's {modality} features are by {record['uri']}, which cannot be loaded by its name: "
                    "name the encoder that made them (--encoder URI)."
                )
        loaded = load_recorded([record["uri"] for record in records[modality]], modality=modality, **options)
        check_encoders(loaded, records[modality])
        found[modality] = side_by_side(loaded)
    return Encoding(**found)  # type: ignore[arg-type]


def side_by_side(encoders: Sequence[Encoder | None]) -> Encode | None:
    """Several encoders of one modality as one; None where there is none."""
    chosen = [encoder for encoder in encoders if encoder is not None]
    if not chosen:
        return None
    return Encode(
        lambda items: np.concatenate([encoder.encode(items) for encoder in chosen], axis=1),
        sum(encoder.width for encoder in chosen),
        [encoder.fingerprint for encoder in chosen],
    )


def _dual_encoder(name: Any, options: dict[str, Any]) -> DualEncoder | None:
    if isinstance(name, DualEncoder):
        return name
    if isinstance(name, str | Path) and (Path(name) / "config.json").is_file() and ":" not in str(name):
        return DualEncoder.from_pretrained(name, **options)
    return None


def _of_model(model: DualEncoder, name: str) -> Encoding:
    text, image = (
        Encode(function, model.width, [record["fingerprint"] for record in model.records[modality]])
        for function, modality in ((model.encode_text, "text"), (model.encode_image, "image"))
    )
    return Encoding(text, image, joint=True, name=name, model=model)


def _both_towers(uri: str, options: dict[str, Any]) -> list[Encoder | None]:
    """[text encoder, image encoder] of a name that stands for one of them or for both."""
    towers: list[Encoder | None] = []
    errors: list[UsageError] = []
    modalities: tuple[Modality, ...] = ("text", "image")
    for modality in modalities:
        try:
            towers.append(load_encoder(uri, modality=modality, **options))
        except UsageError as error:
            towers.append(None)
            errors.append(error)
    if not any(towers):
        raise errors[0]
    return towers
