"""A small store of states, by hand: what several test files of the store build on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from isthmus.data.ragged import Ragged
from isthmus.store import StoreWriter
from isthmus.store.keys import text_hash, to_keys
from store_cases import features, record, tables

WIDTH = 4


def layer(number: int | None, name: str = "dino", width: int = WIDTH, **fields: object) -> dict:
    """The record of the states of one layer."""
    one = record("image", f"{name} {number}", width)
    key = hashlib.blake2b(name.encode(), digest_size=32).hexdigest()
    uri = f"test:{name}?" + (f"layer={number}&" if number is not None else "") + "pool=states"
    return {**one, "uri": uri, "layer": number, "pool": "states", "backbone_key": key, **fields}


FOUR, EIGHT = layer(4), layer(8)


def lengths_of(hashes: list[str]) -> list[int]:
    return [1 + int(content[:2], 16) % 5 for content in hashes]


def sequences(hashes: list[str], one: dict, *, rate_hz: float | None = None) -> Ragged:
    """What a layer says of these contents: 1 to 5 tokens each, a fixed function of both, exact in float16."""
    parts = []
    for content, many in zip(hashes, lengths_of(hashes), strict=True):
        seed = int(hashlib.sha256((content + one["fingerprint"]).encode()).hexdigest()[:8], 16)
        parts.append(np.random.default_rng(seed).integers(-100, 100, (many, one["width"])) / 8)
    offsets = np.cumsum([0, *map(len, parts)])[:-1].astype(np.int64)
    return Ragged(np.concatenate(parts).astype(np.float32), offsets, rate_hz=rate_hz)


def embed(path: Path, ids: list[str], encoders=(FOUR, EIGHT), *, batch=3, finish=True, rate_hz=None) -> None:
    """As `isthmus embed` does: batches of what is not known yet, then the tables."""
    images, captions = tables(ids, 0)
    hashes = images["content_hash"].to_pylist()
    with StoreWriter(path) as writer:
        for one in encoders:
            writer.add_encoder(one)
        for one in encoders:
            known = writer.known("image", one["fingerprint"])
            todo = [h for h in hashes if bytes.fromhex(h) not in known]
            for start in range(0, len(todo), batch):
                part = todo[start : start + batch]
                states = "pool" in one
                what = sequences(part, one, rate_hz=rate_hz) if states else features(part, one)
                writer.write("image", one["fingerprint"], to_keys(part), what)
        if finish:
            writer.finish(images, captions)


def expected(ids: list[str], encoders: tuple[dict, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The naive twin of `gather`: item by item, layer by layer."""
    hashes = [text_hash(f"picture {i}") for i in ids]
    many = lengths_of(hashes)
    values = np.zeros((len(ids), len(encoders), max(many), WIDTH), np.float32)
    for column, one in enumerate(encoders):
        for row, content in enumerate(hashes):
            values[row, column, : many[row]] = sequences([content], one).values
    return values, np.arange(max(many)) < np.array(many)[:, None]
