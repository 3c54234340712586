"""`timm:` and `open_clip:` against the libraries themselves, on random models saved in their own formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hostile import attack
from isthmus.encoders import encode_views, load_encoder
from isthmus.encoders.fingerprint import module_digest
from isthmus.errors import UsageError
from tiny_encoders import pictures

pytestmark = pytest.mark.peers
TEXTS = [
    "a cat",
    "two dogs in the park",
    "a much longer caption that has to be cut somewhere in its middle by force",
]
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": TEXT,
}


def save_timm(folder: Path, name: str, **options: object) -> tuple[Path, torch.nn.Module]:
    import timm
    from timm.models import save_for_hf

    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=5, **options).eval()
    save_for_hf(network, folder, safe_serialization=True)
    return folder, network


def save_open_clip(folder: Path, config: dict) -> tuple[Path, torch.nn.Module]:
    import open_clip

    torch.manual_seed(0)
    build = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    network = build(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    folder.mkdir(exist_ok=True)
    card = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(card))
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder, network


def test_timm_vit_layers_pools_and_head(tmp_path: Path) -> None:
    folder, network = save_timm(tmp_path, "vit_small_patch14_reg4_dinov2", img_size=56)
    encoder = load_encoder(f"timm:{folder}")
    inputs = encoder.preprocess(pictures())
    assert inputs["pixel_values"].shape == (3, 3, 56, 56)
    with torch.no_grad():
        final = network.forward_features(inputs["pixel_values"])
        pooled = network.forward_head(final, pre_logits=True)
        blocks = network.forward_intermediates(
            inputs["pixel_values"], output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )
    views = [
        encoder,
        encoder.at(pool="cls+mean"),
        encoder.at(12, "mean"),
        encoder.at(7, "cls"),
        encoder.at(0),
    ]
    own, both, last, seventh, _ = encode_views(views, inputs)
    np.testing.assert_allclose(own, pooled, atol=1e-5)
    np.testing.assert_allclose(both, torch.cat([final[:, 0], final[:, 5:].mean(1)], 1), atol=1e-5)
    np.testing.assert_allclose(last, blocks[-1][0].mean(1), atol=1e-5)
    np.testing.assert_allclose(seventh, blocks[6][1][:, 0], atol=1e-5)
    assert encoder.depth == 12


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet18", [64, 64, 128, 256, 512]),
        ("convnext_atto", [40, 80, 160, 320]),
        ("swin_tiny_patch4_window7_224", [96, 192, 384, 768]),
    ],
)
def test_timm_stages(tmp_path: Path, name: str, widths: list[int]) -> None:
    folder, network = save_timm(tmp_path, name)
    encoder = load_encoder(f"timm:{folder}")
    assert [encoder.at(k).width for k in range(encoder.depth + 1)] == widths
    inputs = encoder.preprocess(pictures())
    with torch.no_grad():
        pooled = network.forward_head(network.forward_features(inputs["pixel_values"]), pre_logits=True)
        maps = network.forward_intermediates(inputs["pixel_values"], intermediates_only=True)
    own, stage = encode_views([encoder, encoder.at(1)], inputs)
    np.testing.assert_allclose(own, pooled, atol=1e-5)
    np.testing.assert_allclose(stage, maps[1].mean((2, 3)), atol=1e-5)
    with pytest.raises(UsageError, match="no pooling 'cls'"):
        encoder.at(pool="cls")


def test_timm_transform_size_and_fingerprint(tmp_path: Path) -> None:
    from timm.data import create_transform, resolve_model_data_config

    folder, network = save_timm(tmp_path, "vit_tiny_patch16_224")
    encoder = load_encoder(f"timm:{folder}")
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    torch.testing.assert_close(encoder.preprocess(pictures()[:1])["pixel_values"][0], transform(pictures()[0]))
    smaller = load_encoder(f"timm:{folder}?size=112")
    assert smaller.preprocess(pictures())["pixel_values"].shape[-1] == 112
    assert smaller.encode(pictures()).shape == (3, 192)
    assert smaller.fingerprint != encoder.fingerprint == load_encoder(f"timm:{folder}").fingerprint
    before = module_digest(encoder.network)
    encoder.encode(pictures())
    assert module_digest(encoder.network) == before


def test_open_clip_towers_match_encode_image_and_encode_text(tmp_path: Path) -> None:
    folder, network = save_open_clip(tmp_path / "clip", CLIP)
    image = load_encoder(f"open_clip:{folder}", modality="image")
    text = load_encoder(f"open_clip:{folder}", modality="text")
    seen, read = image.preprocess(pictures()), text.preprocess(TEXTS)
    with torch.no_grad():
        np.testing.assert_allclose(image.encode(pictures()), network.encode_image(seen["pixel_values"]), atol=1e-5)
        np.testing.assert_allclose(text.encode(TEXTS), network.encode_text(read["input_ids"]), atol=1e-5)
    assert (image.depth, text.depth, image.width, text.width) == (2, 3, 24, 24)
    output = image.run(seen, layers=True)
    with torch.no_grad():
        torch.testing.assert_close(output.tokens, network.visual.ln_post(output.layers[-1]))
    projected = torch.from_numpy(image.at(pool="cls").encode(pictures())) @ network.visual.proj.detach()
    np.testing.assert_allclose(projected, image.encode(pictures()), atol=1e-5)
    ends = text.run(read, layers=True).tokens[torch.arange(3), read["input_ids"].argmax(1)]
    np.testing.assert_allclose(text.at(pool="last").encode(TEXTS), ends, atol=1e-5)
    assert image.fingerprint != text.fingerprint


def test_open_clip_with_a_timm_trunk_and_with_a_cnn(tmp_path: Path) -> None:
    trunk = {
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 224,
    }
    trunk |= {"image_size": 224}
    folder, _ = save_open_clip(tmp_path / "trunk", {**CLIP, "custom_text": True, "vision_cfg": trunk})
    assert load_encoder(f"open_clip:{folder}", modality="image").depth == 12
    cnn = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 64, "patch_size": None}
    folder, network = save_open_clip(tmp_path / "cnn", {**CLIP, "vision_cfg": cnn})
    encoder = load_encoder(f"open_clip:{folder}", modality="image")
    with torch.no_grad():
        expected = network.encode_image(encoder.preprocess(pictures())["pixel_values"])
    np.testing.assert_allclose(encoder.encode(pictures()), expected, atol=1e-5)
    with pytest.raises(UsageError, match="pooled features only"):
        encoder.at(pool="mean")


def test_open_clip_length_prompt_and_size(tmp_path: Path) -> None:
    folder, _ = save_open_clip(tmp_path / "clip", CLIP)
    short = load_encoder(f"open_clip:{folder}?max_tokens=5", modality="text")
    cut = short.preprocess([TEXTS[2]])["input_ids"]
    assert cut.shape == (1, 20)
    assert (cut != 0).sum() == 5
    with pytest.raises(UsageError, match="at most 20"):
        load_encoder(f"open_clip:{folder}?max_tokens=21", modality="text")
    prompted = load_encoder(f"open_clip:{folder}?prompt=a photo of ", modality="text").encode(["a cat"])
    written = load_encoder(f"open_clip:{folder}", modality="text").encode(["a photo of a cat"])
    np.testing.assert_array_equal(prompted, written)
    larger = load_encoder(f"open_clip:{folder}?size=64", modality="image")
    assert larger.preprocess(pictures())["pixel_values"].shape[-1] == 64
    assert larger.encode(pictures()).shape == (3, 24)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("open_clip:ViT-B-33@openai", "Did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32@opnai", "Did you mean 'openai'"),
        ("open_clip:ViT-B-32", "choose one with @"),
        ("timm:vit_bse_patch16_224", "vit_base_patch16_224"),
        ("timm:vit_base_patch16_224.nope", "augreg_in21k"),
    ],
)
def test_names_that_do_not_exist(uri: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_encoder(uri, modality="image", fetch=False)


def test_open_clip_needs_a_modality(tmp_path: Path) -> None:
    folder, _ = save_open_clip(tmp_path / "clip", CLIP)
    with pytest.raises(UsageError, match="two towers"):
        load_encoder(f"open_clip:{folder}")


def test_a_ready_open_clip_model_gives_the_library_s_embeddings_and_logits(tmp_path: Path) -> None:
    from isthmus.models.dual_encoder import DualEncoder

    folder, network = save_open_clip(tmp_path / "clip", CLIP)
    model = DualEncoder.from_pretrained(f"open_clip:{folder}")
    seen, read = (model.encoders[m][0].preprocess(x) for m, x in (("image", pictures()), ("text", TEXTS)))
    with torch.no_grad():
        image = network.encode_image(seen["pixel_values"], normalize=True)
        text = network.encode_text(read["input_ids"], normalize=True)
        logits = network.logit_scale.exp() * image @ text.T
    np.testing.assert_allclose(model.encode_image(pictures()), image, atol=1e-5)
    np.testing.assert_allclose(model.encode_text(TEXTS), text, atol=1e-5)
    np.testing.assert_allclose(
        model.logits(model.encode_image(pictures()), model.encode_text(TEXTS)), logits, atol=1e-4
    )


def test_hostile_folders_end_in_a_message(tmp_path: Path) -> None:
    made = {
        "vit": ("timm", save_timm(tmp_path / "vit", "vit_tiny_patch16_224", img_size=32, depth=2)[0]),
        "convnext": ("timm", save_timm(tmp_path / "convnext", "convnext_atto")[0]),
        "open_clip": ("open_clip", save_open_clip(tmp_path / "clip", CLIP)[0]),
    }
    towers = {"image": made, "text": {"open_clip": made["open_clip"]}}
    for modality, families in towers.items():
        print(modality, attack(families, 60, tmp_path, modality))  # noqa: T201
