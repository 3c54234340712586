"""Ready dual encoders: the same vectors as their own libraries give, in everything that takes a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from isthmus import DualEncoder, evaluate
from isthmus.errors import InputError, UsageError
from isthmus.models.pretrained import is_uri
from tiny_encoders import SHAPE, VOCABULARY, pictures, save_bert, save_processor, save_tokenizer
from toys import write_pairs

TEXTS = ["a cat", "two dogs running in the park", "a red photo"]
VISION = {**SHAPE, "image_size": 42, "patch_size": 14}
TEXT = {**SHAPE, "vocab_size": len(VOCABULARY), "max_position_embeddings": 16, "pad_token_id": 0}


def save_clip(folder: Path) -> Any:
    torch.manual_seed(0)
    text = {**TEXT, "eos_token_id": 3, "bos_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    network = transformers.CLIPModel(config).eval()
    network.save_pretrained(folder)
    save_processor(save_tokenizer(folder))
    return network


def save_siglip(folder: Path) -> Any:
    torch.manual_seed(0)
    config = transformers.SiglipConfig(text_config={**TEXT, "projection_size": 32}, vision_config=VISION)
    network = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        network.logit_bias.fill_(-7.0)
    network.save_pretrained(folder)
    save_processor(save_tokenizer(folder))
    return network


def unit(features: Any) -> np.ndarray:
    features = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(features, dim=-1).numpy()


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_embeddings_and_logits_are_the_library_s(tmp_path: Path, save: Any) -> None:
    network = save(tmp_path)
    model = DualEncoder.from_pretrained(f"hf:{tmp_path}?max_tokens=16")
    towers = {m: encoders[0] for m, encoders in model.encoders.items()}
    seen, read = towers["image"].preprocess(pictures()), towers["text"].preprocess(TEXTS)
    if save is save_siglip:
        read.pop("attention_mask")
    with torch.no_grad():
        image, text = network.get_image_features(**seen), network.get_text_features(**read)
        logits = network(**seen, **read).logits_per_image.numpy()
    np.testing.assert_allclose(model.encode_image(pictures()), unit(image), atol=1e-5)
    np.testing.assert_allclose(model.encode_text(TEXTS), unit(text), atol=1e-5)
    ours = model.logits(model.encode_image(pictures()), model.encode_text(TEXTS))
    np.testing.assert_allclose(ours, logits, atol=2e-4)


def test_a_sentence_transformers_pipeline_of_both_modalities(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    save_clip(tmp_path / "clip")
    pipeline = SentenceTransformer(modules=[Transformer(str(tmp_path / "clip"))], device="cpu")
    pipeline.save(str(tmp_path / "st"))
    model = DualEncoder.from_pretrained(f"st:{tmp_path / 'st'}")
    np.testing.assert_allclose(
        model.encode_image(pictures()), pipeline.encode(pictures(), normalize_embeddings=True), atol=1e-5
    )
    np.testing.assert_allclose(model.encode_text(TEXTS), pipeline.encode(TEXTS, normalize_embeddings=True), atol=1e-5)
    clip = DualEncoder.from_pretrained(f"hf:{tmp_path / 'clip'}")
    np.testing.assert_allclose(model.encode_image(pictures()), clip.encode_image(pictures()), atol=1e-5)


def test_everything_that_takes_a_model_takes_one(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    uri = f"hf:{tmp_path / 'clip'}?max_tokens=16"
    pairs = write_pairs(tmp_path / "pairs", copies=1)
    found = evaluate(uri, "retrieval", pairs, bootstrap=0)
    assert found["model"] == uri
    assert found["n"]["images"] == 64
    assert 0 < found["metrics"]["mean_recall@10"] < 1
    assert evaluate(uri, "zeroshot", pairs, bootstrap=0)["n"]["classes"] == 4
    model = DualEncoder.from_pretrained(uri)
    model.save_pretrained(tmp_path / "saved")
    again = DualEncoder.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode_text(TEXTS), model.encode_text(TEXTS))


def test_a_store_of_a_ready_model_s_features_is_evaluated_without_pictures(tmp_path: Path) -> None:
    import isthmus as ist

    save_clip(tmp_path / "clip")
    uri = f"hf:{tmp_path / 'clip'}?max_tokens=16"
    store = ist.embed(
        write_pairs(tmp_path / "pairs", copies=1),
        *(DualEncoder.from_pretrained(uri).encoders[m] for m in ("image", "text")),
        out=tmp_path / "store",
        precision="float32",
    )
    by_store = evaluate(uri, "retrieval", store.path, bootstrap=0)["metrics"]
    by_pairs = evaluate(uri, "retrieval", tmp_path / "pairs" / "pairs.jsonl", bootstrap=0)["metrics"]
    assert by_store == pytest.approx(by_pairs, abs=0.05)  # features are stored in half precision


def test_what_is_no_dual_encoder_is_refused(tmp_path: Path) -> None:
    assert is_uri("hf:openai/clip-vit-base-patch32")
    assert not is_uri("out/demo/model")
    assert not is_uri(tmp_path)
    with pytest.raises(UsageError, match="wheel has no dual encoders; hf, open_clip, st have"):
        DualEncoder.from_pretrained("wheel:minilm-l6")
    save_bert(tmp_path / "bert")
    with pytest.raises(UsageError, match="is an encoder of texts, not of images"):
        DualEncoder.from_pretrained(f"hf:{tmp_path / 'bert'}")
    save_clip(tmp_path / "clip")
    with pytest.raises(UsageError, match="layer and pool do not go with"):
        DualEncoder.from_pretrained(f"hf:{tmp_path / 'clip'}?pool=mean+max")
    with pytest.raises(InputError, match="no such folder"):
        DualEncoder.from_pretrained(f"hf:{tmp_path / 'none'}")
