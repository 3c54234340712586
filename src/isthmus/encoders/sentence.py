"""`st:` – Sentence-Transformers pipelines: whatever their modules say, including Dense and Normalize."""

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
    Modality,
    Output,
    block_outputs,
    check_texts,
    find_blocks,
)
from isthmus.encoders.fingerprint import files_digest, tokenizer_digest
from isthmus.encoders.huggingface import position_limit, text_pools
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import UsageError
from isthmus.files import read_json


def load(uri: EncoderURI, *, modality: Modality | None, fetch: bool, **options: Any) -> Encoder:
    """Load an `st:` encoder; see `load_encoder`."""
    return from_folder(hub.resolve(uri, uri.name, uri.revision, fetch=fetch), uri, **options)


def from_folder(
    folder: Path,
    uri: EncoderURI,
    *,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """The text encoder that the Sentence-Transformers folder describes."""
    from sentence_transformers import SentenceTransformer

    with hub.loading(uri):
        pipeline = SentenceTransformer(
            str(folder),
            device="cpu",
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            model_kwargs={"use_safetensors": True, "dtype": uri.dtype or "float32"},
        )
    encoder = SentenceEncoder(folder, uri, pipeline, device)
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
        ingredients = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": _pipeline_config(folder),
            "tokenizer": tokenizer_digest(pipeline.tokenizer.get_vocab(), lambda text: _ids(pipeline, text)),
            "max_tokens": pipeline.max_seq_length,
            "prompt": self.prompt,
        }
        pools = text_pools(pipeline.tokenizer) if transformer is not None else ()
        super().__init__(uri, "text", pipeline, ingredients, pools=pools, device=device)

    def preprocess(self, items: Sequence[str]) -> Inputs:
        with self._lock:  # a fast tokenizer keeps truncation and padding as state
            return dict(self._pipeline.preprocess(check_texts(items), prompt=self.prompt or None))

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


def _ids(pipeline: Any, text: str) -> list[int]:
    encoded = pipeline.tokenizer.encode(text)
    return list(getattr(encoded, "ids", encoded))
