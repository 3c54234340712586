"""Static token embeddings (WordLlama): a table and a tokenizer. The only layer is the embedding."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn

from isthmus.encoders import hub
from isthmus.encoders.base import Encoder, Inputs, Output
from isthmus.encoders.fingerprint import files_digest, tokenizer_digest
from isthmus.encoders.huggingface import unknown_id
from isthmus.encoders.modality import check_texts
from isthmus.encoders.portable import Portable, prefixed
from isthmus.encoders.portable import tokenizer as portable_tokenizer
from isthmus.encoders.uri import EncoderURI


class StaticEncoder(Encoder):
    """The mean of the token embeddings, not normalised, as WordLlama's `embed` gives it by default."""

    def __init__(self, folder: Path, uri: EncoderURI, device: str | torch.device | None) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.prompt = uri.prompt or ""
        self._lock = threading.Lock()
        self.tokenizer.no_truncation()
        self.max_tokens, self.unknown_id = uri.max_tokens, unknown_id(self.tokenizer)
        table = load_file(folder / "model.safetensors")["embedding.weight"].float()
        ingredients = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "tokenizer": tokenizer_digest(self.tokenizer.get_vocab(), self._ids),
            "max_tokens": uri.max_tokens,
            "prompt": self.prompt,
        }
        network = nn.Embedding.from_pretrained(table)
        super().__init__(uri, "text", network, ingredients, pools=("mean", "max", "last"), device=device)

    def preprocess(self, items: Sequence[str]) -> Inputs:
        with self._lock:
            rows = [torch.tensor(self._ids(self.prompt + item), dtype=torch.long) for item in check_texts(items)]
        longest = max(1, *(len(row) for row in rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, True
        return {"input_ids": ids, "mask": mask}

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of prompt and text, nothing cut off."""
        with self._lock:
            given = [self.prompt + text for text in check_texts(texts)]
            return [encoded.ids for encoded in self.tokenizer.encode_batch(given, add_special_tokens=False)]

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        tokens = self.network(inputs["input_ids"])
        return Output(tokens=tokens, mask=inputs["mask"], layers=[tokens] if layers else ())

    def portable(self) -> Portable:
        network: Any = self.network
        shape = [network.num_embeddings, network.embedding_dim]
        how = {"prompt": self.prompt, "max_tokens": self.max_tokens, "add_special_tokens": False}
        told = portable_tokenizer(self.tokenizer, self.uri, **how)
        config = {"kind": "table", "shape": shape, "pool": None, "modules": []}
        return Portable(config, prefixed("network", network), tokenizer=told)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids[: self.max_tokens]


def from_folder(folder: Path, uri: EncoderURI, *, device: str | torch.device | None = None) -> Encoder:
    return StaticEncoder(folder, uri, device)
