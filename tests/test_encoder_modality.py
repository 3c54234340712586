"""Modalities: one file says what each is, others may register one, and a store refuses what is none."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from isthmus.encoders import load_encoder
from isthmus.encoders.base import Encoder, Output
from isthmus.encoders.callables import from_callable
from isthmus.encoders.modality import IMAGE, MODALITIES, TEXT, ModalitySpec, spec_of
from isthmus.encoders.uri import COMMON, OPTIONS, POOLS, EncoderURI
from isthmus.errors import InputError, UsageError
from isthmus.modality import table_of
from isthmus.store.manifest import check_record
from tiny_encoders import save_bert

SOUND = ModalitySpec(
    read=lambda items: [np.asarray(item, np.float32) for item in items],
    probe=lambda: np.zeros(160, np.float32),
    options=("max_tokens",),
    many=("tokens",),
    single="mean",
    tokens="tokens",
    padded=True,
    length=len,
)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A modality as another package registers it."""
    entry = EntryPoint("sound", f"{__name__}:SOUND", "isthmus.modalities")
    monkeypatch.setattr(MODALITIES, "_entries", {**MODALITIES._entries, "sound": entry})


class Frames(Encoder):
    """Means of frames of 16 samples, 100 to a second."""

    rate_hz = 100.0

    def preprocess(self, items):
        items = self.spec.read(items)
        longest = max(len(item) for item in items) // 16
        frames = [torch.from_numpy(item).unfold(0, 16, 16) for item in items]
        mask = torch.stack([torch.arange(longest) < len(one) for one in frames])
        return {"frames": nn.utils.rnn.pad_sequence(frames, batch_first=True), "mask": mask}

    def forward(self, inputs, layers):
        tokens = self.network(inputs["frames"])
        return Output(tokens=tokens, mask=inputs["mask"], layers=[tokens, tokens] if layers else ())


def test_every_option_and_pooling_of_a_modality_exists() -> None:
    specs = [spec_of(name) for name in MODALITIES.names()]
    assert MODALITIES.names()[:2] == ["image", "text"] and specs[:2] == [IMAGE, TEXT]
    assert {option for spec in specs for option in spec.options} | set(COMMON) == set(OPTIONS)
    assert {pool for spec in specs for pool in spec.many} - {"grid"} <= set(POOLS)
    assert [table_of(name) for name in MODALITIES.names()[:2]] == ["images", "captions"]


def test_the_table_of_another_packages_modality_is_called_as_it_is(sound: None, monkeypatch) -> None:
    assert table_of("sound") == "sound" and table_of("nowhere") == "nowhere"
    monkeypatch.setitem(globals(), "SOUND", replace(SOUND, table="images"))  # it cannot take ours
    assert table_of("sound") == "sound"


def test_an_encoder_of_another_packages_modality_pools_encodes_and_gives_states(sound: None) -> None:
    uri = EncoderURI("callable", "frames", max_tokens=20)
    network = nn.Linear(16, 4)
    encoder = Frames(uri, "sound", network, {"max_tokens": 20}, pools=["mean"], device="cpu")
    assert encoder.pools == ("mean", "tokens", "states")
    rng = np.random.default_rng(0)
    items = [rng.normal(size=size).astype(np.float32) for size in (320, 32, 160)]
    states = encoder.states(items)
    assert states.values.shape == (3, 2, 20, 4)
    assert states.mask.sum(1).tolist() == [20, 2, 10] and states.rate_hz == 100.0
    mean = [state[0, keep].mean(0).numpy() for state, keep in zip(states.values, states.mask, strict=True)]
    np.testing.assert_allclose(encoder.encode(items, batch_size=2), np.stack(mean), atol=1e-6)
    assert encoder.at(pool="tokens").width == 80
    assert encoder.record()["modality"] == "sound"
    with pytest.raises(UsageError, match="size is an option of image and video encoders, not of sound encoders"):
        Frames(EncoderURI("callable", "frames", size=3), "sound", network, {}, pools=["mean"])


def test_a_modality_that_is_not_registered_is_refused_everywhere(tmp_path: Path) -> None:
    message = r"no modality 'imgae'\. Did you mean 'image'"
    with pytest.raises(UsageError, match=message):
        spec_of("imgae")
    with pytest.raises(UsageError, match=message):
        from_callable(lambda items: items, "imgae", "v1", width=2)
    with pytest.raises(UsageError, match=message):
        load_encoder(f"hf:{save_bert(tmp_path)}", modality="imgae")
    record = {"modality": "../up", "uri": "x", "fingerprint": "0" * 64, "width": 2, "parts": [2]}
    with pytest.raises(InputError, match="modality or fingerprint is malformed"):
        check_record(record, tmp_path)
