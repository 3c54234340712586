"""`load_encoder`: from a URI to an encoder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from isthmus.encoders.base import Encoder
from isthmus.encoders.framewise import FramewiseEncoder
from isthmus.encoders.front_end import FrontEndEncoder
from isthmus.encoders.modality import Modality, spec_of
from isthmus.encoders.sources import SOURCES
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import UsageError, caught
from isthmus.modality import FIRST


def load_encoder(
    uri: str | EncoderURI | Encoder,
    *,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    fetch: bool = True,
) -> Encoder:
    """Load one frozen encoder; a loaded one is returned as it is.

    uri: `source:name[@revision][?option=value&…]`, sources hf, st, timm, open_clip, wheel (of the package isthmus-demo)
        and those of other packages (`isthmus.encoders.sources`); see `EncoderURI`.
    modality: a name of `isthmus.encoders.modality.MODALITIES`; needed for models with two towers, otherwise checked.
    device: default CUDA where there is one, else the CPU. fetch: False never touches the network.
    trust_remote_code: run Python code that comes with the model; also an option of the URI.

    Raises UsageError (a name, option, layer or pooling that does not exist, or a source whose package is not
    installed), OfflineError (not in the cache and not available now), InputError (files that cannot be used).
    """
    if isinstance(uri, Encoder):
        return _checked(uri, modality)
    parsed = EncoderURI.parse(uri)
    if parsed.several:
        raise UsageError(f"{parsed}: names several layers, and so several encoders: use load_encoders.")
    encoder = _load_backbone(parsed.backbone(), modality, device, trust_remote_code, fetch)
    return encoder.at(parsed.layer, parsed.pool)  # type: ignore[arg-type]


def load_encoders(
    uris: Iterable[str | EncoderURI | Encoder],
    *,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    fetch: bool = True,
) -> list[Encoder]:
    """Load several, each network once: views of one network share it. `layer=*` and `layer=4,8` become a view per
    layer; encoders that are loaded already follow.
    """
    backbones: dict[EncoderURI, Encoder] = {}
    views: list[Encoder] = []
    named = list(uris)
    for parsed in (EncoderURI.parse(one) for one in named if not isinstance(one, Encoder)):
        key = parsed.backbone()
        if key not in backbones:
            backbones[key] = _load_backbone(key, modality, device, trust_remote_code, fetch)
        if parsed.several:
            views += backbones[key].expand(parsed.pool, parsed.layer)  # type: ignore[arg-type]
        else:
            views.append(backbones[key].at(parsed.layer, parsed.pool))  # type: ignore[arg-type]
    return [*views, *(_checked(one, modality) for one in named if isinstance(one, Encoder))]


def load_recorded(uris: Iterable[str], *, modality: Modality, **options: Any) -> list[Encoder]:
    """The encoders that a model or a store names; `options` as for `load_encoders`.

    Such files may come from anyone. Code runs only if the caller allows it now, even if their URIs allow it.
    """
    named = [replace(EncoderURI.parse(uri), trust_remote_code=None) for uri in uris]
    return load_encoders(named, modality=modality, **options)


def _load_backbone(
    uri: EncoderURI,
    modality: Modality | None,
    device: str | torch.device | None,
    trust_remote_code: bool,
    fetch: bool,
) -> Encoder:
    trust = uri.trust_remote_code if uri.trust_remote_code is not None else trust_remote_code
    if trust and uri.source in ("hf", "st"):
        warnings.warn(
            f"{uri.source}:{uri.name}: trust_remote_code is on: Python code from there runs on this machine.",
            RuntimeWarning,
            stacklevel=3,
        )
    if modality is not None:
        spec_of(modality)
    if uri.fps is not None:
        plain = replace(uri, fps=None, frame=None, stem=None)
        pictures = _load_backbone(plain, FIRST[0], device, trust_remote_code, fetch)
        made = FramewiseEncoder if uri.stem is None else FrontEndEncoder
        return _checked(made(pictures, uri), modality, uri)
    load = SOURCES.find(uri.source)
    with caught(uri):
        encoder: Encoder = load(uri, modality=modality, device=device, trust_remote_code=trust, fetch=fetch)
    return _checked(encoder, modality, uri)


def _checked(encoder: Encoder, modality: Modality | None, uri: EncoderURI | None = None) -> Encoder:
    if modality and encoder.modality != modality:
        raise UsageError(f"{uri or encoder.uri}: is an encoder of {encoder.modality}s, not of {modality}s.")
    return encoder
