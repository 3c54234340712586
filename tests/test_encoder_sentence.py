"""`st:` – the pipeline is Sentence-Transformers' own; tokens and layers are those of its transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from isthmus.encoders import encode_views, load_encoder
from isthmus.errors import UsageError
from tiny_encoders import TEXTS, edit_json, read_weights, save_sentence_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sentence_pipeline(tmp_path_factory.mktemp("st"))


def test_pooled_is_what_sentence_transformers_encodes(folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    encoder = load_encoder(f"st:{folder}")
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)
    assert (encoder.width, encoder.depth) == (8, 3)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(TEXTS), axis=1), 1, atol=1e-5)


def test_layers_and_poolings_are_those_of_the_transformer(folder: Path) -> None:
    encoder = load_encoder(f"st:{folder}")
    inputs = encoder.preprocess(TEXTS)
    with torch.no_grad():
        states = (
            encoder.network[0]
            .auto_model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                output_hidden_states=True,
            )
            .hidden_states
        )
    mask = inputs["attention_mask"][..., None]
    views = [encoder.at(k) for k in range(4)] + [encoder.at(pool="cls"), encoder]
    *layers, cls, pooled = encode_views(views, inputs)
    for state, features in zip(states, layers, strict=True):
        np.testing.assert_allclose(features, (state * mask).sum(1) / mask.sum(1), atol=1e-6)
    np.testing.assert_allclose(cls, states[-1][:, 0], atol=1e-6)
    assert pooled.shape == (4, 8)


def test_a_text_has_the_same_features_alone(folder: Path) -> None:
    encoder = load_encoder(f"st:{folder}?layer=2&pool=mean")
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_length_is_the_pipelines_and_moves_within_the_table(folder: Path) -> None:
    assert load_encoder(f"st:{folder}").preprocess(TEXTS)["input_ids"].shape[1] == 12
    assert load_encoder(f"st:{folder}?max_tokens=16").preprocess(TEXTS)["input_ids"].shape[1] == 16
    with pytest.raises(UsageError, match="at most 16"):
        load_encoder(f"st:{folder}?max_tokens=17")


def test_prompts_come_from_the_uri_or_the_pipelines_default(folder: Path, tmp_path: Path) -> None:
    import shutil

    prompted = load_encoder(f"st:{folder}?prompt=a photo of ")
    written = load_encoder(f"st:{folder}").encode(["a photo of the cat"])
    np.testing.assert_allclose(prompted.encode(["the cat"]), written, atol=1e-6)
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit_json(
        copy / "config_sentence_transformers.json",
        prompts={"q": "a photo of "},
        default_prompt_name="q",
    )
    default = load_encoder(f"st:{copy}")
    np.testing.assert_allclose(default.encode(["the cat"]), written, atol=1e-6)
    assert default.fingerprint == prompted.fingerprint


def test_every_module_counts_in_the_fingerprint(folder: Path, tmp_path: Path) -> None:
    plain = save_sentence_pipeline(tmp_path, normalize=False)
    assert load_encoder(f"st:{plain}").fingerprint != load_encoder(f"st:{folder}").fingerprint
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")]
    assert sorted(names) == ["2_Dense/model.safetensors", "model.safetensors"]
    dense = plain / "2_Dense" / "model.safetensors"
    before = load_encoder(f"st:{plain}").fingerprint
    from safetensors.torch import save_file

    save_file({name: tensor + 1 for name, tensor in read_weights(dense).items()}, dense)
    assert load_encoder(f"st:{plain}").fingerprint != before


def test_images_options_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="image and video encoders"):
        load_encoder(f"st:{folder}?size=224")
