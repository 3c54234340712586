"""`timm:` – image models of timm, from the hub or a folder in its format (config.json, model.safetensors)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus.encoders import hub
from isthmus.encoders.base import Encoder, Inputs, Output, block_outputs, flatten_map
from isthmus.encoders.fingerprint import files_digest
from isthmus.encoders.images import to_pil
from isthmus.encoders.modality import Modality
from isthmus.encoders.uri import EncoderURI, is_path
from isthmus.encoders.vetting import check_folder
from isthmus.errors import UsageError


def load(
    uri: EncoderURI,
    *,
    modality: Modality | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    fetch: bool = True,
) -> Encoder:
    """Load a `timm:` encoder; see `load_encoder`. Needs the extra `isthmus[timm]`."""
    try:
        import timm  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{uri}: needs timm: pip install 'isthmus[timm]' ({error}).") from None
    folder = hub.resolve(uri, "" if is_path(uri.name) else _repo(uri), uri.revision, fetch=fetch)
    if not trust_remote_code:
        check_folder(folder, uri)
    with hub.loading(uri):
        network = _create(folder, uri.size)
    encoder = TimmEncoder(folder, uri, network, device)
    encoder.licence, encoder.revision = hub.licence_of(folder), hub.revision_of(folder)
    return encoder


class TimmEncoder(Encoder):
    """Pooled: what the model's own head would classify.

    Layers: embedding and blocks of a ViT, else timm's feature stages, of which the first is the stem only in
    families that expose it.
    """

    def __init__(self, folder: Path, uri: EncoderURI, network: Any, device: str | torch.device | None) -> None:
        from timm.data import create_transform, resolve_model_data_config

        settings = resolve_model_data_config(network)
        if uri.size:
            settings["input_size"] = (3, uri.size, uri.size)
        self.transform = create_transform(**settings, is_training=False)
        self._prefix = getattr(network, "num_prefix_tokens", 0)
        self._blocks = list(network.blocks) if hasattr(network, "num_prefix_tokens") else []
        ingredients = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": hub.read_config(folder),
            "image_processor": {key: settings[key] for key in sorted(settings)},
        }
        has_cls = getattr(network, "cls_token", None) is not None
        pools = ("cls", "mean", "max") if has_cls else ("mean", "max")
        default = "cls" if has_cls else "mean"
        super().__init__(uri, "image", network, ingredients, pools=pools, default_pool=default, device=device)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """The model's own transform: {"pixel_values": [N, 3, H, W]}."""
        return {"pixel_values": torch.stack([self.transform(to_pil(item)) for item in items])}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        network: Any = self.network
        states: list[Tensor] = []
        if layers and self._blocks:
            with block_outputs(self._blocks) as states:
                features = network.forward_features(inputs["pixel_values"])
        elif layers:
            features, states = network.forward_intermediates(inputs["pixel_values"], output_fmt="NCHW")
        else:
            features = network.forward_features(inputs["pixel_values"])
        return Output(
            pooled=network.forward_head(features),
            tokens=self._tokens(features),
            layers=[flatten_map(state) for state in states],
            prefix=self._prefix,
        )

    def _tokens(self, features: Tensor) -> Tensor:
        """The final features as [N, T, D]; some models keep channels last."""
        channels_last = features.ndim == 4 and getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        return features.flatten(1, 2) if channels_last else flatten_map(features)


def _repo(uri: EncoderURI) -> str:
    """The hub repository of a timm name: `hf_hub:owner/name` as it stands, else from timm's registry."""
    import timm

    schema, _, repo = uri.name.rpartition(":")
    if schema in ("hf_hub", "hf-hub"):
        return repo
    architecture = uri.name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        raise UsageError(f"{uri}: timm has no model {architecture!r}. Near: {', '.join(near) or 'none'}.")
    try:
        config = timm.get_pretrained_cfg(uri.name)
    except RuntimeError:  # a tag that does not exist
        config = None
    if config is None or not config.hf_hub_id:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise UsageError(f"{uri}: timm has no weights of this name on the hub. For {architecture}: {tags}.")
    return config.hf_hub_id


def _create(folder: Path, size: int | None) -> Any:
    """The network without its classifier; with `size`, position embeddings, if any, are resampled."""
    import timm

    name, options = f"local-dir:{folder}", {"pretrained": True, "num_classes": 0}
    if size:
        try:
            return timm.create_model(name, img_size=size, **options)
        except TypeError:  # a CNN has no img_size: it takes every size as it is
            pass
    return timm.create_model(name, **options)
