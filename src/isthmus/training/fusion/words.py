"""Masked words: which tokens of a text encoder's input are hidden, and what they were (BERT's scheme)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isthmus.encoders import Encoder
from isthmus.errors import UsageError

MASKED, RANDOM = 0.8, 0.1  # shares of the chosen tokens that are masked, and replaced by any other


@dataclass(frozen=True)
class Vocabulary:
    """A text encoder's vocabulary. special: ids that are never hidden."""

    size: int
    mask: int
    special: Tensor

    @classmethod
    def of(cls, encoder: Encoder) -> Vocabulary:
        """Raises `UsageError` for an encoder without a vocabulary or a token that masks."""
        pipeline = getattr(encoder, "_pipeline", None)
        tokenizer: Any = getattr(encoder, "tokenizer", None) or getattr(pipeline, "tokenizer", None)
        mask = getattr(tokenizer, "mask_token_id", None)
        if mask is None:
            raise UsageError(
                f"objectives.words: {encoder.uri} has no vocabulary with a token that masks. Set objectives.words = 0."
            )
        return cls(len(tokenizer), int(mask), torch.tensor(sorted(tokenizer.all_special_ids)))

    def hidden(self, inputs: dict[str, Any], share: float) -> tuple[dict[str, Any], Tensor]:
        """The inputs with some tokens hidden, and their ids where they are, else -100: int64 [B, T].

        Drawn from torch's global generator. A text of which none was drawn has its first word hidden.
        """
        ids: Tensor = inputs["input_ids"]
        real = inputs["attention_mask"].bool() & ~torch.isin(ids, self.special)
        chosen = real & (torch.rand(ids.shape) < share)
        none = ~chosen.any(1) & real.any(1)
        chosen[none, real[none].int().argmax(1)] = True
        fate, other = torch.rand(ids.shape), torch.randint(self.size, ids.shape)
        found = torch.where(chosen & (fate < MASKED), torch.full_like(ids, self.mask), ids)
        found = torch.where(chosen & (fate >= MASKED) & (fate < MASKED + RANDOM), other, found)
        return inputs | {"input_ids": found}, torch.where(chosen, ids, torch.full_like(ids, -100))
