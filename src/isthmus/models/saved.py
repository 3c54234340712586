"""The files of a saved model of any kind, and the check that encoders are those it was made with."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.data.encoder_record import EncoderRecord, check_count, modalities_of
from isthmus.data.feature_pairs import SIDES
from isthmus.encoders import Encoder, load_recorded
from isthmus.encoders.limits import check_limits
from isthmus.encoders.modality import spec_of
from isthmus.errors import InputError, UsageError
from isthmus.files import file_digest, locate, read_sealed, replaced_together, write_sealed, writing
from isthmus.models.seen import SEEN, SeenItems
from isthmus.projectors import Head, from_config
from isthmus.version import __version__
from isthmus.weights import CONFIG, WEIGHTS, read_tensors, write_tensors

FORMAT = 1
DIGEST_BYTES = 32
DUAL = "dual_encoder"  # the kind of a model whose configuration names none
USES = {DUAL: "search, classify, segment", "fusion": "ask", "language": "ask, caption", "speech": "transcribe"}
Records = dict[str, list[EncoderRecord]]  # by modality, of the encoders side by side


def write_model(
    path: Path,
    kind: str,
    *,
    records: Records,
    weights: dict[str, Tensor],
    summary: dict[str, Any],
    own: dict[str, Any],
    card: Callable[[Path], None],
    seen: SeenItems | None = None,
) -> Path:
    """Write `config.json`, `model.safetensors`, `README.md`, `seen.safetensors`; they replace a model all at once.

    records: the encoders are referenced by URI, revision and fingerprint, never copied. weights: what was trained.
    own: further fields of this kind of model, at the configuration's top level. card: writes the README.
    seen: what trained the model; None: no such file is left there.
    Raises `InputError` for a full disk or a read-only folder.
    """
    if told := over_functions(records):
        warnings.warn(f"{path}: {told}", stacklevel=3)
    with replaced_together(path) as aside:
        write_tensors(aside / WEIGHTS, weights)
        named = {} if kind == DUAL else {"kind": kind}
        config = {"format": FORMAT, "isthmus": __version__, **named, "encoders": records, **own}
        if seen is not None:
            write_tensors(aside / SEEN, seen.tensors())
            config["seen"] = file_digest(aside / SEEN, DIGEST_BYTES)
        digest = file_digest(aside / WEIGHTS, DIGEST_BYTES)
        write_sealed(aside / CONFIG, {**config, "weights": digest, "summary": summary})
        card(aside / "README.md")
    if seen is None:
        with writing(path):
            (path / SEEN).unlink(missing_ok=True)
    return path


def load_encoders_of(records: Records, **options: Any) -> dict[str, list[Encoder]]:
    """The encoders that a model names, by side; options as for `load_encoder`.

    Raises `InputError` for Python functions, and what `load_encoder` raises.
    """
    if told := over_functions(records):
        raise InputError(told)
    kinds = dict(zip(records, modalities_of(records), strict=True))
    return {
        side: load_recorded([one["uri"] for one in listed], modality=kinds[side], **options)
        for side, listed in records.items()
    }


def over_functions(records: Records) -> str:
    """Which encoders are Python functions, and how a model over them comes back; empty where none is."""
    found = {
        side: [one["uri"] for one in listed if one["uri"].startswith("callable:")] for side, listed in records.items()
    }
    functions = {side: uris for side, uris in found.items() if uris}
    if not functions:
        return ""
    which = " and ".join(f"{side} encoder {', '.join(uris)}" for side, uris in functions.items())
    given = ", ".join(f"{side!r}: [from_callable(…)]" for side in functions)
    return (
        f"{which}: Python functions, which no file holds. To load the model, give them: DualEncoder.from_pretrained("
        f"path, encoders={{{given}}}), with the fingerprints they were embedded with; in memory, "
        "model.with_encoders(…)."
    )


def check_encoders(loaded: Sequence[Encoder], records: Sequence[EncoderRecord]) -> None:
    """Refuse encoders other than the ones a model or store was made with, and say which part differs."""
    if len(loaded) != len(records):
        raise InputError(f"The model takes {len(records)} encoder(s) side by side, {len(loaded)} were given.")
    for encoder, record in zip(loaded, records, strict=True):
        if encoder.recognise(record["fingerprint"]):
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


def kind_of(path: Path) -> str:
    """The kind of the model in a folder. Raises `InputError` if there is none."""
    return str(_read(path).get("kind", DUAL))


def told_kind(kind: str) -> str:
    """What a model of a kind is, and what it is for."""
    commands = USES.get(kind)
    return f"a model of kind {kind!r}" + (f" (for isthmus {commands})" if commands else "")


def read_config(path: Path, kind: str, needed: Sequence[str], modalities: Sequence[str]) -> dict[str, Any]:
    """`config.json` of a model of this kind: its format, the fields and the encoders' records checked."""
    config, file = _read(path), locate(path, CONFIG)
    found = config.get("kind", DUAL)
    if found != kind:
        raise InputError(f"{path}: {told_kind(found)}, not {kind!r}, which is needed here.")
    missing = {"encoders", "weights", *needed} - set(config)
    if missing:
        raise InputError(f"{file}: not an isthmus model ({', '.join(sorted(missing))} missing).")
    check_limits(file, {name: value for name, value in config.items() if name != "summary"})
    for modality in modalities:
        if not _are_records(config["encoders"], modality):
            raise InputError(f"{file}: no list of {modality} encoders with uri, fingerprint and width.")
        check_count(file, config["encoders"][modality])
    return config


def _read(path: Path) -> dict[str, Any]:
    """`config.json`, undamaged and of a format that is known."""
    file = locate(path, CONFIG)
    if not file.is_file():
        raise InputError(f"{path}: not an isthmus model (no {CONFIG}). `isthmus train` writes one.")
    config = read_sealed(file)
    if not isinstance(config, dict) or "format" not in config:
        raise InputError(f"{file}: not an isthmus model (format missing).")
    if config["format"] != FORMAT:
        raise InputError(
            f"{file}: format {config['format']!r}, written by isthmus {config.get('isthmus')!r}; this version reads "
            f"format {FORMAT}. Upgrade isthmus."
        )
    return config


def saved_seen(path: Path, config: dict[str, Any]) -> SeenItems | None:
    """What a model remembers of its training; None where it does not."""
    return SeenItems.at(locate(path, SEEN), str(config["seen"])) if "seen" in config else None


def saved_width(path: Path, config: dict[str, Any], whole: int) -> int | None:
    """The number of kept dimensions; None for all."""
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
    """The projectors without their weights, so that sizes in the configuration allocate no memory.

    In older models, the modality says whether tokens may be padding.
    """
    try:
        with torch.device("meta"):
            return {m: from_config({"padded": spec_of(m).padded, **configs[m]}) for m in SIDES}
    except (UsageError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path / CONFIG}: its projectors cannot be made ({error}).") from None


def read_weights(path: Path, digest: Any) -> dict[str, Tensor]:
    """The tensors, those of floating point as float32. Raises `InputError` for one that is not finite."""
    try:
        weights = read_tensors(path, str(digest))
    except InputError as error:
        raise InputError(f"{error} Copy or train the model again.") from None
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} is not made of finite numbers. Train the model again.")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def take_number(weights: dict[str, Tensor], name: str, path: Path) -> float | None:
    """Remove a single number from the weights; None if it is missing, `InputError` if it is more than one."""
    tensor = weights.pop(name, None)
    if tensor is not None and tensor.numel() != 1:
        raise InputError(f"{path}: {name} is not a single number. Copy or train the model again.")
    return None if tensor is None else tensor.item()
