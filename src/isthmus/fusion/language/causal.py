"""A causal language model by its URI: weights, tokenizer, chat template, and the fingerprint of all of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isthmus.encoders import hub
from isthmus.encoders.base import find_blocks
from isthmus.encoders.fingerprint import digest, files_digest, tokenizer_digest
from isthmus.encoders.sources import SOURCES
from isthmus.encoders.uri import EncoderURI
from isthmus.encoders.vetting import check_folder
from isthmus.errors import InputError, UsageError

LanguageRecord = dict[str, Any]  # uri, revision, fingerprint, licence and note, as a model's configuration has them


@dataclass(frozen=True)
class CausalLanguage:
    """A loaded language model. network: a causal LM of transformers, in float32, frozen."""

    network: Any
    tokenizer: Any
    record: LanguageRecord

    @property
    def hidden(self) -> int:
        """Width of its hidden states."""
        return int(self.network.get_input_embeddings().embedding_dim)

    @property
    def context(self) -> int:
        """Tokens that it takes."""
        return int(getattr(self.network.config, "max_position_embeddings", 0) or sys.maxsize)

    @property
    def layers(self) -> list[nn.Module]:
        return decoder_layers(self.network)


def decoder_layers(network: nn.Module) -> list[nn.Module]:
    """The decoder's layers, bottom first. Raises `InputError` for a network that has none to be found."""
    found = find_blocks(network, getattr(network.config, "num_hidden_layers", None))
    if not found:
        raise InputError(f"{type(network).__name__}: its decoder layers cannot be told apart.")
    return found


def load_language(uri: str, *, device: str | torch.device | None = None, fetch: bool = True) -> CausalLanguage:
    """Load a causal language model, `hf:` (of the hub, or a folder) or `wheel:`; code that comes with it is not run.

    Raises `UsageError` for a source or a name that does not exist, `InputError` for a folder that holds no causal
    language model, OfflineError where it cannot be fetched.
    """
    parsed = EncoderURI.parse(uri)
    if parsed.backbone() != EncoderURI(parsed.source, parsed.name, parsed.revision):
        raise UsageError(f"{uri}: a language model takes no options behind its name.")
    find = getattr(sys.modules[SOURCES.find(parsed.source).__module__], "language_folder", None)
    if find is None:
        raise UsageError(f"{uri}: language models are those of `hf:` and `wheel:`.")
    found: hub.LanguageFolder = find(parsed, fetch=fetch)
    check_folder(found.path, parsed)
    network, tokenizer = _network(found.path, parsed), _tokenizer(found.path, parsed)
    record = {
        "uri": str(parsed),
        "revision": found.revision,
        "fingerprint": _fingerprint(found.path, tokenizer),
        "licence": found.licence,
        "note": found.note,
    }
    return CausalLanguage(network.to(device or "cpu"), tokenizer, record)


def check_language(language: CausalLanguage, record: LanguageRecord) -> None:
    """Refuse a language model other than the one a model was trained on."""
    if language.record["fingerprint"] != record["fingerprint"]:
        raise InputError(
            f"{language.record['uri']} is not the language model this was trained with ({record['uri']}): its weights, "
            f"configuration or tokenizer differ. Fingerprint {language.record['fingerprint'][:12]} instead of "
            f"{str(record['fingerprint'])[:12]}."
        )


def _network(folder: Path, uri: EncoderURI) -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    shared: dict[str, Any] = {"local_files_only": True}
    with hub.loading(uri):
        config = AutoConfig.from_pretrained(folder, **shared)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or getattr(config, "is_encoder_decoder", False):
        raise UsageError(f"{uri}: a {config.model_type} is no causal language model.")
    with hub.loading(uri):
        shared |= {"use_safetensors": True, "output_loading_info": True, "dtype": "float32"}
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, config=config, **shared)
    network, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{uri}: its weights lack {', '.join(missing[:3])}: it is no trained language model.")
    return network.eval().requires_grad_(False)


def _tokenizer(folder: Path, uri: EncoderURI) -> Any:
    from transformers import AutoTokenizer

    with hub.loading(uri):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{uri}: its tokenizer has no token that ends a text, so that no answer would end.")
    if tokenizer.pad_token is None:  # any token will do: padding is masked
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _fingerprint(folder: Path, tokenizer: Any) -> str:
    return digest(
        {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": hub.read_config(folder),
            "tokenizer": tokenizer_digest(tokenizer.get_vocab(), tokenizer.encode),
            "template": tokenizer.chat_template,
        }
    )
