"""`st:` – every kind of pipeline beside its own `encode`, in each dtype that can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isthmus.encoders import load_encoder
from isthmus.encoders.lengths import token_limit, tokenize
from isthmus.errors import InputError, UsageError
from sentence_kinds import KINDS, after_words, clip, static
from tiny_encoders import TEXTS, pictures

DTYPES = ("float32", "bfloat16", "float16")
# What the same products in the same dtype may differ by: batches of other shapes add in another order.
CLOSE = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}


def its_own(folder: Path, dtype: str, items: list[Any]) -> np.ndarray:
    """What the pipeline's `encode` gives, all of its modules in `dtype`; a bag of words counts in float32 only."""
    from sentence_transformers import SentenceTransformer

    pipeline = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": dtype})
    if type(pipeline[0]).__name__ == "BoW":
        dtype = "float32"
    return np.asarray(pipeline.to(getattr(torch, dtype)).encode(items, convert_to_tensor=True).float())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_gives_what_its_own_encode_gives(kind: str, dtype: str, tmp_path: Path) -> None:
    folder = KINDS[kind](tmp_path)
    encoder = load_encoder(f"st:{folder}?dtype={dtype}")
    features = encoder.encode(TEXTS)
    np.testing.assert_allclose(features, its_own(folder, dtype, TEXTS), atol=CLOSE[dtype], rtol=CLOSE[dtype])
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(features, alone, atol=CLOSE[dtype], rtol=CLOSE[dtype])
    assert features.dtype == np.float32 and len(np.unique(features, axis=0)) == len(TEXTS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_sides_of_a_multimodal_pipeline_give_what_its_own_encode_gives(dtype: str, tmp_path: Path) -> None:
    folder = clip(tmp_path)
    for modality, items in (("text", TEXTS), ("image", pictures())):
        encoder = load_encoder(f"st:{folder}?dtype={dtype}", modality=modality)
        expected = its_own(folder, dtype, items)
        np.testing.assert_allclose(encoder.encode(items), expected, atol=CLOSE[dtype], rtol=CLOSE[dtype])


def test_a_pipeline_that_reads_padding_is_refused_by_its_modules(tmp_path: Path) -> None:
    folder = after_words("CNN")(tmp_path)
    with pytest.raises(InputError, match="WordEmbeddings → CNN → Pooling, reads the padding behind it"):
        load_encoder(f"st:{folder}")


def test_modes_of_pooling_differ(tmp_path: Path) -> None:
    """Each of them is heeded: no two give the same features, nor the same fingerprint."""
    modes = [KINDS[kind](tmp_path / str(i)) for i, kind in enumerate(KINDS) if kind.startswith("pooling ")]
    encoders = [load_encoder(f"st:{folder}") for folder in modes]
    features = [encoder.encode(TEXTS[1:2])[0] for encoder in encoders]
    assert len(np.unique(np.round(features, 4), axis=0)) == len(modes) == 6
    assert len({encoder.fingerprint for encoder in encoders}) == 6


def test_a_pipeline_without_a_limit_reads_every_text_to_its_end(tmp_path: Path) -> None:
    folder = static(tmp_path)
    encoder = load_encoder(f"st:{folder}")
    assert token_limit(encoder) is None and encoder.record()["preprocessing"]["max_tokens"] is None
    assert tokenize(encoder, ["a cat", "a cat " * 1000]).count.tolist() == [4, 2002]
    with pytest.raises(UsageError, match="max_tokens is not an option here: the pipeline reads texts of any length"):
        load_encoder(f"st:{folder}?max_tokens=12")


def test_the_words_of_a_tokenizer_of_words_are_counted(tmp_path: Path) -> None:
    encoder = load_encoder(f"st:{after_words()(tmp_path)}")
    assert tokenize(encoder, ["a cat", "", "two dogs and a giraffe"]).count.tolist() == [2, 0, 3]
