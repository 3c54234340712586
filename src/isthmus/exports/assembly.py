"""A dual encoder as the one model of transformers that `modeling_isthmus.py` describes, in memory."""

from __future__ import annotations

import importlib.util
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from isthmus.data.feature_pairs import SIDES
from isthmus.encoders import Encoder
from isthmus.encoders.portable import Portable
from isthmus.errors import InputError, UsageError
from isthmus.exports import modeling_isthmus
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import Head

MODELING = "modeling_isthmus.py"
CHECK_TEXT = "Two dogs, running in a park: 1 photo."
CHECKED_PIXELS = 64


@dataclass(frozen=True)
class Assembled:
    """module: what the written code defines. model: its `IsthmusModel`, in eval mode on the CPU. processors,
    tokenizers: as its image processor and its tokenizer take them.
    """

    module: ModuleType
    model: Any
    processors: list[dict[str, Any]]
    tokenizers: list[dict[str, Any]]


def assemble(model: DualEncoder, folder: Path, sides: Sequence[str] = SIDES) -> Assembled:
    """Write the code that runs `model` into `folder`, and build the model by it.

    sides: those that it shall have. Raises `UsageError` for an encoder or a head that has no form without isthmus; it
    says which, and why.
    """
    networks = {side: _networks(model.encoders[side]) for side in sides}
    shipped = {side: [one.portable() for one in networks[side]] for side in sides}
    module = write_code(folder / MODELING, [one for listed in shipped.values() for one in listed])
    described = {side: _side(model, side, networks[side], shipped[side]) for side in sides}
    config = module.IsthmusConfig(
        sides=described, width=model.width, logit_scale=model.scale, logit_bias=model.bias or 0.0, dtype="float32"
    )
    built = module.IsthmusModel(config).eval()
    for side in sides:
        part = getattr(built, side)
        for network, one in zip(part.networks, shipped[side], strict=True):
            network.load_state_dict(one.state, strict=True)
        part.head.load_state_dict(model.projector(side).state_dict(), strict=True)
    processors = [one.processor for listed in shipped.values() for one in listed if one.processor]
    tokenizers = [one.tokenizer for listed in shipped.values() for one in listed if one.tokenizer]
    assembled = Assembled(module, built, processors, tokenizers)
    if tuple(sides) == SIDES:
        _add_checks(assembled)
    return assembled


def write_code(path: Path, shipped: list[Portable]) -> ModuleType:
    """The code of every exported model, behind it that of networks which transformers lacks; imported from there."""
    own = dict.fromkeys(one.code for one in shipped if one.code is not None)
    texts = [Path(str(modeling_isthmus.__file__)).read_text(encoding="utf-8")]
    texts += [code.read_text(encoding="utf-8").replace("from __future__ import annotations\n", "") for code in own]
    path.write_text("\n\n".join(text.strip() for text in texts) + "\n", encoding="utf-8")
    return import_file(path)


def import_file(path: Path) -> ModuleType:
    """The module in a file that we wrote, under a name that nothing else has."""
    name = f"isthmus_exported_{secrets.token_hex(4)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # transformers looks classes up by their module
    spec.loader.exec_module(module)
    return module


def _networks(encoders: list[Encoder]) -> list[Encoder]:
    """One encoder for each network: views of one share it."""
    found: dict[str, Encoder] = {}
    for encoder in encoders:
        if encoder.dtype != torch.float32:
            raise UsageError(f"{encoder.uri}: computes in {encoder.dtype}; exports are float32: drop dtype=.")
        found.setdefault(encoder.backbone_key, encoder)
    return list(found.values())


def _side(model: DualEncoder, side: str, networks: list[Encoder], shipped: list[Portable]) -> dict[str, Any]:
    keys = [one.backbone_key for one in networks]
    views = [{"network": keys.index(one.backbone_key), **one.view()} for one in model.encoders[side]]
    configs = [{**one.network} for one in shipped]
    if side == "image":
        for config, encoder in zip(configs, networks, strict=True):
            config["side"] = _size(encoder) if len(networks) > 1 else None
    return {"networks": configs, "views": views, "head": head_config(model.projector(side))}


def head_config(head: Head) -> dict[str, Any]:
    """A head as `modeling_isthmus.make_head` takes it. `UsageError` for a block of another package."""
    config = head.config()
    for member in config.get("members", [config]):
        for block in member["kind"].replace(",", "+").split("+"):
            if block.rpartition(":")[2] not in (*modeling_isthmus.BLOCKS, "none"):
                raise UsageError(f"projector {member['kind']!r}: {block!r} is of another package and is not copied.")
    return config


def _size(encoder: Encoder) -> list[int]:
    """Height and width of an encoder's input, whatever the picture's."""
    sizes = {tuple(_pixels(encoder, shape).shape[-2:]) for shape in ((64, 64), (50, 90))}
    if len(sizes) > 1:
        raise UsageError(f"{encoder.uri}: its inputs differ in size, so it cannot stand beside another encoder.")
    return list(sizes.pop())


def _pixels(encoder: Encoder, shape: tuple[int, int]) -> torch.Tensor:
    pixels: torch.Tensor = encoder.preprocess([np.zeros((*shape, 3), np.uint8)])["pixel_values"]
    return pixels


def _add_checks(assembled: Assembled) -> None:
    """Embeddings of fixed inputs, which the exported model compares when it is loaded."""
    sides, module = assembled.model.config.sides, assembled.module
    picture = image_processor(assembled)(module.drawn_picture(), return_tensors="pt")["pixel_values"]
    sides["image"]["check"] = {"shape": list(picture.shape[1:])}
    ids = {name: value[0].tolist() for name, value in tokenizer(assembled)([CHECK_TEXT], return_tensors="pt").items()}
    sides["text"]["check"] = {"inputs": ids}
    for side in SIDES:
        part, check = getattr(assembled.model, side), sides[side]["check"]
        with torch.no_grad():
            check["embedding"] = part(part.check_inputs(check))[0].tolist()
        if not np.isfinite(check["embedding"]).all():
            raise InputError(f"The {side} side gives embeddings that are no finite numbers.")


def image_processor(assembled: Assembled) -> Any:
    """The image processor of the exported model, with values of a picture to check."""
    build = assembled.module.IsthmusImageProcessor
    processor = build(processors=assembled.processors)
    pixels = np.ravel(processor(assembled.module.drawn_picture(), return_tensors="np")["pixel_values"])
    places = np.linspace(0, len(pixels) - 1, CHECKED_PIXELS).astype(int)
    return build(processors=assembled.processors, check=[float(one) for one in pixels[places]])


def tokenizer(assembled: Assembled) -> Any:
    """The tokenizer of the exported model, with a text and its ids to check."""
    from tokenizers import Tokenizer

    first, *others = assembled.tokenizers
    listed = [{name: value for name, value in first.items() if name != "json"}, *others]
    backend = Tokenizer.from_str(first["json"])
    limits = [one["max_tokens"] for one in assembled.tokenizers]
    special = {"pad_token": backend.id_to_token(first["pad"])}

    def build() -> Any:
        return assembled.module.IsthmusTokenizer(
            tokenizer_object=backend,
            model_max_length=max(limits) if all(limits) else int(1e30),
            model_input_names=["input_ids", "attention_mask", "token_type_ids"],
            isthmus=listed,
            **special,
        )

    listed[0]["check"] = {"text": CHECK_TEXT, "ids": build()(CHECK_TEXT)["input_ids"]}
    return build()
