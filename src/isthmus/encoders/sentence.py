"""`st:` – Sentence-Transformers pipelines with all their modules, including Dense and Normalize.

A multimodal pipeline (such as CLIP) has one space for both modalities: pass modality="image" for its image side.
"""

from __future__ import annotations

import math
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
    refuse_what_reads_padding,
)
from isthmus.encoders.fingerprint import files_digest, tokenizer_digest
from isthmus.encoders.huggingface import position_limit, text_pools, uncut_ids, unknown_id
from isthmus.encoders.images import to_pil
from isthmus.encoders.modality import Modality, check_texts
from isthmus.encoders.modules import find_modules, kind
from isthmus.encoders.portable import TEXT_INPUTS, Portable, pipeline, prefixed, tokenizer, transformer
from isthmus.encoders.uri import EncoderURI, is_path
from isthmus.encoders.vetting import check_folder
from isthmus.errors import UsageError
from isthmus.files import read_json

# Files of settings beside config.json, in a module's folder.
SETTINGS = (
    *("sentence_*_config.json", "router_config.json", "cnn_config.json", "lstm_config.json"),
    *("wordembedding_config.json", "whitespacetokenizer_config.json", "phrasetokenizer_config.json"),
)
# Settings of a Transformer that affect features, and their usual values for texts.
USUAL: dict[str, Any] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
    **{name: {} for name in ("processing_kwargs", "config_kwargs", "config_args")},
    "query_expansion": None,
}


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
    """The encoder in a Sentence-Transformers folder: of texts, or of images if the pipeline takes them."""
    from sentence_transformers import SentenceTransformer

    if not trust_remote_code:
        check_folder(folder, uri)
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
    encoder = build(folder, uri, pipeline, device, trust_remote_code)
    encoder.licence, encoder.revision = hub.licence_of(folder), hub.revision_of(folder)
    return encoder


class SentenceEncoder(Encoder):
    """Pooled: the pipeline's sentence embedding. Tokens and layers: those of its Transformer, if any."""

    def __init__(
        self,
        folder: Path,
        uri: EncoderURI,
        pipeline: Any,
        device: str | torch.device | None,
        trust_remote_code: bool,
    ) -> None:
        transformer = getattr(pipeline[0], "auto_model", None)
        config = getattr(transformer, "config", None)
        self._blocks = find_blocks(pipeline, getattr(config, "num_hidden_layers", None))
        if uri.max_tokens:
            if _limit(pipeline) is None:
                raise UsageError(f"{uri}: max_tokens is not an option here: the pipeline reads texts of any length.")
            pipeline.max_seq_length = _within_table(uri, transformer)
        default_prompt = pipeline.prompts.get(pipeline.default_prompt_name, "")
        self.prompt = default_prompt if uri.prompt is None else uri.prompt
        self._lock, self._pipeline = threading.Lock(), pipeline
        self.max_tokens, self.unknown_id = _limit(pipeline), unknown_id(pipeline.tokenizer)
        self.position_limit = position_limit(transformer) if transformer is not None else None
        ingredients = {
            **_contents(folder, trust_remote_code),
            "tokenizer": tokenizer_digest(_vocabulary(pipeline), lambda text: _ids(pipeline, text)),
            "max_tokens": self.max_tokens,
            "prompt": self.prompt,
        }
        multimodal = len(pipeline.modalities) > 1  # its tokens are not accessible
        pools = text_pools(pipeline.tokenizer) if transformer is not None and not multimodal else ()
        earlier = _earlier(folder, ingredients)
        super().__init__(uri, "text", pipeline, ingredients, pools=pools, device=device, earlier=earlier)
        refuse_what_reads_padding(self, " → ".join(type(module).__name__ for module in pipeline))

    def preprocess(self, items: Sequence[str]) -> Inputs:
        with self._lock:  # a fast tokenizer keeps truncation and padding as state, the pipeline its length
            if self.max_tokens is not None and self._pipeline.max_seq_length != self.max_tokens:
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

    def portable(self) -> Portable:
        first, *behind = list(self._pipeline)
        end, weights = pipeline(behind, self.uri)
        if self.prompt and not all(getattr(module, "include_prompt", True) for module in behind):
            raise UsageError(f"{self.uri}: its pooling leaves the prompt out, which cannot be exported.")
        state = prefixed("after.modules_after", weights)
        how = {"prompt": self.prompt, "max_tokens": self.max_tokens}
        if kind(type(first).__name__) == "StaticEmbedding":
            table = first.embedding.weight
            network = {"kind": "table", "shape": list(table.shape), **end, "pool": "mean"}
            told = tokenizer(self._pipeline.tokenizer, self.uri, **how, add_special_tokens=False)
            return Portable(network, {"network.weight": table.detach().cpu(), **state}, tokenizer=told)
        if type(first).__name__ != "Transformer" or len(self._pipeline.modalities) > 1 or end["pool"] is None:
            raise UsageError(f"{self.uri}: its pipeline is more than a transformer of texts and a pooling.")
        inputs = [name for name in TEXT_INPUTS if name in self.preprocess(["a"])]
        network = {"kind": "text", **transformer(first.auto_model, self.uri), "inputs": inputs, **end}
        network |= {"depth": getattr(first.auto_model.config, "num_hidden_layers", None)}
        network |= {"pooled": None, "time_first": False}
        told = tokenizer(self._pipeline.tokenizer, self.uri, **how)
        return Portable(network, prefixed("network", first.auto_model) | state, tokenizer=told)


