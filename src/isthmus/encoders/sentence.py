"""`st:` – Sentence-Transformers pipelines: whatever their modules say, including Dense and Normalize.

A multimodal pipeline (CLIP and its kin) has one space for both modalities: pass modality="image" for its image side.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from isthmus.encoders import hub
from isthmus.encoders.base import (
    Encoder,
    Inputs,
    Output,
    block_outputs,
    find_blocks,
)
from isthmus.encoders.fingerprint import files_digest, tokenizer_digest
from isthmus.encoders.huggingface import position_limit, text_pools, uncut_ids, unknown_id
from isthmus.encoders.images import to_pil
from isthmus.encoders.modality import Modality, check_texts
from isthmus.encoders.uri import EncoderURI, is_path
from isthmus.errors import UsageError
from isthmus.files import read_json


def load(uri: EncoderURI, *, modality: Modality | None, fetch: bool, **options: Any) -> Encoder:
    """Load an `st:` encoder; see `load_encoder`. A name without an owner is one of Sentence-Transformers' own."""
    repo = uri.name if "/" in uri.name or is_path(uri.name) else f"sentence-transformers/{uri.name}"
    return from_folder(hub.resolve(uri, repo, uri.revision, fetch=fetch), uri, modality=modality, **options)


def from_folder(
    folder: Path,
    uri: EncoderURI,
    *,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """The encoder that the Sentence-Transformers folder describes: of texts, or of images where it takes them."""
    from sentence_transformers import SentenceTransformer

    with hub.loading(uri):
        pipeline = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": uri.dtype or "float32"},
        )
    if modality == "image" and "image" not in pipeline.modalities:
        raise UsageError(f"{uri}: is an encoder of {' and '.join(map(str, pipeline.modalities))}s, not of images.")
    build = SentenceImageEncoder if modality == "image" else SentenceEncoder
    encoder = build(folder, uri, pipeline, device)
    encoder.licence, encoder.revision = hub.licence_of(folder), hub.revision_of(folder)
    return encoder


class SentenceEncoder(Encoder):
    """Pooled: the pipeline's sentence embedding. Tokens and layers: those of its Transformer, if any."""

    def __init__(self, folder: Path, uri: EncoderURI, pipeline: Any, device: str | torch.device | None) -> None:
        transformer = getattr(pipeline[0], "auto_model", None)
        config = getattr(transformer, "config", None)
        self._blocks = find_blocks(pipeline, getattr(config, "num_hidden_layers", None))
        if uri.max_tokens:
            pipeline.max_seq_length = _within_table(uri, transformer)
        default_prompt = pipeline.prompts.get(pipeline.default_prompt_name, "")
        self.prompt = default_prompt if uri.prompt is None else uri.prompt
        self._lock, self._pipeline = threading.Lock(), pipeline
        self.max_tokens, self.unknown_id = pipeline.max_seq_length, unknown_id(pipeline.tokenizer)
        self.position_limit = position_limit(transformer) if transformer is not None else None
        ingredients = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": _pipeline_config(folder),
            "tokenizer": tokenizer_digest(pipeline.tokenizer.get_vocab(), lambda text: _ids(pipeline, text)),
            "max_tokens": pipeline.max_seq_length,
            "prompt": self.prompt,
        }
        multimodal = len(pipeline.modalities) > 1  # its tokens are out of sight
        pools = text_pools(pipeline.tokenizer) if transformer is not None and not multimodal else ()
        super().__init__(uri, "text", pipeline, ingredients, pools=pools, device=device)

    def preprocess(self, items: Sequence[str]) -> Inputs:
        with self._lock:  # a fast tokenizer keeps truncation and padding as state, the pipeline its length
            if self._pipeline.max_seq_length != self.max_tokens:
                self._pipeline.max_seq_length = self.max_tokens
            return dict(self._pipeline.preprocess(check_texts(items), prompt=self.prompt or None))

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prompt and text, special ones included, nothing cut off."""
        with self._lock:
            return uncut_ids(self._pipeline.tokenizer, [self.prompt + text for text in check_texts(texts)])

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        if layers and self._blocks:
            with block_outputs(self._blocks) as states:
                features = self.network(dict(inputs))
        else:
            states, features = [], self.network(dict(inputs))
        mask = features.get("attention_mask")
        return Output(
            pooled=features["sentence_embedding"],
            tokens=features.get("token_embeddings"),
            mask=None if mask is None else mask.bool(),
            layers=states,
        )


class SentenceImageEncoder(Encoder):
    """Pooled: the embedding of a multimodal pipeline. No tokens, no layers: `hf:` gives those."""

    def __init__(self, folder: Path, uri: EncoderURI, pipeline: Any, device: str | torch.device | None) -> None:
        if uri.size:
            raise UsageError(f"{uri}: size is not an option of a Sentence-Transformers pipeline.")
        self._lock, self._pipeline = threading.Lock(), pipeline
        ingredients = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": _pipeline_config(folder),
            "image_processor": _processor_config(folder),
        }
        super().__init__(uri, "image", pipeline, ingredients, pools=(), device=device)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        with self._lock:
            return dict(self._pipeline.preprocess([to_pil(item) for item in items]))

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        return Output(pooled=self.network(dict(inputs))["sentence_embedding"])


def _within_table(uri: EncoderURI, transformer: Any) -> int:
    table = position_limit(transformer) if transformer is not None else None
    if table and uri.max_tokens and uri.max_tokens > table:
        raise UsageError(f"{uri}: max_tokens is at most {table}: the model has no more positions.")
    return uri.max_tokens or 0


def _pipeline_config(folder: Path) -> dict[str, Any]:
    """The configuration of the transformer and of each module of the pipeline."""
    configs: dict[str, Any] = {}
    listed = folder / "modules.json"
    modules = read_json(listed) if listed.exists() else [{"path": "", "type": ""}]
    for module in modules:
        file = folder / module["path"] / "config.json"
        settings = hub.read_config(file.parent) if file.exists() else {}
        configs[module["path"]] = {"type": module["type"].rpartition(".")[2], **settings}
    return configs


def _processor_config(folder: Path) -> dict[str, Any]:
    """What is written about the preprocessing of images, in whichever module's folder."""
    names = ("preprocessor_config.json", "processor_config.json")
    files = sorted(file for name in names for file in folder.rglob(name))
    return {file.relative_to(folder).as_posix(): hub.read_config(file.parent, file.name) for file in files}


def _ids(pipeline: Any, text: str) -> list[int]:
    encoded = pipeline.tokenizer.encode(text)
    return list(getattr(encoded, "ids", encoded))
