"""An index of pictures whose features a store holds: no encoder runs over what it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import isthmus as ist
import toys
from isthmus.encoders import Encoder
from isthmus.encoders.callables import from_callable
from isthmus.errors import UsageError

ENCODED: list[int] = []


def counted(pictures: list[Image.Image]) -> np.ndarray:
    ENCODED.append(len(pictures))
    return toys.pixel_features(pictures)


def image_encoder(fingerprint: str = "pixels-1") -> Encoder:
    return from_callable(counted, "image", fingerprint, name="pixels", width=108)


def test_what_a_store_holds_is_projected_and_only_the_rest_is_encoded(tmp_path: Path) -> None:
    pairs = ist.read_pairs(toys.write_pairs(tmp_path / "data", copies=2))  # of which the second 64 are test
    some = pairs.subset(pairs.images["id"].to_pylist()[:100])
    store = ist.embed(some, image_encoder(), toys.word_encoder(), out=tmp_path / "store")
    model = ist.train(store, recipe="cca").with_encoders(image=image_encoder(), text=toys.word_encoder())
    whole = ist.build_index(model, pairs, out=tmp_path / "whole")
    ENCODED.clear()
    found = ist.build_index(model, pairs, out=tmp_path / "index", store=store)
    assert sum(ENCODED) == 28
    by_id = {whole.record(row)["id"]: row for row in range(len(whole))}
    for row in range(len(found)):
        own, other = found.record(row), by_id[found.record(row)["id"]]
        assert own == whole.record(other)
        assert found.thumbnail(row) == whole.thumbnail(other)
        np.testing.assert_allclose(found.embedding(row), whole.embedding(other), atol=2e-3)
    assert len(found) == len(whole) == 128


def test_a_store_of_other_encoders_is_refused(tmp_path: Path) -> None:
    pairs = ist.read_pairs(toys.write_pairs(tmp_path / "data", copies=2))
    store = ist.embed(pairs, image_encoder(), toys.word_encoder(), out=tmp_path / "store")
    model = ist.train(store, recipe="cca").with_encoders(image=image_encoder(), text=toys.word_encoder())
    other = ist.embed(pairs, image_encoder("pixels-2"), toys.word_encoder(), out=tmp_path / "other")
    with pytest.raises(UsageError, match="pixels"):
        ist.build_index(model, pairs, out=tmp_path / "index", store=other)
