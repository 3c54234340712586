"""Any Python function as an encoder: for models behind an API or in another library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from isthmus.encoders.base import Encoder, Inputs, Output
from isthmus.encoders.modality import Modality, spec_of
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, UsageError


def from_callable(
    fn: Callable[[list[Any]], Any],
    modality: Modality,
    fingerprint: str,
    *,
    name: str | None = None,
    width: int | None = None,
) -> Encoder:
    """An encoder made of `fn`: list of N RGB PIL images, or N strings, to an array or tensor [N, D].

    fingerprint: any text that changes whenever the features would; stores and models compare it.
    name: its name in records; default the function's own.
    width: D; without it, `fn` is called once to learn it.
    A saved model cannot load such an encoder; pass it in again.
    """
    spec_of(modality)
    if not fingerprint:
        raise UsageError("fingerprint= must name the version of the function: it stands for its weights.")
    uri = EncoderURI("callable", name or str(getattr(fn, "__name__", "function")))
    return CallableEncoder(uri, modality, fn, fingerprint, width)


class CallableEncoder(Encoder):
    """Pooled features only: no tokens, no layers."""

    def __init__(
        self, uri: EncoderURI, modality: Modality, fn: Callable[..., Any], fingerprint: str, width: int | None
    ) -> None:
        self._fn, self._stated_width = fn, width
        super().__init__(uri, modality, nn.Identity(), {"callable": fingerprint}, pools=(), device="cpu")

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """The items themselves; the function does its own preprocessing."""
        return {"items": self.spec.read(items)}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        pooled = torch.as_tensor(self._fn(inputs["items"])).float()
        expected = (len(inputs["items"]), self._stated_width or pooled.shape[-1])
        if pooled.shape != expected:
            raise InputError(f"{self.uri}: gave shape {list(pooled.shape)} instead of {list(expected)}.")
        return Output(pooled=pooled)

    def _measure(self) -> None:
        if self._stated_width is None:
            super()._measure()
            self._stated_width = self._pooled_width
        self._layer_widths, self._token_width, self._pooled_width = [], 0, self._stated_width
        self._patches, self._leading = [0], 0
