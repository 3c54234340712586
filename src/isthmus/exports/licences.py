"""Licences of what an export copies."""

from __future__ import annotations

from isthmus.data.feature_pairs import SIDES
from isthmus.errors import InputError
from isthmus.models.dual_encoder import DualEncoder

UNKNOWN = ("", "unknown", "none")


def licences(model: DualEncoder) -> dict[str, str]:
    """The licence of each encoder by its URI without layer and pooling, "unknown" where none is known."""
    encoders = [encoder for side in SIDES for encoder in model.encoders[side]]
    return {str(one.uri.backbone()): _named(one.licence) for one in encoders}


def check_licences(found: dict[str, str]) -> None:
    """`InputError` for an encoder whose licence is not known: an export is a copy of its weights."""
    unknown = [uri for uri, licence in found.items() if licence == "unknown"]
    if unknown:
        raise InputError(
            f"{', '.join(unknown)}: the licence is not known, and an export copies the encoder's weights. Find out "
            "whether you may pass them on; then say so with --allow-unknown-licence."
        )


def joint_licence(found: dict[str, str]) -> str:
    """For a card's `license` line: the one that all have, else "other"."""
    names = set(found.values())
    single = next(iter(names)).lower() if len(names) == 1 else "other"
    return "other" if single == "unknown" or not single.replace("-", "").replace(".", "").isalnum() else single


def _named(licence: str | None) -> str:
    return "unknown" if (licence or "").strip().lower() in UNKNOWN else str(licence).strip()
