"""`hf:` – architectures that differ from the plain ones, beside a plain forward pass of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, processors

from isthmus.encoders import hub, load_encoder
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, OfflineError
from tiny_encoders import SHAPE, TEXT, TEXTS, VISION, pictures, save_bert, save_network, save_processor, save_tokenizer

SMALL = {"image_size": 28, "patch_size": 7, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODER = {"decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}


def test_a_masked_autoencoder_hides_nothing(tmp_path: Path) -> None:
    folder = save_processor(save_network(tmp_path, "ViTMAE", SMALL | DECODER | {"intermediate_size": 64}), crop=28)
    encoder = load_encoder(f"hf:{folder}")
    np.testing.assert_array_equal(encoder.encode(pictures()), encoder.encode(pictures()))
    network = transformers.ViTMAEModel.from_pretrained(folder, mask_ratio=0.0).eval()
    pixels = encoder.preprocess(pictures())["pixel_values"]
    with torch.no_grad():
        tokens = network(pixels, noise=torch.arange(16.0).expand(3, -1)).last_hidden_state
    np.testing.assert_allclose(encoder.at(pool="patches").encode(pictures()), tokens[:, 1:].flatten(1), atol=1e-5)
    assert encoder.at(pool="patches").parts == [32] * 16


def test_what_draws_at_random_is_refused() -> None:
    with pytest.raises(InputError, match="gives other features each time"):
        from_callable(lambda texts: np.random.default_rng().normal(size=(len(texts), 4)), "text", fingerprint="x")


def save_siglip2(folder: Path) -> Path:
    vision = {key: VISION[key] for key in SHAPE} | {"num_patches": 16, "patch_size": 14}
    config = transformers.Siglip2Config(text_config={**TEXT, "projection_size": 32}, vision_config=vision)
    torch.manual_seed(0)
    transformers.Siglip2Model(config).save_pretrained(folder)
    settings = {"do_resize": True, "do_rescale": True, "do_normalize": True, "patch_size": 14, "max_num_patches": 16}
    means = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "resample": 2}
    kind = {"image_processor_type": "Siglip2ImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | means | kind))
    return save_tokenizer(folder)


def test_what_a_network_needs_besides_pixels_comes_from_its_processor(tmp_path: Path) -> None:
    folder = save_siglip2(tmp_path)
    encoder = load_encoder(f"hf:{folder}", modality="image")
    inputs = encoder.preprocess(pictures())
    assert set(inputs) == {"pixel_values", "pixel_attention_mask", "spatial_shapes"}
    network = transformers.Siglip2Model.from_pretrained(folder).vision_model.eval()
    with torch.no_grad():
        result = network(**inputs)
    np.testing.assert_allclose(encoder.encode(pictures()), result.pooler_output, atol=1e-5)
    mask = inputs["pixel_attention_mask"][..., None]
    means = (result.last_hidden_state * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(encoder.at(pool="mean").encode(pictures()), means, atol=1e-5)


@pytest.mark.parametrize("name", ["CLIP", "MetaClip2"])
def test_the_text_tower_of_a_dual_encoder_ends_in_its_pooler(tmp_path: Path, name: str) -> None:
    text = {**TEXT, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=VISION, projection_dim=24)
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}Model")(config).eval()
    network.save_pretrained(tmp_path)
    encoder = load_encoder(f"hf:{save_processor(save_tokenizer(tmp_path))}", modality="text")
    inputs = encoder.preprocess(TEXTS)
    with torch.no_grad():
        pooled = network.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    np.testing.assert_allclose(encoder.encode(TEXTS), pooled, atol=1e-5)


def test_the_token_that_stands_for_a_text_may_be_its_last(tmp_path: Path) -> None:
    shape = {"vocab_size": TEXT["vocab_size"], "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64}
    folder = save_tokenizer(save_network(tmp_path, "XLNet", shape))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP] [CLS]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    encoder = load_encoder(f"hf:{folder}?pool=cls&max_tokens=32")
    for text in TEXTS:
        inputs = encoder.preprocess([text])
        assert inputs["input_ids"][0, -1] == 2
        np.testing.assert_allclose(encoder.encode([text])[0], encoder.run(inputs).tokens[0, -1], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(TEXTS[:2])[0], encoder.encode(TEXTS[:1])[0], atol=1e-5)


def test_a_tokenizer_without_any_special_token_pads_with_what_is_masked(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    plain = load_encoder(f"hf:{folder}").encode(TEXTS)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "eos_token", "bos_token", "mask_token")
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in settings.items() if k not in names}))
    np.testing.assert_allclose(load_encoder(f"hf:{folder}").encode(TEXTS), plain, atol=1e-5)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9/"])
def test_a_proxy_that_is_none_is_said_and_the_cache_still_serves(
    tmp_path: Path, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commit = "a" * 40
    snapshot = tmp_path / "models--me--tiny" / "snapshots" / commit
    save_bert(snapshot)
    (tmp_path / "models--me--tiny" / "refs").mkdir()
    (tmp_path / "models--me--tiny" / "refs" / "main").write_text(commit)
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for module in ("_snapshot_download", "file_download"):
        monkeypatch.setattr(f"huggingface_hub.{module}.constants.HF_HUB_CACHE", str(tmp_path))
    huggingface_hub.close_session()
    assert load_encoder("hf:me/tiny").revision == commit
    with pytest.raises(OfflineError, match="me/none"):
        load_encoder("hf:me/none")


def test_weights_that_never_arrived_are_not_called_pickled(tmp_path: Path) -> None:
    folder = save_bert(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights at all: fetch the model again") as caught:
        load_encoder(f"hf:{folder}")
    assert hub.UNREAD not in str(caught.value)
