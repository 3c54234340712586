"""`doctor`: verify everything in a store or a model that can be verified."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from isthmus.data.encoder_record import EncoderRecord
from isthmus.encoders import load_recorded
from isthmus.encoders.fingerprint import read_again
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, IsthmusError
from isthmus.files import locate
from isthmus.fusion.language import load_language
from isthmus.fusion.language.causal import LanguageRecord, check_language
from isthmus.models.language_model import VisionLanguageModel
from isthmus.models.loading import load_model
from isthmus.models.saved import CONFIG, check_encoders
from isthmus.store import doctor as doctor_store
from isthmus.store.checkup import Finding


def doctor(
    path: str | Path, *, deep: bool = False, device: str | None = None, trust_remote_code: bool = False
) -> list[Finding]:
    """Findings about a store or a model; see `isthmus.doctor`, which also knows indexes."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder.")
    if not locate(path, CONFIG).is_file():
        return doctor_store(path)
    with read_again() if deep else nullcontext():
        return _doctor_model(path, device=device, trust_remote_code=trust_remote_code)


def _doctor_model(path: Path, **options: Any) -> list[Finding]:
    try:
        model = load_model(path, load=False)
    except InputError as error:
        return [_finding(False, str(error), "Copy the model again or train it again.")]
    findings = [_finding(True, f"{path}: {model.describe()}")]
    try:
        if getattr(model, "seen", None) is not None:
            model.seen.counts()
    except InputError as error:
        findings.append(_finding(False, str(error), "Copy the model again or train it again."))
    named = [(one.get("modality", side), one) for side, listed in model.records.items() for one in listed]
    findings += [_doctor_encoder(modality, one, **options) for modality, one in named]
    return [*findings, _doctor_language(model.language)] if model.kind == VisionLanguageModel.kind else findings


def _doctor_encoder(modality: Modality, record: EncoderRecord, **options: Any) -> Finding:
    try:
        check_encoders(load_recorded([record["uri"]], modality=modality, **options), [record])
    except IsthmusError as error:
        return _finding(False, f"{modality} encoder {record['uri']}: {error}", "Fetch it, or restore that version.")
    return _finding(True, f"{modality} encoder {record['uri']}: fingerprint {record['fingerprint'][:12]}")


def _doctor_language(record: LanguageRecord) -> Finding:
    try:
        check_language(load_language(record["uri"]), record)
    except IsthmusError as error:
        return _finding(False, f"language model {record['uri']}: {error}", "Fetch it, or restore that version.")
    return _finding(True, f"language model {record['uri']}: fingerprint {record['fingerprint'][:12]}")


def _finding(ok: bool, what: str, remedy: str = "") -> Finding:
    return {"ok": ok, "what": what, "remedy": remedy}
