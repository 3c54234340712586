"""CLIP_benchmark on a model of isthmus. Needs `pip install clip-benchmark`.

    python -m isthmus.adapters.clip_benchmark eval --pretrained model/ --dataset wds/… --task zeroshot_retrieval

takes the arguments of `clip_benchmark` itself; --pretrained is a model's folder. The encoders compute in float32,
whatever --no_amp says, as they do in `isthmus eval`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isthmus.encoders.base import encode_views
from isthmus.models.dual_encoder import DualEncoder

NAME = "isthmus"


class BenchmarkModel(nn.Module):
    """`encode_image` and `encode_text` on what `transform` and `tokenizer` make, as CLIP_benchmark calls them."""

    def __init__(self, dual: DualEncoder) -> None:
        super().__init__()
        self.dual = dual
        self._shapes: list[dict[str, torch.Size]] = []

    def transform(self, image: Any) -> Tensor:
        """A picture to the inputs of every image encoder in one row, which stacks with others'."""
        given = [encoder.preprocess([image]) for encoder in self.dual.encoders["image"]]
        self._shapes = [{name: value.shape[1:] for name, value in one.items()} for one in given]
        return torch.cat([value.float().flatten() for one in given for value in one.values()])

    def encode_image(self, rows: Tensor) -> Tensor:
        """Rows of `transform`, [N, …], to unit embeddings [N, width]."""
        if not self._shapes:  # the pictures were prepared in other processes
            self.transform(torch.zeros(3, 64, 64))
        sizes = [shape.numel() for one in self._shapes for shape in one.values()]
        pieces = iter(rows.split(sizes, dim=1))
        features = []
        for encoder, shapes in zip(self.dual.encoders["image"], self._shapes, strict=True):
            inputs = {name: next(pieces).unflatten(1, tuple(shape)) for name, shape in shapes.items()}
            features.append(torch.from_numpy(encode_views([encoder], inputs)[0]))
        found: Tensor = self.dual.project("image", torch.cat(features, dim=1).numpy(), as_tensor=True)
        return found.to(rows.device)

    def encode_text(self, texts: Texts) -> Tensor:
        """Strings to unit embeddings [N, width]."""
        found: Tensor = self.dual.encode_text(list(texts), as_tensor=True)
        return found.to(texts.device)


class Texts(list[str]):
    """Strings in the place of token ids: the encoders have tokenizers of their own."""

    device: Any = "cpu"

    def to(self, device: Any) -> Texts:
        self.device = device
        return self


def load(model_name: str, pretrained: str, cache_dir: str | None, device: Any) -> tuple[Any, Any, Any]:
    """What CLIP_benchmark's `load_clip` returns: model, transform, tokenizer."""
    model = BenchmarkModel(DualEncoder.from_pretrained(pretrained, device=str(device))).eval()
    return model, model.transform, Texts


def main(argv: Sequence[str] | None = None) -> None:
    """Run CLIP_benchmark's own command with models of isthmus among those it knows."""
    from clip_benchmark import cli, models

    models.TYPE2FUNC[NAME] = load
    if NAME not in models.MODEL_TYPES:
        models.MODEL_TYPES.append(NAME)
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["eval"] and "--model_type" not in given:
        given += ["--model_type", NAME]
        given += [] if "--model" in given else ["--model", NAME]
    sys.argv = ["clip_benchmark", *given]
    cli.main()


if __name__ == "__main__":
    main()
