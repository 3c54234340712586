"""Projectors that see every token (freeze-align: Maniparambil et al., CVPR 2025, arXiv 2409.19425).

A kind names the block for each slot of the tokens and, optionally, a chain after the mean:

    cls:parallel,tokens:parallel      the class token, and every patch, each by a block of its own; their sum
    tokens:parallel+residual          every token of a text, their mean, then freeze-align's MLP head

A slot's block is one of `KINDS`; `none` leaves the slot out (freeze-align's ablations call that identity), and
`identity`, before a chain, passes the normalised tokens on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isthmus.errors import UsageError
from isthmus.projectors.blocks import Block, Identity
from isthmus.projectors.projector import KINDS, Projector

SLOTS = ("cls", "tokens")
TOKENS_AT_ONCE = 4096  # rows that go through a block together, of similar length, so that little is padding
TOKENS_KEPT = 131_072  # tokens whose hidden units are kept for the backward pass; larger batches are computed twice


def takes_tokens(kind: str) -> bool:
    """Whether a kind of projector takes tokens side by side, and not pooled features."""
    return ":" in kind


def slots(kind: str) -> dict[str, str]:
    """The block of each slot: `{"cls": "parallel", "tokens": "linear"}`."""
    named = [one.partition(":") for one in kind.partition("+")[0].split(",")]
    return {slot: block for slot, _, block in named}


class Slot(nn.Module):
    """LayerNorm, dropout and a block on each token, […, D] to […, width]."""

    def __init__(self, block: str, inputs: int, width: int, *, norm: str, dropout: float, expand: float | None) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm == "none" else nn.LayerNorm(inputs)
        self.dropout = nn.Dropout(dropout)
        made = Identity if block == "identity" else KINDS.find(block)
        self.block: Block = made([inputs], width, expand=expand, dropout=dropout)

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.block.features(self.dropout(self.norm(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.block.readout(*self.features(x))


class TokenProjector(Projector):
    """[N, T·D] (tokens side by side, the class token first if there is a slot for it) to [N, width].

    padded: whether rows may end in padding, which is the zeros behind the last token that is not all zeros. Any other
        token of zeros, such as a dead patch of a ReLU network, counts as a token. Training, evaluation and `dense`
    compute the same function.
    """

    def __init__(self, kind: str, parts: Sequence[int], width: int, *, padded: bool = True, **options: Any) -> None:
        super().__init__(kind, parts, width, **options)
        self.padded = padded

    def config(self) -> dict[str, Any]:
        return {**super().config(), "padded": self.padded}

    def _check_kind(self) -> None:
        named, chain = slots(self.kind), self.kind.split("+")[1:]
        if "tokens" not in named or not set(named) <= set(SLOTS) or self.kind.count(":") != len(named):
            raise UsageError(
                f"projector {self.kind!r}: the slots are cls and tokens, such as 'cls:parallel,tokens:parallel' or "
                "'tokens:parallel+residual'."
            )
        for block in named.values():
            self._check_block(block, (*KINDS.names(), "none", *["identity"] * bool(chain)))
        for name in chain:
            self._check_block(name, KINDS.names())
        if set(named.values()) == {"none"} or ("identity" in named.values() and len(named) > 1):
            raise UsageError(f"projector {self.kind!r}: slots with `none` or `identity` cannot be summed.")
        if len(set(self.parts)) > 1 or len(self.parts) < len(named):
            raise UsageError(
                f"projector {self.kind!r} takes tokens of one width, such as parts [384] * 17, but these have parts "
                f"{self.parts[:9]}. Embed them with pool=cls+patches, cls+grid16 or tokens, or choose a pooled kind."
            )

    def _build(self) -> None:
        named, chain = slots(self.kind), self.kind.split("+")[1:]
        self.has_cls = "cls" in named
        self.cls = self._slot(named.get("cls", "none"))
        self.tokens = self._slot(named["tokens"])
        identity = named["tokens"] == "identity"
        self.head = self._chain(chain, [self.parts[0] if identity else self.width])

    def _slot(self, block: str) -> Slot | None:
        return None if block == "none" else Slot(block, self.parts[0], self.width, **self._options)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unflatten(-1, (len(self.parts), self.parts[0]))
        cls, tokens = (tokens[:, 0], tokens[:, 1:]) if self.has_cls else (None, tokens)
        pooled = None if self.tokens is None else self._mean(tokens)
        return self.head(_sum(pooled, self._class(cls)))

    def dense(self, tokens: Tensor, cls: Tensor | None = None) -> Tensor:
        """Every token [N, T, D] in the joint space, [N, T, width], not normalised.

        cls: the class tokens [N, D], whose projection is added to each token's: then the mean over the tokens is what
            `forward` gives (without a chain behind). Without it: the tokens alone, as in freeze-align's segmentation.

        Raises `UsageError` for a head that leaves the tokens out.
        """
        if self.tokens is None:
            raise UsageError(f"projector {self.kind!r} leaves the tokens out: it has no embedding of a single patch.")
        projected = self._class(cls)
        return self.head(_sum(self.tokens(tokens), None if projected is None else projected[:, None]))

    def _class(self, cls: Tensor | None) -> Tensor | None:
        return None if self.cls is None or cls is None else self.cls(cls)

    def _mean(self, tokens: Tensor) -> Tensor:
        """The mean of the projections of each row's real tokens, [N, T, D] to [N, width]."""
        assert self.tokens is not None
        real = self._real(tokens)
        lengths = real.sum(dim=1).clamp(min=1)
        order = lengths.argsort(stable=True)
        keep = not torch.is_grad_enabled() or int(lengths.sum()) <= TOKENS_KEPT
        means = []
        for rows in order.split(max(1, TOKENS_AT_ONCE // real.shape[1])):
            some = tokens[rows, : int(lengths[rows[-1]])], real[rows, : int(lengths[rows[-1]])]
            means.append(self._means(*some) if keep else checkpoint(self._means, *some, use_reentrant=False))
        back = order.argsort()
        return self.tokens.block.readout(*(torch.cat(parts)[back] for parts in zip(*means, strict=True)))

    def _real(self, tokens: Tensor) -> Tensor:
        """Which of tokens [N, T, D] are not padding: bool [N, T]."""
        there = (tokens != 0).any(dim=-1) if self.padded else torch.ones_like(tokens[..., 0], dtype=torch.bool)
        return there.flip(1).cumsum(dim=1).flip(1) > 0  # up to the last that is there

    def _means(self, tokens: Tensor, real: Tensor) -> tuple[Tensor, ...]:
        """The block's features of tokens [n, T, D], averaged over those that are real (bool [n, T]): [n, …] each."""
        assert self.tokens is not None
        weights = (real / real.sum(dim=1, keepdim=True).clamp(min=1))[:, None]
        return tuple((weights.to(one.dtype) @ one).squeeze(1) for one in self.tokens.features(tokens))


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor:
    """The sum of the tensors that are there."""
    if a is None or b is None:
        (there,) = (one for one in (a, b) if one is not None)
        return there
    return a + b
