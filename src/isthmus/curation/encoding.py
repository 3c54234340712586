"""The encoders of a pool's features: they bring a concept's name or picture into the same space."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.encoder_record import EncoderRecord, modalities_of
from isthmus.data.feature_pairs import SIDES
from isthmus.data.matrix import Matrix
from isthmus.encoders import Encoder, load_encoder, load_recorded
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, UsageError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.saved import check_encoders


@dataclass
class Encode:
    """A function from a list of items to features float32 [n, width]. fingerprints: of its encoders, in order."""

    function: Callable[[list[Any]], np.ndarray]
    width: int
    fingerprints: list[str] = field(default_factory=list)

    def __call__(self, items: Sequence[Any]) -> np.ndarray:
        return self.function(list(items))


@dataclass
class Encoding:
    """At most one text and one image encoder. joint: both give vectors of one space (CLIP, a dual encoder).

    modalities: what the first side, called image here, and the second, called text, are of.
    """

    text: Encode | None = None
    image: Encode | None = None
    joint: bool = False
    name: str = ""
    model: DualEncoder | None = field(default=None, repr=False)
    modalities: tuple[Modality, Modality] = SIDES

    @property
    def of_texts(self) -> bool:
        """Whether the second side is texts, which concepts can be named in."""
        return self.modalities[1] == SIDES[1]

    def named(self) -> dict[str, list[str]]:
        """Fingerprints by modality, to choose among the encoders of a store."""
        both: dict[str, Encode | None] = {side: getattr(self, side) for side in SIDES}
        return {side: encode.fingerprints for side, encode in both.items() if encode and encode.fingerprints}

    def projected(self, modality: str, matrix: Matrix) -> Matrix:
        """Features as they are, or as the dual encoder projects them."""
        return matrix if self.model is None else self.model.projected(modality, matrix)


def load_encoding(given: Any, modalities: tuple[Modality, Modality] = SIDES, **options: Any) -> Encoding:
    """The encoders given (None, one, or a list): a text and an image encoder, one model with both towers, or a dual
    encoder's folder.

    modalities: of the two sides; a dual encoder brings its own.
    options: device, trust_remote_code, as for `load_encoder`. Raises UsageError for two encoders of one modality,
    and what `load_encoder` raises.
    """
    names = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    if len(names) == 1:
        model = _dual_encoder(names[0], options)
        if model is not None:
            return _of_model(model, str(names[0]) if isinstance(names[0], str | Path) else "dual encoder")
        if isinstance(names[0], str):
            towers = _both_towers(names[0], modalities, options)
            joint = len(towers) == len(SIDES)
            return Encoding(**_sides(towers, modalities), joint=joint, name=names[0], modalities=modalities)
    named: dict[str, Encoder] = {}
    for encoder in (load_encoder(one, **options) for one in names):
        if encoder.modality not in modalities:
            raise UsageError(
                f"{encoder.uri}: is an encoder of {encoder.modality}; this pool has {' and '.join(modalities)}, unless "
                "others are named (--modalities)."
            )
        if encoder.modality in named:
            raise UsageError(f"Two {encoder.modality} encoders are named; a pool's features come from one.")
        named[encoder.modality] = encoder
    return Encoding(**_sides(named, modalities), name=" ".join(map(str, names)), modalities=modalities)


def encoding_of(records: dict[str, list[EncoderRecord]], wanted: Sequence[str], **options: Any) -> Encoding:
    """The encoders that made a store's features, of the sides wanted; several of one modality are concatenated.

    Raises InputError if an encoder has changed since, or cannot be loaded by its URI.
    """
    found: dict[str, Encode | None] = {}
    for side in wanted:
        (modality,) = modalities_of({side: records[side]})
        for record in records[side]:
            if record["uri"].partition(":")[0] in ("array", "callable"):
                raise InputError(
                    f"The pool's {modality} features are by {record['uri']}, which cannot be loaded by its name: "
                    "name the encoder that made them (--encoder URI)."
                )
        loaded = load_recorded([record["uri"] for record in records[side]], modality=modality, **options)
        check_encoders(loaded, records[side])
        found[side] = side_by_side(loaded)
    return Encoding(**found)  # type: ignore[arg-type]


def side_by_side(encoders: Sequence[Encoder]) -> Encode | None:
    """Several encoders of one modality as one (features concatenated); None if there is none."""
    if not encoders:
        return None
    return Encode(
        lambda items: np.concatenate([encoder.encode(items) for encoder in encoders], axis=1),
        sum(encoder.width for encoder in encoders),
        [encoder.fingerprint for encoder in encoders],
    )


def _sides(towers: Mapping[str, Encoder], modalities: Sequence[Modality]) -> dict[str, Any]:
    both = zip(SIDES, modalities, strict=True)
    return {side: side_by_side([towers[modality]]) for side, modality in both if modality in towers}


def _dual_encoder(name: Any, options: dict[str, Any]) -> DualEncoder | None:
    if isinstance(name, DualEncoder):
        return name
    if isinstance(name, str | Path) and (Path(name) / "config.json").is_file() and ":" not in str(name):
        return DualEncoder.from_pretrained(name, **options)
    return None


def _of_model(model: DualEncoder, name: str) -> Encoding:
    both: dict[str, Any] = {
        side: Encode(getattr(model, f"encode_{side}"), model.width, [record["fingerprint"] for record in records])
        for side, records in model.records.items()
    }
    return Encoding(**both, joint=True, name=name, model=model, modalities=model.modalities)


def _both_towers(uri: str, modalities: Sequence[Modality], options: dict[str, Any]) -> dict[str, Encoder]:
    """The encoders, by modality, behind a name that may mean one or both."""
    towers: dict[str, Encoder] = {}
    errors: list[UsageError] = []
    for modality in modalities:
        try:
            towers[modality] = load_encoder(uri, modality=modality, **options)
        except UsageError as error:
            errors.append(error)
    if not towers:
        raise errors[-1]
    return towers
