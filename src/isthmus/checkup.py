"""`doctor`: verify a store or a model, whatever can be verified."""

from __future__ import annotations

from pathlib import Path

from isthmus.encoders import load_encoders
from isthmus.encoders.base import Modality
from isthmus.errors import InputError, IsthmusError
from isthmus.files import locate
from isthmus.model import CONFIG, MODALITIES, DualEncoder, check_encoders
from isthmus.store import doctor as doctor_store
from isthmus.store.checkup import Finding


def doctor(path: str | Path) -> list[Finding]:
    """Findings `{"ok", "what", "remedy"}` about a store or a model; it is sound if all are ok.

    Of a model: its files, that weights and configuration fit, and that every encoder can be had and is the one it
    was trained on (encoders that are callables cannot be checked).

    Raises:
        InputError: `path` is neither.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder.")
    return _doctor_model(path) if locate(path, CONFIG).is_file() else doctor_store(path)


def _doctor_model(path: Path) -> list[Finding]:
    try:
        model = DualEncoder.from_pretrained(path, load=False)
    except InputError as error:
        return [_finding(False, str(error), "Copy the model again or train it again.")]
    findings = [_finding(True, f"{path}: projectors to {model.width} dimensions, scale {model.scale:.3g}")]
    return findings + [_doctor_encoder(m, record) for m in MODALITIES for record in model.records[m]]


def _doctor_encoder(modality: Modality, record: dict) -> Finding:
    try:
        check_encoders(load_encoders([record["uri"]], modality=modality), [record])
    except IsthmusError as error:
        return _finding(False, f"{modality} encoder {record['uri']}: {error}", "Fetch it, or restore that version.")
    return _finding(True, f"{modality} encoder {record['uri']}: fingerprint {record['fingerprint'][:12]}")


def _finding(ok: bool, what: str, remedy: str = "") -> Finding:
    return {"ok": ok, "what": what, "remedy": remedy}