class SentenceImageEncoder(Encoder):
    """Pooled: the embedding of a multimodal pipeline. No tokens, no layers: `hf:` gives those."""

    def __init__(
        self,
        folder: Path,
        uri: EncoderURI,
        pipeline: Any,
        device: str | torch.device | None,
        trust_remote_code: bool,
    ) -> None:
        if uri.size:
            raise UsageError(f"{uri}: size is not an option of a Sentence-Transformers pipeline.")
        self._lock, self._pipeline = threading.Lock(), pipeline
        ingredients = {**_contents(folder, trust_remote_code), "image_processor": _processor_config(folder)}
        earlier = _earlier(folder, ingredients)
        super().__init__(uri, "image", pipeline, ingredients, pools=(), device=device, earlier=earlier)

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


def _contents(folder: Path, trust_remote_code: bool) -> dict[str, Any]:
    """Weights, configurations and, where it runs, code of the transformer and of each module of the pipeline."""
    found = find_modules(folder) or {"": ""}
    contents: dict[str, Any] = {
        "weights": files_digest(hub.weight_files(folder), folder),
        "config": {path: {"type": kind(type_), **_config(folder / path)} for path, type_ in found.items()},
    }
    settings = {
        file.relative_to(folder).as_posix(): relevant
        for path in found
        for pattern in SETTINGS
        for file in sorted((folder / path).glob(pattern))
        if (relevant := _relevant(read_json(file), plain=not pattern.startswith("sentence")))
    }
    if settings:  # ordinary pipelines have none
        contents["settings"] = settings
    return contents | (hub.code(folder) if trust_remote_code else {})


def _earlier(folder: Path, ingredients: dict[str, Any]) -> dict[str, Any]:
    """The ingredients by the earlier rule, without nested modules, their settings and code."""
    listed = folder / "modules.json"
    outer = read_json(listed) if listed.exists() else [{"path": "", "type": ""}]
    config = {entry["path"]: {"type": kind(entry["type"]), **_config(folder / entry["path"])} for entry in outer}
    places = {folder, *(folder / entry["path"] for entry in outer)}
    weights = [file for file in hub.weight_files(folder) if file.parent in places]
    kept = {key: value for key, value in ingredients.items() if key not in ("settings", "code")}
    return kept | {"weights": files_digest(weights, folder), "config": config}


def _config(folder: Path) -> dict[str, Any]:
    return hub.read_config(folder) if (folder / "config.json").exists() else {}


def _relevant(settings: dict[str, Any], plain: bool) -> dict[str, Any]:
    """The settings that matter besides other ingredients; of a Transformer (not `plain`), the unusual ones."""
    unusual = {key: settings[key] for key, usual in USUAL.items() if settings.get(key, usual) != usual}
    return settings if plain else unusual


def _processor_config(folder: Path) -> dict[str, Any]:
    """The configuration of image preprocessing, in any module's folder."""
    names = ("preprocessor_config.json", "processor_config.json")
    files = sorted(file for name in names for file in folder.rglob(name))
    return {file.relative_to(folder).as_posix(): hub.read_config(file.parent, file.name) for file in files}


def _limit(pipeline: Any) -> int | None:
    """How many tokens of a text are read; None for pipelines without a limit (static embeddings, bags of words)."""
    limit = pipeline.max_seq_length
    return None if limit is None or math.isinf(limit) else int(limit)


def _vocabulary(pipeline: Any) -> dict[str, int]:
    found = pipeline.tokenizer.get_vocab()  # a tokenizer of words has a list of them
    return found if isinstance(found, dict) else {word: i for i, word in enumerate(found)}


def _ids(pipeline: Any, text: str) -> list[int]:
    if not hasattr(pipeline.tokenizer, "encode"):  # a tokenizer of words
        return uncut_ids(pipeline.tokenizer, [text])[0]
    encoded = pipeline.tokenizer.encode(text)
    return list(getattr(encoded, "ids", encoded))
