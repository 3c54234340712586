"""Speech encoders of transformers: those that take a waveform (wav2vec 2.0 and its kin), and Whisper's encoder.

Each recording is computed as it would be alone, whatever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.audio import RATE, BadAudio
from isthmus.encoders import hub
from isthmus.encoders.base import Encoder, Inputs, Output, block_outputs, find_blocks
from isthmus.encoders.fingerprint import files_digest
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, UsageError

WAVES = ("data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
SECONDS = 30  # of the longest recording, unless the URI names another number


def load_speech(
    folder: Path, uri: EncoderURI, network: Any, device: str | torch.device | None, trust_remote_code: bool
) -> Encoder:
    """The encoder of a network of transformers that takes sound. `UsageError` for one of a family not known here."""
    kind = network.config.model_type
    if kind == "whisper":
        return HFWhisperEncoder(folder, uri, network, device)
    if kind in WAVES:
        return HFWaveEncoder(folder, uri, network, device)
    raise UsageError(f"{uri}: a {kind} is made for audio, of which hf: loads {', '.join((*WAVES, 'whisper'))}.")


class HFWaveEncoder(Encoder):
    """wav2vec 2.0, HuBERT, WavLM, data2vec-audio, UniSpeech: tokens at 50 Hz from a waveform at 16 kHz.

    Recordings of different lengths go through the network one after the other: the group norm of some families, and the
    position convolutions of others, would see the padding of a batch. Longer ones than `seconds` are refused.
    """

    def __init__(self, folder: Path, uri: EncoderURI, network: Any, device: str | torch.device | None) -> None:
        settings = _feature_extractor(folder, uri, "Wav2Vec2FeatureExtractor")
        if getattr(network, "adapter", None) is not None:
            raise UsageError(f"{uri}: its adapter shortens the last layer, which is not supported.")
        self._normalises = bool(settings.get("do_normalize", True))
        self.seconds = uri.seconds or SECONDS
        self._blocks = find_blocks(network.encoder, network.config.num_hidden_layers)
        self.rate_hz = RATE / float(np.prod(network.config.conv_stride))
        ingredients = _ingredients(folder, settings, int(self.seconds * self.rate_hz))
        super().__init__(uri, "audio", network, ingredients, pools=("mean", "max", "last"), device=device)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """{"input_values": float32 [N, samples], zeros behind each; "samples": int64 [N]}."""
        waves = [torch.from_numpy(_fitting(wave, self.seconds, self.uri)) for wave in self.spec.read(items)]
        if self._normalises:
            waves = [(wave - wave.mean()) / torch.sqrt(wave.var(correction=0) + 1e-7) for wave in waves]
        lengths = torch.tensor([len(wave) for wave in waves])
        return {"input_values": nn.utils.rnn.pad_sequence(waves, batch_first=True), "samples": lengths}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        found: dict[int, list[Tensor]] = {}
        for length, rows in _by_length(inputs["samples"]):
            with block_outputs(self._blocks if layers else ()) as states:
                tokens = self.network(inputs["input_values"][rows, :length]).last_hidden_state
            for place, row in enumerate(rows):
                found[row] = [state[place] for state in (*states, tokens)]
        columns = zip(*(found[row] for row in sorted(found)), strict=True)
        *states, tokens = (nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in columns)
        counts = torch.tensor([len(found[row][-1]) for row in sorted(found)], device=tokens.device)
        return Output(tokens=tokens, mask=_mask(counts, tokens.shape[1]), layers=states)


class HFWhisperEncoder(Encoder):
    """Whisper's encoder: tokens at 50 Hz from the log-mel spectrum of a window of 30 s, silence behind each recording.

    The window is the network's own unless the URI names another (`seconds=8`): a shorter one costs less and gives other
    features, because attention then sees less silence. Longer recordings than the window are refused. Tokens behind a
    recording's end are masked.
    """

    rate_hz = 50.0

    def __init__(self, folder: Path, uri: EncoderURI, network: Any, device: str | torch.device | None) -> None:
        settings = _feature_extractor(folder, uri, "WhisperFeatureExtractor")
        self._fft, self._hop = int(settings.get("n_fft", 400)), int(settings.get("hop_length", 160))
        own = network.config.max_source_positions / self.rate_hz
        self.seconds = uri.seconds or own
        if self._hop != RATE // 100 or self.seconds > own:
            raise UsageError(f"{uri}: its window is at most {own:.0f} s, in steps of 10 ms.")
        self._filters = _mel_filters(network.config.num_mel_bins, self._fft)
        ingredients = _ingredients(folder, settings, int(self.seconds * self.rate_hz))
        super().__init__(uri, "audio", network, ingredients, pools=("mean", "max", "last"), device=device)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """{"input_features": float32 [N, mels, 100 · seconds], "samples": int64 [N]}."""
        waves = [torch.from_numpy(_fitting(wave, self.seconds, self.uri)) for wave in self.spec.read(items)]
        size = int(self.seconds * RATE)
        batch = torch.stack([F.pad(wave, (0, size - len(wave))) for wave in waves])
        return {
            "input_features": log_mel(batch, self._filters, self._fft, self._hop),
            "samples": torch.tensor([len(wave) for wave in waves]),
        }

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        network: Any = self.network
        counts = -(-inputs["samples"] // int(RATE / self.rate_hz))
        longest = int(counts.max())
        state = F.gelu(network.conv2(F.gelu(network.conv1(inputs["input_features"])))).transpose(1, 2)
        state = state + network.embed_positions.weight[: state.shape[1]]
        states = [state]
        for layer in network.layers:
            result = layer(states[-1], None)
            states.append(result if isinstance(result, Tensor) else result[0])
        tokens = network.layer_norm(states[-1])[:, :longest]
        held = [state[:, :longest] for state in states] if layers else ()
        return Output(tokens=tokens, mask=_mask(counts, longest), layers=held)


def log_mel(waves: Tensor, filters: Tensor, fft: int = 400, hop: int = 160) -> Tensor:
    """Whisper's log-mel spectra [N, mels, samples / hop] of waves [N, samples] at 16 kHz.

    Base 10, at most 8 below the greatest of the recording, then (x + 4) / 4. filters: [mels, 1 + fft / 2]. As
    `WhisperFeatureExtractor` of transformers computes them.
    """
    spectrum = torch.stft(waves, fft, hop, window=torch.hann_window(fft), return_complex=True)
    power = spectrum[..., :-1].abs().square().contiguous()
    decades = (filters @ power).clamp(min=1e-10).log10()
    return (torch.maximum(decades, decades.amax(dim=(1, 2), keepdim=True) - 8) + 4) / 4


def _mel_filters(mels: int, fft: int) -> Tensor:
    """Slaney's filters from 0 to 8 kHz: float32 [mels, 1 + fft / 2]."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(1 + fft // 2, mels, 0.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(np.ascontiguousarray(bank.T, np.float32))


