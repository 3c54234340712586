"""Pretrained dual encoders, such as CLIP, as parts of a `DualEncoder`, for comparison with own models.

Their two towers are encoders like any other. A fixed linear map, read from the checkpoint, leads from a tower into the
joint space. `DualEncoder.from_pretrained` takes their URIs, as does every function that takes a model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from isthmus.data.feature_pairs import SIDES
from isthmus.encoders import Encoder, hub, load_encoder, openclip
from isthmus.encoders.modality import Modality, spec_of
from isthmus.encoders.sources import SOURCES
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, UsageError
from isthmus.projectors import build_projector
from isthmus.projectors.blocks import set_linear

DUAL = ("hf", "open_clip", "st")  # sources that have dual encoders
TYPES = ("clip", "siglip")  # of those of transformers


def is_uri(name: Any) -> bool:
    """Whether a model's name is the URI of an encoder, not a folder."""
    return isinstance(name, str) and name.partition(":")[0] in SOURCES.names() and ":" in name


def pretrained_parts(uri: str, **options: Any) -> dict[str, Any]:
    """Arguments of `DualEncoder` for the model that `uri` names: `open_clip:ViT-B-32@laion2b_s34b_b79k`,
    `hf:openai/clip-vit-base-patch32`, `hf:google/siglip-base-patch16-224`, `st:clip-ViT-B-32`, or a folder in one of
    these formats (`hf:./folder`).

    options: `device`, `trust_remote_code`, `fetch` of `load_encoder`.

    Raises what `load_encoder` raises; UsageError if the model is not a dual encoder, or not one with known towers.
    """
    parsed = EncoderURI.parse(uri)
    if parsed.source not in DUAL:
        raise UsageError(f"{uri}: {parsed.source} has no dual encoders; {', '.join(DUAL)} have.")
    if parsed.layer is not None or parsed.pool is not None:
        raise UsageError(f"{uri}: layer and pool do not go with a pretrained model's own projections: leave them out.")
    towers = {modality: load_encoder(_of(parsed, modality), modality=modality, **options) for modality in SIDES}
    tensors = _last_tensors(parsed, fetch=options.get("fetch", True))
    projectors = {m: _linear(towers[m], tensors.get(f"{NAMES[m]}_projection.weight")) for m in SIDES}
    if projectors["image"].width != projectors["text"].width:
        raise UsageError(f"{uri}: its towers end {projectors['image'].width} and {projectors['text'].width} wide.")
    bias = tensors.get("logit_bias")
    return {
        "image_projector": projectors["image"],
        "text_projector": projectors["text"],
        "scale": tensors.get("logit_scale", torch.zeros(())).exp().item(),
        "bias": None if bias is None else bias.item(),
        "records": {m: [towers[m].record()] for m in SIDES},
        "encoders": {m: [towers[m]] for m in SIDES},
        "summary": {"ready": str(parsed)},
    }


def _of(uri: EncoderURI, modality: Modality) -> EncoderURI:
    """The URI without the options of the other tower."""
    others: dict[str, Any] = {option: None for side in SIDES if side != modality for option in spec_of(side).options}
    return replace(uri, **others)


NAMES = {"image": "visual", "text": "text"}


def _linear(tower: Encoder, weight: Tensor | None) -> Any:
    """The map behind a tower: `weight` [width, features], or none if the tower's features are in the space."""
    weight = torch.eye(tower.width) if weight is None else weight
    projector = build_projector("linear", [tower.width], len(weight), norm="none")
    with torch.no_grad():
        set_linear(projector.blocks[0].get_submodule("linear"), weight.T, torch.zeros(len(weight)))
    return projector


def _last_tensors(uri: EncoderURI, fetch: bool) -> dict[str, Tensor]:
    """Projections, scale and bias, float32, from the files that the towers were read from."""
    wanted = ("logit_scale", "logit_bias")
    if uri.source == "open_clip":  # its encoders end in the joint space, like those of Sentence-Transformers
        folder = hub.resolve(uri, *openclip.repo_of(uri), weights=openclip.WEIGHTS, fetch=fetch)
        return _read(hub.weight_files(folder, openclip.WEIGHTS), wanted)
    if uri.source == "st":
        return {}
    folder = hub.resolve(uri, uri.name, uri.revision, fetch=fetch)
    kind = hub.read_config(folder).get("model_type")
    if kind not in TYPES:
        raise UsageError(f"{uri}: {kind!r} is not a known kind of dual encoder; {' and '.join(TYPES)} are.")
    found = _read(hub.weight_files(folder), (*wanted, *(f"{name}_projection.weight" for name in NAMES.values())))
    if kind == "clip" and len(found) < 3:
        raise InputError(f"{folder}: its weights lack the projections of a CLIP model.")
    return found


def _read(files: list[Path], names: tuple[str, ...]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name).float() for name in names if name in tensors.keys()}  # noqa: SIM118
    return found
