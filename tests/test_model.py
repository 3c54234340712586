"""A saved model is the model, and nothing but the model it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import isthmus as ist
from isthmus.errors import InputError
from isthmus.files import file_digest, read_sealed, write_sealed
from isthmus.models.dual_encoder import DualEncoder
from toys import picture, pixel_encoder, png, word_encoder, write_pairs


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    store = ist.embed(write_pairs(folder / "data"), pixel_encoder(), word_encoder(), out=folder / "store")
    ist.train(store, recipe="linear", overrides=["optim.epochs=2", "head.width=16"], out=folder / "model")
    return folder / "model"


def toys() -> dict:
    return {"image": [pixel_encoder()], "text": [word_encoder()]}


def copy(saved: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((saved / name).read_bytes())
    return folder


def test_saving_and_loading_changes_no_bit(saved: Path, tmp_path: Path) -> None:
    model = DualEncoder.from_pretrained(saved, encoders=toys())
    again = DualEncoder.from_pretrained(model.save_pretrained(tmp_path / "again"), encoders=toys())
    images = [picture("red", "dark", "left"), picture("blue", "pale", "top")]
    np.testing.assert_array_equal(model.encode_image(images), again.encode_image(images))
    np.testing.assert_array_equal(model.encode_text(["a", "b c"]), again.encode_text(["a", "b c"]))
    assert (model.scale, model.bias, model.summary) == (again.scale, again.bias, again.summary)


def test_images_come_as_paths_bytes_pictures_or_tensors(saved: Path, tmp_path: Path) -> None:
    model = DualEncoder.from_pretrained(saved, encoders=toys())
    image = picture("green", "plain", "right")
    image.save(tmp_path / "one.png")
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    forms = [str(tmp_path / "one.png"), tmp_path / "one.png", png(image), image, tensor]
    embedded = model.encode_image(forms)
    assert embedded.shape == (5, 16) and embedded.dtype == np.float32
    np.testing.assert_allclose(embedded, embedded[:1].repeat(5, 0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model.encode_image(image), embedded[3:4], atol=1e-6)
    assert isinstance(model.encode_text("a red square", as_tensor=True), torch.Tensor)


def test_an_image_that_cannot_be_read_is_named(saved: Path, tmp_path: Path) -> None:
    model = DualEncoder.from_pretrained(saved, encoders=toys())
    (tmp_path / "broken.png").write_bytes(b"no")
    for name in ("broken.png", "absent.png"):
        with pytest.raises(InputError, match=name):
            model.encode_image([tmp_path / name])


def test_cached_features_give_what_the_encoders_give(saved: Path) -> None:
    model = DualEncoder.from_pretrained(saved, encoders=toys())
    images = [picture("yellow", "dark", "bottom", seed) for seed in range(3)]
    from_features = model.project("image", pixel_encoder().encode(images))
    np.testing.assert_allclose(model.encode_image(images), from_features, atol=1e-6)
    similarity = model.similarity(from_features, model.encode_text(["a", "b"]))
    assert similarity.shape == (3, 2)
    np.testing.assert_allclose(model.logits(from_features, model.encode_text(["a", "b"])), model.scale * similarity)
    with pytest.raises(InputError, match="7 wide, this model takes 108"):
        model.project("image", np.zeros((2, 7), np.float32))


def test_a_model_without_its_encoders_says_so(saved: Path) -> None:
    with pytest.raises(InputError, match="without its text encoder"):
        DualEncoder.from_pretrained(saved, load=False).encode_text(["a"])


def test_another_encoder_is_refused_and_the_difference_named(saved: Path) -> None:
    with pytest.raises(InputError, match=r"callable:pixels is not the encoder.*differs: callable\."):
        DualEncoder.from_pretrained(saved, encoders=toys() | {"image": [pixel_encoder("pixels-2")]})
    with pytest.raises(InputError, match=r"1 encoder\(s\) side by side, 2"):
        DualEncoder.from_pretrained(saved, encoders=toys() | {"image": [pixel_encoder()] * 2})


def test_missing_foreign_and_truncated_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"empty: not an isthmus model"):
        (tmp_path / "empty").mkdir()
        DualEncoder.from_pretrained(tmp_path / "empty", load=False)
    truncated = copy(saved, tmp_path / "truncated")
    data = (saved / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(data[:-10])
    foreign = copy(saved, tmp_path / "foreign")
    save_file({"something": torch.zeros(2)}, foreign / "model.safetensors")
    flipped = copy(saved, tmp_path / "flipped")
    (flipped / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    absent = copy(saved, tmp_path / "absent")
    (absent / "model.safetensors").unlink()
    for folder in (truncated, foreign, flipped, absent):
        with pytest.raises(InputError, match=f"{folder.name}/model.safetensors"):
            DualEncoder.from_pretrained(folder, load=False)
    config = copy(saved, tmp_path / "config")
    (config / "config.json").write_text("{not json")
    with pytest.raises(InputError, match=r"config\.json: cannot be read as JSON"):
        DualEncoder.from_pretrained(config, load=False)


def test_a_missing_key_is_an_error_that_names_it(saved: Path, tmp_path: Path) -> None:
    folder = copy(saved, tmp_path / "less")
    weights = load_file(saved / "model.safetensors")
    name = next(key for key in weights if key.startswith("text"))
    weights.pop(name)
    save_file(weights, folder / "model.safetensors")
    config = read_sealed(folder / "config.json")
    write_sealed(folder / "config.json", config | {"weights": file_digest(folder / "model.safetensors")})
    with pytest.raises(InputError, match=name):
        DualEncoder.from_pretrained(folder, load=False)


def test_the_folder_holds_projectors_temperature_and_a_card_only(saved: Path) -> None:
    weights = load_file(saved / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) < 10_000
    assert all(name.startswith(("image_projector.", "text_projector.", "scale", "bias")) for name in weights)
    card = (saved / "README.md").read_text()
    assert "callable:pixels" in card and "scale" in card and "optim.epochs | 2" in card
