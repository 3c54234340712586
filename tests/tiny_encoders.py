"""Random encoders of a few thousand weights, saved in the hub's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

WORDS = ["a", "cat", "dog", "two", "dogs", "running", "in", "the", "park", "photo", "of", "red", "blue"]
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
TEXTS = ["a cat", "two dogs running in the park", "", "a red photo of the blue dog in the park " * 5]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
VISION = {**SHAPE, "image_size": 42, "patch_size": 14}
TEXT = {**SHAPE, "vocab_size": len(VOCABULARY), "max_position_embeddings": 16}


def pictures(count: int = 3) -> list[Image.Image]:
    """Noise of several shapes."""
    rng = np.random.default_rng(0)
    sizes = [(60 + 7 * i, 80 - 5 * i, 3) for i in range(count)]
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def save_network(folder: Path, name: str, config: dict[str, Any], **options: Any) -> Path:
    """Save a random `transformers.<name>Model` with `config`; returns its folder."""
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config))
    network.save_pretrained(folder, **options)
    return folder


def save_processor(folder: Path, crop: int = 42) -> Path:
    """Resize the shorter side to 8/7 of `crop`, then crop the centre."""
    size, square = {"shortest_edge": crop * 8 // 7}, {"height": crop, "width": crop}
    BitImageProcessorPil(size=size, crop_size=square).save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path, *, special: bool = True, words: dict[str, int] | None = None) -> Path:
    """A WordPiece tokenizer with [CLS] … [SEP]; `special=False`: without CLS and padding, as GPT-2's."""
    tokenizer = Tokenizer(models.WordPiece(words or VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokens = {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    if special:
        ends = [("[CLS]", 2), ("[SEP]", 3)]
        tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        tokens = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **tokens)
    fast.save_pretrained(folder)
    return folder


def save_bert(folder: Path, **options: Any) -> Path:
    return save_tokenizer(save_network(folder, "Bert", TEXT, **options))


def save_gpt2(folder: Path) -> Path:
    shape = {"vocab_size": len(VOCABULARY), "n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 16}
    return save_tokenizer(save_network(folder, "GPT2", shape), special=False)


def save_dinov2(folder: Path) -> Path:
    return save_processor(save_network(folder, "Dinov2", VISION))


def save_sentence_pipeline(folder: Path, *, normalize: bool = True) -> Path:
    """BERT, mean pooling, a Dense layer to 8 and Normalize, as Sentence-Transformers saves them."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(1)
    transformer = Transformer(str(save_bert(folder / "bert")), max_seq_length=12)
    modules = [transformer, Pooling(32, pooling_mode="mean"), Dense(32, 8)]
    SentenceTransformer(modules=[*modules, *([Normalize()] if normalize else [])], device="cpu").save(
        str(folder / "pipeline")
    )
    return folder / "pipeline"


def save_router(folder: Path) -> Path:
    """Two BERTs with mean pooling behind a router: documents, its default, and queries have one each."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Router, Transformer

    def route(name: str) -> list[Any]:
        return [Transformer(str(save_bert(folder / name)), max_seq_length=12), Pooling(32, pooling_mode="mean")]

    router = Router.for_query_document(route("query"), route("document"), default_route="document")
    SentenceTransformer(modules=[router], device="cpu").save(str(folder / "pipeline"), create_model_card=False)
    return folder / "pipeline"


def save_nested_pipeline(folder: Path) -> Path:
    """BERT, mean pooling, and a router between two Dense layers: modules inside a module."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Router, Transformer

    torch.manual_seed(1)
    transformer = Transformer(str(save_bert(folder / "bert")), max_seq_length=12)
    router = Router({"document": [Dense(32, 8)], "query": [Dense(32, 8)]}, default_route="document")
    modules = [transformer, Pooling(32, pooling_mode="mean"), router]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "pipeline"), create_model_card=False)
    return folder / "pipeline"


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Copies of the tensors: those of `load_file` lie in the file, which then must not be overwritten."""
    return {name: tensor.clone() for name, tensor in load_file(file).items()}


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
