"""Python functions as encoders."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from isthmus.encoders import encode_views, from_callable, load_encoder, load_encoders
from isthmus.errors import InputError, UsageError
from tiny_encoders import pictures


def lengths(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text.count(" ")] for text in texts], dtype=np.float64)


def test_texts_and_images_are_encoded_in_order() -> None:
    encoder = from_callable(lengths, "text", "v1")
    assert encoder.encode(["a b c", "", "abc"], batch_size=2).tolist() == [[5, 2], [0, 0], [3, 0]]
    assert (encoder.width, encoder.parts, encoder.modality) == (2, [2], "text")
    seen: list[object] = []
    image = from_callable(lambda batch: seen.extend(batch) or torch.ones(len(batch), 3), "image", "v1")
    assert image.encode(pictures()).dtype == np.float32
    assert all(isinstance(item, Image.Image) and item.mode == "RGB" for item in seen)
    assert encode_views([encoder], encoder.preprocess(["a"]))[0].shape == (1, 2)


def test_the_fingerprint_is_the_users_and_knows_the_modality() -> None:
    one, two = from_callable(lengths, "text", "v1"), from_callable(lengths, "text", "v2")
    assert one.fingerprint == from_callable(lengths, "text", "v1", name="other").fingerprint
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint != from_callable(lengths, "image", "v1", width=2).fingerprint
    assert one.record()["uri"] == "callable:lengths"
    with pytest.raises(UsageError, match="fingerprint="):
        from_callable(lengths, "text", "")


def test_a_stated_width_saves_the_first_call() -> None:
    calls: list[int] = []
    encoder = from_callable(lambda batch: calls.append(1) or np.ones((len(batch), 4)), "text", "v1", width=4)
    assert (encoder.width, calls) == (4, [])
    encoder.encode(["a"])
    assert calls == [1]


def test_a_wrong_shape_is_an_error_that_names_the_function() -> None:
    encoder = from_callable(lambda batch: np.ones((len(batch), 4)), "text", "v1", name="mine", width=5)
    with pytest.raises(InputError, match=r"callable:mine: gave shape \[1, 4\] instead of \[1, 5\]"):
        encoder.encode(["a"])
    with pytest.raises(InputError, match=r"\[1, 2\] instead of \[2, 2\]"):
        from_callable(lambda batch: np.ones((1, 2)), "text", "v1")
    drops = from_callable(lambda batch: np.ones((min(len(batch), 2), 2)), "text", "v1")
    with pytest.raises(InputError, match=r"\[2, 2\] instead of \[3, 2\]"):
        drops.encode(["a", "b", "c"])


def test_it_has_neither_layers_nor_tokens() -> None:
    encoder = from_callable(lengths, "text", "v1")
    with pytest.raises(UsageError, match="layers"):
        encoder.at(layer=0)
    with pytest.raises(UsageError, match="pooled features only"):
        encoder.at(pool="mean")
    with pytest.raises(UsageError, match=r"no modality 'smell'\. Known: audio, image, text"):
        from_callable(lengths, "smell", "v1")  # type: ignore[arg-type]


def test_a_loaded_encoder_passes_through_the_loaders_if_it_is_of_the_right_modality() -> None:
    encoder = from_callable(lengths, "text", "v1")
    assert load_encoder(encoder) is encoder is load_encoder(encoder, modality="text")
    assert load_encoders([encoder, encoder], modality="text") == [encoder, encoder]
    for load in (load_encoder, lambda one, **options: load_encoders([one], **options)):
        with pytest.raises(UsageError, match="is an encoder of texts, not of images"):
            load(encoder, modality="image")


@pytest.mark.parametrize("source", ["timm", "open_clip"])
def test_a_missing_extra_is_named(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, source, None)
    with pytest.raises(UsageError, match=rf"pip install 'isthmus\[{source}\]'"):
        load_encoder(f"{source}:anything", modality="image")
