"""The visual front-end of published recognisers: a 3-D convolution over time in the place of a ResNet's stem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from isthmus.encoders.base import Encoder, Inputs, Output
from isthmus.encoders.fingerprint import files_digest
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, UsageError
from isthmus.weights import write_tensors

SIDE = 112  # pixels of a mouth
GREY = 0.4161, 0.1688  # mean and deviation of mouths in LRS2, of levels from 0 to 1
FRAMES = 32  # that go through the stages at once
REACH = 2  # frames on both sides that the stem sees


class MouthFrontEnd(nn.Module):
    """A stem of its own and the stages of a ResNet: forward(clips [N, T, H, W], grey, normalised) → [N, T, D].

    The stem (Stafylakis and Tzimiropoulos, 2017; Pan et al., ACL 2022): a convolution of 5 × 7 × 7 by strides of
    1 × 2 × 2, batch norm, ReLU, a maximum of 1 × 3 × 3. It gives what the first stage expects of the ResNet's own stem,
    at each frame, and sees two frames on both sides: neighbouring frames of a mouth look alike to an encoder of
    pictures. It begins random, and is for training in a stage of its own: `train_stem`.

    network: a ResNet of `hf:` or `timm:`. Raises `UsageError` for another network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        channels, self.stages, self.width = _stages(network)
        self.stem = nn.Sequential(
            nn.Conv3d(1, channels, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(channels),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )

    def forward(self, clips: Tensor) -> Tensor:
        maps = self.stem(clips[:, None]).transpose(1, 2)  # [N, T, C, H, W]
        found = [self._pooled(part) for part in maps.flatten(0, 1).split(FRAMES)]
        return torch.cat(found).unflatten(0, maps.shape[:2])

    def _pooled(self, maps: Tensor) -> Tensor:
        for stage in self.stages:
            maps = stage(maps)
        return maps.mean((2, 3))

    def train_stem(self) -> list[nn.Parameter]:
        """Freeze the stages, in eval mode, and leave the stem to be trained; its parameters."""
        self.requires_grad_(False).eval()
        self.stem.requires_grad_(True).train()
        return list(self.stem.parameters())

    def save_stem(self, path: str | Path) -> None:
        """Write the stem as safetensors, for `?fps=25&stem=FILE` in the URI of the ResNet."""
        write_tensors(Path(path), self.stem.state_dict())

    def load_stem(self, path: str | Path) -> None:
        """Read a stem. Raises `InputError` for a file that is none, or of another width."""
        try:
            self.stem.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(f"{path}: no stem of this front-end ({' '.join(str(error).split())[:200]}).") from None


class FrontEndEncoder(Encoder):
    """A trained front-end as an encoder of mouths: tokens are frames, `fps` a second.

    Films are resized to 112 pixels, grey, and decoded while the network works.
    """

    def __init__(self, pictures: Encoder, uri: EncoderURI) -> None:
        if uri.fps is None or uri.stem is None:
            raise UsageError(f"{uri}: a stem reads films: give fps=25 too.")
        self.rate_hz = float(uri.fps)
        network = MouthFrontEnd(pictures.network)
        network.load_stem(uri.stem)
        stem = Path(uri.stem)
        ingredients = {
            "pictures": pictures.backbone_key,
            "fps": uri.fps,
            "stem": files_digest([stem], stem.parent),
            "grey": [*GREY, SIDE],
        }
        super().__init__(uri, "video", network, ingredients, pools=("mean", "max"), device=pictures.device)
        self.licence, self.revision = pictures.licence, pictures.revision

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """{"films": the films themselves}."""
        return {"films": self.spec.read(items)}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        each = [torch.cat(list(self._film(film))) for film in inputs["films"]]
        counts = torch.tensor([len(states) for states in each])
        tokens = nn.utils.rnn.pad_sequence(each, batch_first=True)
        return Output(tokens=tokens, mask=(torch.arange(tokens.shape[1]) < counts[:, None]).to(tokens.device))

    def _film(self, film: Any) -> Iterator[Tensor]:
        """States of some frames after the other; the stem sees the same neighbours as in the whole film."""
        held: list[Tensor] = []
        before = 0  # frames at the beginning of `held` that are there as neighbours alone
        for frame in film.frames(self.rate_hz):
            held.append(_grey(frame))
            if len(held) == before + FRAMES + REACH:
                yield self._states(held, before, len(held) - REACH)
                held = held[-2 * REACH :]
                before = REACH
        if len(held) > before:
            yield self._states(held, before, len(held))

    def _states(self, frames: list[Tensor], first: int, last: int) -> Tensor:
        found: Tensor = self.network(self._place(torch.stack(frames))[None])[0, first:last]
        return found


def _grey(frame: np.ndarray) -> Tensor:
    """A frame as [112, 112], normalised."""
    picture = Image.fromarray(np.ascontiguousarray(frame)).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return (torch.from_numpy(np.array(picture)).float() / 255 - GREY[0]) / GREY[1]


def _stages(network: Any) -> tuple[int, nn.ModuleList, int]:
    """(channels that the first stage takes, the stages, channels that the last one gives)."""
    if getattr(getattr(network, "config", None), "model_type", "") == "resnet":
        return network.config.embedding_size, network.encoder.stages, network.config.hidden_sizes[-1]
    if all(hasattr(network, name) for name in ("layer1", "layer4", "num_features", "bn1")):
        stages = nn.ModuleList([network.layer1, network.layer2, network.layer3, network.layer4])
        return network.bn1.num_features, stages, network.num_features
    raise UsageError(f"{type(network).__name__}: the front-end is made of a ResNet, of hf: or timm:.")
