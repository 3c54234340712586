"""The files of a saved model, and whether the encoders at hand are those it was made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.data.encoder_record import EncoderRecord
from isthmus.encoders import Encoder
from isthmus.encoders.base import Modality
from isthmus.errors import InputError, UsageError
from isthmus.files import locate, read_sealed
from isthmus.projectors import Head, from_config
from isthmus.weights import read_tensors

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
DIGEST_BYTES = 32
MODALITIES: tuple[Modality, ...] = ("image", "text")


def check_encoders(loaded: Sequence[Encoder], records: Sequence[EncoderRecord]) -> None:
    """Refuse encoders other than the ones a model or store was made with, and say which part differs."""
    if len(loaded) != len(records):
        raise InputError(f"The model takes {len(records)} encoder(s) side by side, {len(loaded)} were given.")
    for encoder, record in zip(loaded, records, strict=True):
        if encoder.fingerprint == record["fingerprint"]:
            continue
        raise InputError(
            f"{encoder.uri} is not the encoder this was made with ({record['uri']}); what differs: "
            f"{', '.join(_differences(encoder.record(), record))}. "
            f"Fingerprint {encoder.fingerprint[:12]} instead of {record['fingerprint'][:12]}."
        )


def _differences(now: EncoderRecord, then: EncoderRecord) -> list[str]:
    """The parts of two encoder records that differ, those of the preprocessing by name."""
    flat = [{**record, **record.get("preprocessing", {})} for record in (now, then)]
    ignored = ("fingerprint", "backbone_key", "preprocessing", "compute_dtype", "bfloat16_cosine", "licence", "parts")
    names = [name for name in dict.fromkeys((*flat[0], *flat[1])) if name not in ignored]
    return [name for name in names if flat[0].get(name) != flat[1].get(name)] or ["weights"]


def read_config(path: Path) -> dict[str, Any]:
    """`config.json`, its format and the fields that loading needs checked."""
    file = locate(path, CONFIG)
    if not file.is_file():
        raise InputError(f"{path}: not an isthmus model (no {CONFIG}). `isthmus train` writes one.")
    config = read_sealed(file)
    needed = {"format", "encoders", "projectors", "weights"}
    missing = needed - set(config) if isinstance(config, dict) else needed
    if missing:
        raise InputError(f"{file}: not an isthmus model ({', '.join(sorted(missing))} missing).")
    if config["format"] != FORMAT:
        raise InputError(
            f"{file}: format {config['format']!r}, written by isthmus {config.get('isthmus')!r}; this version reads "
            f"format {FORMAT}. Upgrade isthmus."
        )
    for modality in MODALITIES:
        if not _are_records(config["encoders"], modality):
            raise InputError(f"{file}: no list of {modality} encoders with uri, fingerprint and width.")
    return config


def saved_width(path: Path, config: dict[str, Any], whole: int) -> int | None:
    """The dimensions that are kept, where they are not all."""
    width = config.get("width")
    if width is not None and not (type(width) is int and 1 <= width <= whole):
        raise InputError(f"{path / CONFIG}: width {width!r} is not within 1 … {whole}.")
    return width


def _are_records(encoders: Any, modality: str) -> bool:
    records = encoders.get(modality) if isinstance(encoders, dict) else None
    wanted = {"uri": str, "fingerprint": str, "width": int}
    return isinstance(records, list) and all(
        isinstance(record, dict) and all(isinstance(record.get(name), kind) for name, kind in wanted.items())
        for record in records
    )


def empty_projectors(path: Path, configs: Any) -> dict[str, Head]:
    """The projectors without their weights: a size in the configuration allocates nothing, the weights decide."""
    try:
        with torch.device("meta"):
            return {m: from_config(configs[m]) for m in MODALITIES}
    except (UsageError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path / CONFIG}: its projectors cannot be made ({error}).") from None


def read_weights(path: Path, digest: Any) -> dict[str, Tensor]:
    """The tensors, float32, `scale` and perhaps `bias` among them."""
    try:
        weights = read_tensors(path, str(digest))
    except InputError as error:
        raise InputError(f"{error} Copy or train the model again.") from None
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} is not made of finite numbers. Train the model again.")
    single = [name for name in ("scale", "bias") if name in weights and weights[name].numel() != 1]
    if "scale" not in weights or single:
        raise InputError(f"{path}: no scale, or not a single number. Copy or train the model again.")
    return {name: tensor.float() for name, tensor in weights.items()}
