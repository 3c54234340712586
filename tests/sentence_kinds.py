"""Every kind of Sentence-Transformers pipeline, tiny and random, saved as the library saves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tiny_encoders import (
    SHAPE,
    TEXT,
    VISION,
    VOCABULARY,
    WORDS,
    save_bert,
    save_nested_pipeline,
    save_network,
    save_processor,
    save_router,
    save_tokenizer,
)

MODES = ("mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")


def transformer(folder: Path) -> Any:
    from sentence_transformers.sentence_transformer.modules import Transformer

    return Transformer(str(save_bert(folder / "bert")), max_seq_length=12)


def save(folder: Path, *modules: Any, **options: Any) -> Path:
    from sentence_transformers import SentenceTransformer

    pipeline = SentenceTransformer(modules=list(modules), device="cpu", **options)
    pipeline.save(str(folder / "pipeline"), create_model_card=False)
    return folder / "pipeline"


def pooled(mode: str | tuple[str, ...]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        from sentence_transformers.sentence_transformer.modules import Pooling

        return save(folder, transformer(folder), Pooling(32, pooling_mode=mode))

    return build


def with_head(folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import Dense, Dropout, LayerNorm, Normalize, Pooling

    head = [Dense(32, 16), LayerNorm(16), Dropout(0.5), Dense(16, 8, activation_function=torch.nn.Identity())]
    return save(folder, transformer(folder), Pooling(32), *head, Normalize())


def with_prompt(folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import Pooling

    prompts = {"query": "a photo of ", "document": ""}
    modules = [transformer(folder), Pooling(32, include_prompt=False)]
    return save(folder, *modules, prompts=prompts, default_prompt_name="query")


def with_layers_weighed(folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer, WeightedLayerPooling

    states = {"output_hidden_states": True}
    first = Transformer(str(save_bert(folder / "bert")), max_seq_length=12, config_kwargs=states)
    return save(folder, first, WeightedLayerPooling(32, num_hidden_layers=3, layer_start=1), Pooling(32))


def after_words(*names: str) -> Callable[[Path], Path]:
    """Word embeddings, then modules of these names, then the mean."""

    def build(folder: Path) -> Path:
        from sentence_transformers.sentence_transformer import modules
        from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

        torch.manual_seed(0)
        words = modules.WordEmbeddings(WhitespaceTokenizer(WORDS, stop_words=[]), torch.randn(len(WORDS), 32))
        built: dict[str, Any] = {
            "CNN": lambda: modules.CNN(32, 16, [1, 3]),
            "LSTM": lambda: modules.LSTM(32, 16),
            "WordWeights": lambda: modules.WordWeights(WORDS, {"cat": 3.0, "dog": 0.5}),
        }
        return save(folder, words, *(built[name]() for name in names), modules.Pooling(32))

    return build


def bag_of_words(folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import BoW, Dense

    return save(folder, BoW(WORDS, {"cat": 3.0}), Dense(len(WORDS), 8))


def static(folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(save_tokenizer(folder / "words") / "tokenizer.json"))
    return save(folder, StaticEmbedding(tokenizer, torch.randn(len(VOCABULARY), 32)))


def clip(folder: Path) -> Path:
    from sentence_transformers.sentence_transformer.modules import Transformer

    text = {**TEXT, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64}
    config = {"text_config": text, "vision_config": {**SHAPE, **VISION}, "projection_dim": 24}
    place = save_tokenizer(save_processor(save_network(folder / "clip", "CLIP", config)))
    return save(folder, Transformer(str(place)))


KINDS: dict[str, Callable[[Path], Path]] = {
    **{f"pooling {mode}": pooled(mode) for mode in MODES},
    "poolings joined": pooled(("cls", "mean", "max")),
    "dense, layer norm, dropout, normalize": with_head,
    "prompt left out of the mean": with_prompt,
    "weighted layers": with_layers_weighed,
    "router": save_router,
    "router between dense layers": save_nested_pipeline,
    "static embedding": static,
    "bag of words": bag_of_words,
    "word embeddings": after_words(),
    "word weights": after_words("WordWeights"),
    "LSTM": after_words("LSTM"),
}
