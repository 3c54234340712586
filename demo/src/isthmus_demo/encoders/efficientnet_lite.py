"""EfficientNet-Lite as an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from isthmus.encoders import hub
from isthmus.encoders.base import Encoder, Inputs, Output, flatten_map
from isthmus.encoders.fingerprint import files_digest
from isthmus.encoders.huggingface import load_processor
from isthmus.encoders.images import to_pil
from isthmus.encoders.portable import Portable, image_processor, prefixed
from isthmus.encoders.uri import EncoderURI
from isthmus_demo.encoders import efficientnet_lite_network
from isthmus_demo.encoders.efficientnet_lite_network import EfficientNetLite, fold_norms


class EfficientNetLiteEncoder(Encoder):
    """Layers: stem and seven stages. Tokens: the head's feature map, whose mean the classifier reads."""

    def __init__(self, folder: Path, uri: EncoderURI, device: str | torch.device | None) -> None:
        self.processor, settings = load_processor(folder, uri, trust_remote_code=False)
        self._variant = hub.read_config(folder)["variant"]
        network = EfficientNetLite(self._variant)
        state = load_file(folder / "model.safetensors")
        network.load_state_dict({key: state.get(key, value) for key, value in network.state_dict().items()})
        fold_norms(network.eval())
        ingredients = {
            "weights": files_digest(hub.weight_files(folder), folder),
            "config": hub.read_config(folder),
            "image_processor": settings,
        }
        for convolution in network.modules():
            if isinstance(convolution, nn.Conv2d):  # in this layout depthwise convolutions run faster
                convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
        super().__init__(uri, "image", network, ingredients, pools=("mean", "max"), device=device)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        pixels = self.processor([to_pil(item) for item in items], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        network: Any = self.network
        *stages, last = map(flatten_map, network.states(inputs["pixel_values"]))
        return Output(tokens=last, layers=stages if layers else ())

    def portable(self) -> Portable:
        arguments = {"variant": self._variant, "folded": True}
        return Portable(
            {"kind": "own", "class": "EfficientNetLite", "arguments": arguments},
            prefixed("network", self.network),
            processor=image_processor(self.processor, self.uri),
            code=Path(str(efficientnet_lite_network.__file__)),
        )


def from_folder(folder: Path, uri: EncoderURI, *, device: str | torch.device | None = None) -> Encoder:
    return EfficientNetLiteEncoder(folder, uri, device)
