"""`hf:` beside a plain forward pass of each `model_type`'s own class in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from isthmus.encoders import load_encoder
from isthmus.encoders.base import Encoder
from isthmus.errors import InputError, IsthmusError
from model_types import IMAGES, REFUSED, TEXTS, TOWERS, save_type
from tiny_encoders import TEXTS as CAPTIONS
from tiny_encoders import pictures, read_weights

USUAL = {
    *("bert", "deberta-v2", "xlm-roberta", "ibert", "xlnet", "llama", "bart", "t5", "clip"),
    *("vit", "convnext", "radio", "aimv2_vision_model", "dinov3_convnext", "pixtral", "convbert", "timesformer"),
}


def chosen(names: Any) -> list[Any]:
    """A few of each kind; the others when slow tests run."""
    return [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in names]


def pooled(result: Any, own: str) -> torch.Tensor:
    tokens = result.last_hidden_state
    tokens = tokens.flatten(2).transpose(1, 2) if tokens.ndim == 4 else tokens
    rules = {"cls": lambda: tokens[:, 0], "mean": lambda: tokens.mean(1)}
    return rules[own]() if own in rules else result[own].flatten(1)


def compare_texts(encoder: Encoder, network: Any, own: str, folder: Path, **padding: Any) -> None:
    """Each text alone through `network`, without padding, beside all of them in a batch through `encoder`."""
    output, rows = encoder.run(encoder.preprocess(CAPTIONS)), encoder.encode(CAPTIONS, batch_size=len(CAPTIONS))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    limit = encoder.ingredients["max_tokens"]
    for i, text in enumerate(CAPTIONS):
        text = text or tokenizer.eos_token or " "
        ids = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt", **padding)["input_ids"]
        with torch.no_grad():
            result = network(input_ids=ids)
        tokens = result.last_hidden_state[0]
        given = output.tokens[i] if padding else output.tokens[i, output.mask[i]]
        np.testing.assert_allclose(given, tokens, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(rows[i], pooled(result, own)[0], atol=1e-5, rtol=1e-5)
    for layer in (0, 1, encoder.depth) if encoder.depth > 0 else ():
        view = encoder.at(layer)
        alone = np.concatenate([view.encode([text]) for text in CAPTIONS])
        np.testing.assert_allclose(view.encode(CAPTIONS, batch_size=len(CAPTIONS)), alone, atol=1e-5, rtol=1e-5)


def compare_images(encoder: Encoder, network: Any, own: str, folder: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    with torch.no_grad():
        result = network(pixel_values=processor(pictures(), return_tensors="pt")["pixel_values"])
    tokens = result.last_hidden_state
    tokens = tokens.flatten(2).transpose(1, 2) if tokens.ndim == 4 else tokens
    given = encoder.run(encoder.preprocess(pictures())).tokens
    left_out = 1 if network.config.model_type == "dinov3_convnext" else 0  # its pooled output, before the patches
    np.testing.assert_allclose(given, tokens[:, left_out:], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(encoder.encode(pictures()), pooled(result, own), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", chosen(TEXTS))
def test_a_model_of_texts_gives_what_its_own_class_gives(name: str, tmp_path: Path) -> None:
    network = save_type(tmp_path, name, TEXTS[name])
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    compare_texts(load_encoder(f"hf:{tmp_path}"), network, "mean", tmp_path)


@pytest.mark.parametrize("name", chosen(IMAGES))
def test_a_model_of_images_gives_what_its_own_class_gives(name: str, tmp_path: Path) -> None:
    own, changes = IMAGES[name]
    network = save_type(tmp_path, name, changes)
    compare_images(load_encoder(f"hf:{tmp_path}"), network, own, tmp_path)


@pytest.mark.parametrize("name", chosen(TOWERS))
def test_the_towers_of_a_dual_encoder_give_what_they_give_alone(name: str, tmp_path: Path) -> None:
    network = save_type(tmp_path, name, {})
    image, text = TOWERS[name]
    compare_images(load_encoder(f"hf:{tmp_path}", modality="image"), network.vision_model, image, tmp_path)
    full = {"padding": "max_length"} if name == "siglip" else {}  # as it was trained
    compare_texts(load_encoder(f"hf:{tmp_path}", modality="text"), network.text_model, text, tmp_path, **full)


@pytest.mark.parametrize("name", chosen(REFUSED))
def test_a_model_without_features_of_its_own_is_refused_by_name(name: str, tmp_path: Path) -> None:
    changes, said = REFUSED[name]
    save_type(tmp_path, name, changes)
    with pytest.raises(IsthmusError, match=said) as caught:
        load_encoder(f"hf:{tmp_path}")
    assert str(caught.value).startswith(f"hf:{tmp_path}: ")


def test_a_network_without_a_mask_reads_every_text_at_full_length(tmp_path: Path) -> None:
    """FNet mixes all positions: what it makes of a text would depend on the padding of its batch."""
    network, encoder = save_type(tmp_path, "fnet", {}), load_encoder(f"hf:{tmp_path}")
    inputs = encoder.preprocess(CAPTIONS)
    with torch.no_grad():
        tokens = network(inputs["input_ids"]).last_hidden_state
    assert inputs["input_ids"].shape == (len(CAPTIONS), 40)
    for i, text in enumerate(CAPTIONS):
        real = inputs["attention_mask"][i].bool()
        np.testing.assert_allclose(encoder.encode([text])[0], tokens[i, real].mean(0), atol=1e-5)


def test_forty_types_are_compared() -> None:
    assert len({*TEXTS, *IMAGES, *TOWERS, "fnet"}) >= 40
    assert not {*TEXTS, *IMAGES, *TOWERS} & set(REFUSED)


def test_words_that_the_files_lack_are_missed_in_an_encoder_with_a_decoder(tmp_path: Path) -> None:
    save_type(tmp_path, "bart", {})
    weights = read_weights(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "embed_tokens" not in name and "shared" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"its files lack \d weights of the network"):
        load_encoder(f"hf:{tmp_path}")
    encoder = {name: value for name, value in weights.items() if "decoder" not in name}
    save_file(encoder, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(f"hf:{tmp_path}").width == 32
