"""Recordings and tiny speech encoders for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

CONVOLUTIONS = {"conv_dim": [8, 8, 8], "conv_kernel": [10, 8, 4], "conv_stride": [5, 8, 8]}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {**CONVOLUTIONS, "num_feat_extract_layers": 3, "vocab_size": 8}
POSITIONS = {"num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 2}
WHISPER = {"d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
WHISPER |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 20}
WHISPER |= {"num_mel_bins": 12, "max_source_positions": 100, "max_target_positions": 4}
WHISPER |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2", {**SMALL, **POSITIONS}),
    "wav2vec2-large": ("Wav2Vec2", {**SMALL, **POSITIONS, "feat_extract_norm": "layer", "do_stable_layer_norm": True}),
    "hubert": ("Hubert", {**SMALL, **POSITIONS}),
    "wavlm": ("WavLM", {**SMALL, **POSITIONS, "num_buckets": 8, "max_bucket_distance": 16}),
    "data2vec-audio": (
        "Data2VecAudio",
        {**SMALL, **POSITIONS, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3},
    ),
}


def tone(seconds: float, rate: int = 16_000, pitch: float = 440.0, seed: int = 0) -> np.ndarray:
    """A tone with a little noise: float32 [samples]."""
    noise = np.random.default_rng(seed).normal(0, 0.01, round(seconds * rate))
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(len(noise)) / rate) + noise).astype(np.float32)


def coded(wave: np.ndarray, rate: int = 16_000, **options: Any) -> bytes:
    """A file of the wave [samples] or [samples, channels]; WAV of 16 bits unless options say otherwise."""
    soundfile, file = pytest.importorskip("soundfile", reason="needs the extra audio"), io.BytesIO()
    soundfile.write(file, wave, rate, **{"format": "WAV", **options})
    return file.getvalue()


def save_speech(folder: Path, kind: str) -> Any:
    """A tiny random network of a kind of `KINDS` or "whisper" in `folder`, with its feature extractor; the network."""
    import transformers

    name, config = ("Whisper", WHISPER) if kind == "whisper" else KINDS[kind]
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config)).eval()
    network.save_pretrained(folder)
    settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 16000, "do_normalize": True}
    if kind == "whisper":
        settings = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 12, "sampling_rate": 16000}
        settings |= {"n_fft": 400, "hop_length": 160, "chunk_length": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return network
