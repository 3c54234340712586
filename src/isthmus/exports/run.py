"""`export`: a model written in the format of another library, checked before it stays."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

from isthmus.data.feature_pairs import SIDES
from isthmus.encoders.hub import quiet
from isthmus.errors import InputError, UsageError
from isthmus.exports.card import write_card
from isthmus.exports.licences import check_licences, licences
from isthmus.files import locate, read_json, replaced_together
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.language_model import VisionLanguageModel
from isthmus.models.loading import load_model
from isthmus.models.saved import CONFIG, modalities_of
from isthmus.registry import Registry

Target = Literal["hf", "st-plain", "onnx", "llava"]
# Modules with `write(model, folder, **options)`: the files, all but the card; returns what the report says of them.
# Dual encoders go to all but `llava`, whose module has `licences` and `write_card` of its own.
TARGETS = Registry(
    "isthmus.export_targets",
    {
        "hf": "isthmus.exports.hf",
        "st-plain": "isthmus.exports.st_plain",
        "onnx": "isthmus.exports.onnx_graphs",
        "llava": "isthmus.exports.llava",
    },
    noun="export target",
)


def export(
    model: DualEncoder | VisionLanguageModel | str | Path,
    out: str | Path,
    *,
    to: Target = "hf",
    allow_unknown_licence: bool = False,
    trust_remote_code: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Write a model in the format of another library, encoders included, and check that it computes the same.

    Use this when a model shall be loaded where isthmus is not: docs/export.md shows each target, and which heads and
    encoders it takes.

        >>> ist.export("model/", "exported/")["differences"]
        {'image': 0.0, 'text': 0.0}

    Args:
        model: a `DualEncoder` with its encoders, its folder, or the URI of a pretrained one; for "llava" a
            `VisionLanguageModel` or its folder.
        out: a folder. Its files are replaced all at once, or, where anything is refused, not at all.
        to: "hf": transformers and Sentence-Transformers, by code in the folder; "st-plain": Sentence-Transformers
            without code; "onnx": two graphs, and a script that embeds by them; "llava": a language model that sees, as
            LLaVA of transformers, with code in the folder where the stock one cannot hold it.
        allow_unknown_licence: an export copies the encoders' weights; one whose licence is not known is refused
            unless you say that you may pass it on.
        trust_remote_code: for loading a model whose encoders bring code. Such code is not copied.
        options: of the target; onnx takes `int8`, pairs on which to measure what weights of 8 bits lose.

    Returns:
        {"out", "to", "width", "bytes", "licences": by encoder, "differences": the largest for each side}, and what the
        target adds: "cosines", "recall", "measured_on" of int8; of llava no "width", but "stock".

    Raises:
        UsageError: an encoder, a head or a pooling that the target has no form for; the message says why.
        InputError: embeddings that differ by more than 1e-5 (int8: a cosine below 0.999), an unknown licence, a
            model of another kind or of other modalities, or a folder that holds a model of isthmus.
    """
    given: Any = model
    if isinstance(model, str | Path):
        given = load_model(model, device="cpu", trust_remote_code=trust_remote_code)
    target, out = TARGETS.find(to), Path(out)
    _check_options(to, target, options)
    _check_kind(model, given, to)
    _check_folder(out)
    speaks = isinstance(given, VisionLanguageModel)
    found = target.licences(given) if speaks else licences(given)
    if not allow_unknown_licence:
        check_licences(found)
    with replaced_together(out) as aside, quiet():
        report = target.write(given, aside, **options)
        if speaks:
            target.write_card(aside / "README.md", given, found, report)
        else:
            write_card(aside / "README.md", to, given, found, report)
            report["width"] = given.width
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return {"out": str(out), "to": to, "bytes": size, "licences": found, **report}


def _check_options(to: str, target: Any, options: dict[str, Any]) -> None:
    known = list(inspect.signature(target.write).parameters)[2:]
    for name in options:
        if name not in known:
            raise UsageError(f"--to {to} has no option {name!r}." + (f" It has {', '.join(known)}." if known else ""))


def _named(model: Any) -> bool:
    return isinstance(model, str | Path)


def _check_kind(named: Any, model: Any, to: str) -> None:
    """`InputError` for a model of a kind that the target does not take."""
    where = f"{named}: a model" if _named(named) else "A model"
    if isinstance(model, VisionLanguageModel) != (to == "llava"):
        other = "language models that see alone" if to == "llava" else "no language model: --to llava"
        raise InputError(f"{where} of kind {model.kind!r}; --to {to} takes {other}.")
    if isinstance(model, DualEncoder):
        _check_modalities(model)
    elif not isinstance(model, VisionLanguageModel):
        raise InputError(f"{where} of kind {model.kind!r}; only dual encoders can be exported.")


def _check_modalities(model: DualEncoder) -> None:
    found = modalities_of(model.records)
    if found != SIDES:
        raise InputError(f"This model joins {' and '.join(found)}; only those of images and texts can be exported.")
    for side in SIDES:
        model.encoders_of(side)  # loaded now, or the error that says why not


def _check_folder(out: Path) -> None:
    """Never over a model of ours, which has files of the same names."""
    config = locate(out, CONFIG)
    if config.is_file() and "format" in read_json(config):
        raise InputError(f"{out}: holds a model that isthmus wrote; export into another folder.")