def _by_length(samples: Tensor) -> list[tuple[int, list[int]]]:
    """The rows of each length, so that equal ones share a forward pass."""
    lengths = samples.tolist()
    return [(length, [row for row, own in enumerate(lengths) if own == length]) for length in sorted(set(lengths))]


def _mask(counts: Tensor, longest: int) -> Tensor:
    return torch.arange(longest, device=counts.device) < counts[:, None]


def _ingredients(folder: Path, settings: dict[str, Any], most: int) -> dict[str, Any]:
    """What an encoder's features depend on, for its fingerprint. most: tokens of the longest recording."""
    return {
        "weights": files_digest(hub.weight_files(folder), folder),
        "config": hub.read_config(folder),
        "feature_extractor": settings,
        "max_tokens": most,
    }


def _fitting(wave: np.ndarray, seconds: float, uri: EncoderURI) -> np.ndarray:
    """The wave, if it is not too long; a copy, since it may be read only."""
    if len(wave) > seconds * RATE:
        raise BadAudio(
            f"{len(wave) / RATE:.1f} s are longer than the {seconds:.0f} s that {uri.source}:{uri.name} takes: name "
            "parts of it, with columns start and end in seconds."
        )
    return np.array(wave)


def _feature_extractor(folder: Path, uri: EncoderURI, kind: str) -> dict[str, Any]:
    """The settings of the feature extractor that is saved with the model, which must be of `kind` and of 16 kHz."""
    settings: dict[str, Any] = {}
    if (folder / "preprocessor_config.json").exists():
        settings = hub.read_config(folder, "preprocessor_config.json")
    elif (folder / "processor_config.json").exists():
        settings = hub.read_config(folder, "processor_config.json").get("feature_extractor", {})
    if not settings:
        raise InputError(
            f"{uri}: {folder} has no preprocessor_config.json. How its sound is normalised is unknown and is not "
            "guessed: put the file of the original model there."
        )
    rate = settings.get("sampling_rate")  # old files have no type, those of images no rate
    found = settings.get("feature_extractor_type", "preprocessor of something else" if rate is None else kind)
    if found != kind or rate != RATE:
        raise InputError(f"{uri}: its feature extractor is a {found} at {rate} Hz, not a {kind} at {RATE} Hz.")
    kept = {key: value for key, value in settings.items() if key not in (*hub.INCIDENTAL, "mel_filters")}
    return kept
