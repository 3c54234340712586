"""`open_clip:` – the towers of open_clip: `MODEL@PRETRAINED`, `hf-hub:owner/name`, or a folder in its format.

All three end in a folder with open_clip_config.json and open_clip_model.safetensors.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isthmus.encoders import hub
from isthmus.encoders.base import Encoder, Inputs, Output, block_outputs
from isthmus.encoders.fingerprint import files_digest, tokenizer_digest
from isthmus.encoders.huggingface import uncut_ids
from isthmus.encoders.images import to_pil
from isthmus.encoders.modality import Modality, check_texts
from isthmus.encoders.uri import EncoderURI, is_path
from isthmus.encoders.vetting import check_folder
from isthmus.errors import OfflineError, UsageError, did_you_mean
from isthmus.files import read_json

WEIGHTS = "open_clip_model.safetensors"
BLOCKS = ("resblocks", "blocks", "layer")  # open_clip's own towers, timm's ViTs, BERT-like text models
PREFIX_TOKENS = ("class_embedding", "cls_token", "reg_token")


def load(
    uri: EncoderURI,
    *,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    fetch: bool = True,
) -> Encoder:
    """Load a tower of open_clip; see `load_encoder`. Needs the extra `isthmus[open_clip]`, and `modality`."""
    try:
        import open_clip
    except ImportError as error:
        raise UsageError(f"{uri}: needs open_clip: pip install 'isthmus[open_clip]' ({error}).") from None
    if modality is None:
        raise UsageError(f"{uri}: has two towers: pass modality='image' or modality='text'.")
    folder = hub.resolve(uri, *repo_of(uri), weights=WEIGHTS, fetch=fetch)
    name = f"local-dir:{folder}"
    if not trust_remote_code:
        check_folder(folder, uri)
    _require_text_config(folder, uri)
    with hub.loading(uri):
        model, _, transform = open_clip.create_model_and_transforms(name, force_image_size=uri.size)
        if modality == "image":
            encoder: Encoder = OpenClipImageEncoder(folder, uri, model.visual, transform, device)
        else:
            encoder = OpenClipTextEncoder(folder, uri, model, open_clip.get_tokenizer(name), device)
    encoder.licence, encoder.revision = hub.licence_of(folder), hub.revision_of(folder)
    return encoder


class OpenClipImageEncoder(Encoder):
    """Pooled: `encode_image`, not normalised. Layers: a transformer's blocks; a CNN gives pooled only."""

    def __init__(
        self, folder: Path, uri: EncoderURI, tower: Any, transform: Any, device: str | torch.device | None
    ) -> None:
        self.transform = transform
        self._blocks, self._norm = _find_blocks(tower), _final_norm(tower)
        extra = [p for name, p in tower.named_parameters() if name.rpartition(".")[2] in PREFIX_TOKENS]
        self._prefix = sum(parameter.numel() // parameter.shape[-1] for parameter in extra)
        ingredients = {
            "weights": files_digest([folder / WEIGHTS], folder),
            "config": read_json(folder / "open_clip_config.json"),
            "size": uri.size,
        }
        pools = (("cls", "mean", "max") if self._prefix else ("mean", "max")) if self._blocks else ()
        default = "cls" if self._prefix else "mean"
        super().__init__(uri, "image", tower, ingredients, pools=pools, default_pool=default, device=device)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """The model's own transform: {"pixel_values": [N, 3, H, W]}."""
        return {"pixel_values": torch.stack([self.transform(to_pil(item)) for item in items])}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        with block_outputs(self._blocks) as states:
            pooled = self.network(inputs["pixel_values"])
        tokens = self._norm(states[-1]) if states else None
        return Output(pooled=pooled, tokens=tokens, layers=states, prefix=self._prefix)


class OpenClipTextEncoder(Encoder):
    """Pooled: `encode_text`, not normalised."""

    def __init__(
        self, folder: Path, uri: EncoderURI, model: Any, tokenizer: Any, device: str | torch.device | None
    ) -> None:
        model.visual = nn.Identity()
        tower = getattr(model, "text", model)
        self.tokenizer, self.prompt, self._lock = tokenizer, uri.prompt or "", threading.Lock()
        self.context: int = model.context_length
        if uri.max_tokens and uri.max_tokens > self.context:
            raise UsageError(f"{uri}: max_tokens is at most {self.context}: the model has no more positions.")
        self.max_tokens, self.position_limit = uri.max_tokens or self.context, self.context
        config = getattr(tower, "config", None)
        self._pad = getattr(config, "pad_token_id", None) or getattr(tower, "pad_id", 0)
        self._blocks, self._norm = _find_blocks(tower), _final_norm(tower)
        ingredients = {
            "weights": files_digest([folder / WEIGHTS], folder),
            "config": read_json(folder / "open_clip_config.json"),
            "tokenizer": tokenizer_digest(_vocabulary(tokenizer), lambda text: tokenizer([text])[0]),
            "max_tokens": self.max_tokens,
            "prompt": self.prompt,
        }
        has_tokens = self._blocks and getattr(tower, "cls_emb", None) is None
        pools = ("mean", "max", "last") if has_tokens else ()
        super().__init__(uri, "text", model, ingredients, pools=pools, device=device)

    def preprocess(self, items: Sequence[str]) -> Inputs:
        """Token ids [N, context length] of the prompt and each text, cut to `max_tokens`."""
        texts = [self.prompt + item for item in check_texts(items)]
        with self._lock:
            ids = self.tokenizer(texts, context_length=self.max_tokens)
        missing = self.context - ids.shape[1]
        return {"input_ids": nn.functional.pad(ids, (0, missing), value=self._pad)}

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prompt and text, special ones included, nothing cut off."""
        given = [self.prompt + text for text in check_texts(texts)]
        with self._lock:
            inner = getattr(self.tokenizer, "tokenizer", None)
            if inner is not None:
                return uncut_ids(inner, given)
            ends = [self.tokenizer.sot_token_id, self.tokenizer.eot_token_id]
            return [[ends[0], *self.tokenizer.encode(text), ends[1]] for text in given]

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        network: Any = self.network
        with block_outputs(self._blocks) as states:
            pooled = network.encode_text(inputs["input_ids"])
        if not self.pools:
            return Output(pooled=pooled)
        mask = inputs["input_ids"] != self._pad
        return Output(pooled=pooled, tokens=self._norm(states[-1]), mask=mask, layers=states)


def repo_of(uri: EncoderURI) -> tuple[str, str | None]:
    """Hub repository and revision of an open_clip name."""
    import open_clip

    if is_path(uri.name):
        return "", None
    schema, _, name = uri.name.rpartition(":")
    if schema in ("hf-hub", "hf_hub"):
        return name, uri.revision
    tags = open_clip.list_pretrained_tags_by_model(name)
    if not tags:
        raise UsageError(f"{uri}: open_clip has no model {name!r}." + did_you_mean(name, open_clip.list_models()))
    if uri.revision not in tags:
        problem = f"no weights {uri.revision!r}" if uri.revision else "several weights: choose one with @"
        raise UsageError(f"{uri}: {name} has {problem}." + did_you_mean(uri.revision or "", tags))
    place = open_clip.get_pretrained_cfg(name, uri.revision).get("hf_hub", "")
    if not place:
        raise UsageError(f"{uri}: these weights are not on the hub, so there are no safetensors of them.")
    return place.rpartition("/")[0], None


def _require_text_config(folder: Path, uri: EncoderURI) -> None:
    """Text towers of transformers name the model whose configuration they have; it is not fetched implicitly."""
    name = read_json(folder / "open_clip_config.json").get("model_cfg", {}).get("text_cfg", {}).get("hf_model_name")
    if name and not Path(name).is_dir() and not hub.is_cached(name, "config.json"):
        raise OfflineError(
            f"{uri}: its text tower has the configuration of {name}, which is not in the cache."
            f" Run `hf download {name} config.json` once."
        )


def _find_blocks(tower: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer tower; empty for CNNs, whose blocks stand inside stages."""
    lists = [
        list(module.children())
        for name, module in tower.named_modules()
        if name.rpartition(".")[2] in BLOCKS and "stages" not in name
    ]
    return max(lists, key=len, default=[])


def _final_norm(tower: nn.Module) -> Any:
    """The norm behind the last block, for tokens; identity where the tower has none."""
    trunk = getattr(tower, "trunk", None)
    for owner, name in ((tower, "ln_post"), (tower, "ln_final"), (trunk, "norm")):
        if isinstance(module := getattr(owner, name, None), nn.Module):
            return module
    return nn.Identity()


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    encoder = getattr(tokenizer, "encoder", None)
    return encoder if encoder is not None else tokenizer.tokenizer.get_vocab()
