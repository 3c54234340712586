"""Views of one frozen network: layers and poolings against the network's own hidden states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from isthmus.encoders import encode_views, load_encoder, load_encoders
from isthmus.encoders.base import Encoder
from isthmus.encoders.fingerprint import module_digest
from isthmus.errors import InputError, UsageError
from tiny_encoders import TEXTS, VISION, pictures, save_bert, save_dinov2, save_network, save_processor


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dinov2(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("bert"))


def hidden_states(encoder: Encoder, items: list) -> tuple[list[torch.Tensor], torch.Tensor]:
    with torch.no_grad():
        inputs = encoder.preprocess(items)
        result = encoder.network(**inputs, output_hidden_states=True)
    return list(result.hidden_states), result.last_hidden_state


def test_image_layers_and_pools_match_hidden_states(image_folder: Path) -> None:
    encoder = load_encoder(f"hf:{image_folder}")
    states, last = hidden_states(encoder, pictures())
    assert encoder.depth == 3
    for layer, state in enumerate(states):
        view = encoder.at(layer, "cls+mean+max")
        expected = torch.cat([state[:, 0], state[:, 1:].mean(1), state[:, 1:].amax(1)], dim=1)
        np.testing.assert_allclose(view.encode(pictures()), expected, atol=1e-6)
        assert (view.width, view.parts) == (96, [32, 32, 32])
    np.testing.assert_allclose(encoder.encode(pictures()), last[:, 0], atol=1e-6)
    np.testing.assert_allclose(encoder.at(pool="mean").encode(pictures()), last[:, 1:].mean(1), atol=1e-6)
    assert not np.allclose(encoder.at(3).encode(pictures()), last[:, 0], atol=1e-2), "layer 3 is before the norm"


def test_text_layers_and_pools_match_hidden_states(text_folder: Path) -> None:
    encoder = load_encoder(f"hf:{text_folder}")
    states, last = hidden_states(encoder, TEXTS)
    mask = encoder.preprocess(TEXTS)["attention_mask"].bool()
    for layer, state in [(0, states[0]), (1, states[1]), (3, states[3]), (None, last)]:
        rows = [row[keep] for row, keep in zip(state, mask, strict=True)]
        expected = torch.stack([torch.cat([row[0], row.mean(0), row[-1]]) for row in rows])
        np.testing.assert_allclose(encoder.at(layer, "cls+mean+last").encode(TEXTS), expected, atol=1e-6)
    np.testing.assert_array_equal(encoder.at(pool="mean").encode(TEXTS), encoder.encode(TEXTS))


def test_registers_are_no_patches(tmp_path: Path) -> None:
    config = {**VISION, "num_register_tokens": 4}
    encoder = load_encoder(f"hf:{save_processor(save_network(tmp_path, 'Dinov2WithRegisters', config))}")
    _, last = hidden_states(encoder, pictures())
    assert last.shape[1] == 1 + 4 + 9
    np.testing.assert_allclose(encoder.at(pool="mean").encode(pictures()), last[:, 5:].mean(1), atol=1e-6)


def test_a_cnn_gives_stem_and_stages_and_has_no_cls(tmp_path: Path) -> None:
    config = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
    encoder = load_encoder(f"hf:{save_processor(save_network(tmp_path, 'ConvNext', config), crop=64)}")
    with torch.no_grad():
        result = encoder.network(**encoder.preprocess(pictures()), output_hidden_states=True)
    assert [encoder.at(k).width for k in range(encoder.depth + 1)] == [8, 8, 16, 24, 32]
    np.testing.assert_allclose(encoder.at(3).encode(pictures()), result.hidden_states[3].mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(encoder.encode(pictures()), result.pooler_output, atol=1e-6)
    with pytest.raises(UsageError, match=r"no pooling 'cls'.*max, mean"):
        encoder.at(pool="cls")


def test_all_views_come_from_one_forward_pass(image_folder: Path) -> None:
    views = load_encoders([f"hf:{image_folder}?layer=*&pool=mean", f"hf:{image_folder}", f"hf:{image_folder}?layer=-1"])
    assert len({id(view.network) for view in views}) == 1
    assert [view.layer for view in views] == [0, 1, 2, 3, None, 3]
    calls: list[int] = []
    handle = views[0].network.register_forward_hook(lambda *_: calls.append(1))
    together = encode_views(views, views[0].preprocess(pictures()))
    handle.remove()
    assert len(calls) == 1
    for view, features in zip(views, together, strict=True):
        assert features.dtype == np.float32
        np.testing.assert_array_equal(features, view.encode(pictures()))


def test_views_of_different_networks_are_refused(image_folder: Path, text_folder: Path) -> None:
    image, text = load_encoder(f"hf:{image_folder}"), load_encoder(f"hf:{text_folder}")
    with pytest.raises(UsageError, match="different networks"):
        encode_views([image, text], image.preprocess(pictures()))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("layer=4", "Layers run from 0"),
        ("layer=-5", "Layers run from 0"),
        ("pool=last", "no pooling 'last'.*cls, max, mean"),
        ("layer=*", "load_encoders"),
        ("prompt=x", "text encoders"),
        ("max_tokens=5", "text encoders"),
        ("size=5", "cannot take images of this size"),
    ],
)
def test_what_does_not_exist_is_refused(image_folder: Path, query: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_encoder(f"hf:{image_folder}?{query}")


def test_the_other_modality_is_refused(image_folder: Path) -> None:
    with pytest.raises(UsageError, match="encoder of images, not of texts"):
        load_encoder(f"hf:{image_folder}", modality="text")


def test_encoding_changes_no_parameter_and_needs_no_gradient(image_folder: Path, text_folder: Path) -> None:
    for encoder, items in [
        (load_encoder(f"hf:{image_folder}"), pictures()),
        (load_encoder(f"hf:{text_folder}"), TEXTS),
    ]:
        before = module_digest(encoder.network)
        encoder.network.train()  # someone else's model.train() must not switch dropout on
        first = encoder.at(-1, "mean").encode(items)
        np.testing.assert_array_equal(first, encoder.at(-1, "mean").encode(items))
        assert module_digest(encoder.network) == before
        assert not encoder.network.training
        assert not any(parameter.requires_grad for parameter in encoder.network.parameters())


def test_batch_size_does_not_change_features_or_their_order(text_folder: Path) -> None:
    encoder = load_encoder(f"hf:{text_folder}")
    np.testing.assert_allclose(encoder.encode(TEXTS, batch_size=1), encoder.encode(TEXTS), atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)


def test_tensors_and_transparent_images_are_taken(image_folder: Path) -> None:
    encoder, picture = load_encoder(f"hf:{image_folder}"), pictures()[0]
    pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
    expected = encoder.encode([picture])
    for item in (pixels, pixels.float(), pixels / 255):
        np.testing.assert_array_equal(encoder.encode([item]), expected)
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    white = torch.full_like(pixels, 255)
    np.testing.assert_array_equal(encoder.encode([clear]), encoder.encode([white]))


@pytest.mark.parametrize("item", [torch.zeros(1, 4, 4), torch.full((3, 4, 4), -1.0), "cat.jpg"])
def test_what_is_no_image_is_refused(image_folder: Path, item: object) -> None:
    with pytest.raises(InputError, match="image"):
        load_encoder(f"hf:{image_folder}").encode([item])


def test_what_is_no_text_is_refused(text_folder: Path) -> None:
    encoder = load_encoder(f"hf:{text_folder}")
    with pytest.raises(InputError, match="item 1 is of type int"):
        encoder.encode(["a cat", 3])
    with pytest.raises(InputError, match="list of strings"):
        encoder.preprocess("a cat")


def test_the_record_is_json_and_says_where_features_come_from(image_folder: Path) -> None:
    import json

    record = load_encoder(f"hf:{image_folder}?layer=-1&pool=cls+mean").record()
    assert json.loads(json.dumps(record)) == record
    assert record["layer"] == 3
    assert record["parts"] == [32, 32]
    assert record["compute_dtype"] == "float32"
    assert record["preprocessing"]["image_processor"]["crop_size"] == {"height": 42, "width": 42}
