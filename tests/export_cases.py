"""Models of every sort of head and encoder, tiny and random, and what each export target makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isthmus.encoders import load_encoders
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import ConcatEnsemble, SumEnsemble, build_projector
from tiny_encoders import (
    TEXT,
    save_bert,
    save_dinov2,
    save_gpt2,
    save_network,
    save_processor,
    save_sentence_pipeline,
    save_tokenizer,
)

DINO, BERT = "hf:{}/dinov2?pool=cls+mean", "hf:{}/bert"
CLS = "hf:{}/dinov2?pool=cls"
BOTH, PLAIN = {"hf": True, "st-plain": True}, "cannot be said"
PARTS = {"hf": True, "st-plain": "A norm of its own for each of 2 parts"}


@dataclass(frozen=True)
class Case:
    """Encoders by URI, `{}` for their folder; the heads' kinds, an ensemble where several; what each target does:
    True, or the reason that it gives.
    """

    heads: tuple[str, ...] | tuple[tuple[str, ...], tuple[str, ...]] = ("linear",)
    image: tuple[str, ...] = (DINO,)
    text: tuple[str, ...] = (BERT,)
    norm: str = "layer"
    join: type[nn.Module] = ConcatEnsemble
    width: int | None = None
    targets: dict[str, Any] = field(default_factory=lambda: dict(PARTS))


HEADS = "A head of kind"
JOINED = {"hf": True, "st-plain": "A head that joins several"}
BESIDE = {"hf": True, "st-plain": "2 .* encoders side by side"}
CASES = {
    "linear": Case(),
    "linear on one part": Case(image=(CLS,), targets=BOTH),
    "mlp": Case(("mlp",), (CLS,), targets=BOTH),
    "parallel": Case((("parallel",), ("parallel+residual",)), (CLS,), targets=BOTH),
    "residual": Case(("residual",), (CLS,), targets=BOTH),
    "glu (SAIL)": Case(("glu",), (CLS,), norm="whole", targets={"hf": True, "st-plain": HEADS}),
    "cls+mean, a norm for each": Case(("parallel",)),
    "cls+mean, one norm": Case(
        ("parallel",), norm="whole", targets={"hf": True, "st-plain": "pool=cls\\+mean of images"}
    ),
    "without a norm": Case(image=(CLS,), norm="none", targets=BOTH),
    "default recipe": Case((("linear", "parallel"), ("linear", "parallel+residual")), targets=JOINED),
    "blend": Case(("linear", "mlp"), (CLS,), join=SumEnsemble, targets=JOINED),
    "tokens": Case(
        (("cls:parallel,tokens:parallel",), ("tokens:parallel+residual",)),
        ("hf:{}/dinov2?pool=cls+patches",),
        ("hf:{}/bert?pool=tokens",),
        targets={"hf": True, "st-plain": "A head of kind"},
    ),
    "layers": Case(("linear",), ("hf:{}/dinov2?layer=2&pool=cls",), ("hf:{}/bert?layer=1&pool=mean",), targets=BOTH),
    "several encoders": Case(
        ("linear",),
        (DINO, "hf:{}/dinov2?layer=1&pool=mean", "hf:{}/vit"),
        (BERT, "st:{}/pipeline"),
        targets={"hf": True, "st-plain": "3 image encoders side by side"},
    ),
    "truncated": Case(("residual",), (CLS,), width=5, targets=BOTH),
    "decoder, last token": Case(("linear",), (CLS,), ("hf:{}/gpt2?pool=last",), targets=BOTH),
    "prompt": Case(
        ("linear",),
        (CLS,),
        ("hf:{}/bert?prompt=a photo of &pool=mean",),
        targets={"hf": True, "st-plain": "a prompt"},
    ),
    "Sentence-Transformers pipeline": Case(("mlp",), (CLS,), ("st:{}/pipeline",), targets=BOTH),
    "two towers (CLIP)": Case(("linear",), ("hf:{}/clip",), ("hf:{}/clip",), targets=BOTH),
    "CNN": Case(("linear",), ("hf:{}/convnext",), targets=BOTH),
    "static table": Case(
        ("linear",), (CLS,), ("st:{}/static",), targets={"hf": True, "st-plain": "its network is none of"}
    ),
}


def make_encoders(folder: Path) -> Path:
    """The encoders of all cases."""
    save_dinov2(folder / "dinov2")
    save_bert(folder / "bert")
    save_gpt2(folder / "gpt2")
    save_sentence_pipeline(folder).rename(folder / "pipeline")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    save_processor(save_network(folder / "vit", "ViT", {**shape, "image_size": 28, "patch_size": 14}), 28)
    stages = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "image_size": 64}
    save_processor(save_network(folder / "convnext", "ConvNext", stages), 64)
    towers = {
        "vision_config": {**shape, "image_size": 28, "patch_size": 14},
        "text_config": {**TEXT, "eos_token_id": 3},
    }
    save_tokenizer(save_processor(save_network(folder / "clip", "CLIP", {**towers, "projection_dim": 8}), 28))
    _save_static(folder / "static")
    return folder


def _save_static(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(2)
    tokenizer = Tokenizer.from_file(str(folder.parent / "bert" / "tokenizer.json"))
    modules = [StaticEmbedding(tokenizer, embedding_dim=24), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)


def build(name: str, encoders: Path) -> DualEncoder:
    """The model of a case."""
    case = CASES[name]
    sides = {
        side: load_encoders([uri.format(encoders) for uri in uris], modality=side)
        for side, uris in (("image", case.image), ("text", case.text))
    }
    torch.manual_seed(3)
    heads = []
    for number, loaded in enumerate(sides.values()):
        kinds = case.heads if isinstance(case.heads[0], str) else case.heads[number]
        parts = [part for encoder in loaded for part in encoder.parts]
        members = [build_projector(kind, parts, 16, norm=case.norm, padded=number == 1) for kind in kinds]
        shares = [0.7, 0.3][: len(members)]
        heads.append(members[0] if len(members) == 1 else case.join(members, shares))
    records = {side: [one.record() for one in loaded] for side, loaded in sides.items()}
    return DualEncoder(*heads, scale=20.0, bias=-3.0, records=records, encoders=sides, width=case.width)
