"""A small store, by hand: what several test files of the store build on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from isthmus.store import StoreWriter
from isthmus.store.keys import text_hash, to_keys


def record(modality: str, name: str, width: int, parts: list[int] | None = None) -> dict:
    fingerprint = hashlib.blake2b(name.encode(), digest_size=32).hexdigest()
    parts = parts or [width]
    return {
        "modality": modality,
        "uri": f"test:{name}",
        "fingerprint": fingerprint,
        "width": width,
        "parts": parts,
    }


IMAGE = record("image", "dino", 6, [4, 2])
OTHER = record("image", "clip", 3)
TEXT = record("text", "minilm", 5)
NO_CAPTIONS = pa.table({name: pa.array([], pa.string()) for name in ("caption_id", "id", "caption")})


def features(hashes: list[str], one: dict) -> np.ndarray:
    """What the encoder `one` says of these contents: a fixed function of both, exact in float16."""
    rows = []
    for content in hashes:
        seed = int(hashlib.sha256((content + one["fingerprint"]).encode()).hexdigest()[:8], 16)
        rows.append(np.random.default_rng(seed).integers(-100, 100, one["width"]) / 8)
    return np.array(rows, np.float32).reshape(-1, one["width"])


def tables(ids: list[str], captions_each: int = 2, **columns: list) -> tuple[pa.Table, pa.Table]:
    """Images whose content is named by their id, each with its own captions."""
    images = pa.table({"id": ids, "content_hash": [text_hash(f"picture {i}") for i in ids], **columns})
    rows = [(f"{i}#{k}", i, f"caption {k} of {i}") for i in ids for k in range(captions_each)]
    return images, pa.Table.from_pylist(
        [dict(zip(NO_CAPTIONS.column_names, row, strict=True)) for row in rows], schema=NO_CAPTIONS.schema
    )


def write(
    path: Path,
    ids: list[str],
    encoders: tuple[dict, ...] = (IMAGE, TEXT),
    *,
    batch: int = 3,
    finish: bool = True,
    skipped: tuple = (),
    captions_each: int = 2,
    **columns: list,
) -> None:
    """Embed as `isthmus embed` does: batches of what is not known yet, then the tables."""
    images, captions = tables(ids, captions_each, **columns)
    contents = {
        "image": images["content_hash"].to_pylist(),
        "text": [text_hash(text) for text in captions["caption"].to_pylist()],
    }
    with StoreWriter(path) as writer:
        for one in encoders:
            writer.add_encoder(one)
        writer.record_images((i, h, None, f"signature of {i}") for i, h in zip(ids, contents["image"], strict=True))
        for one in encoders:
            known = writer.known(one["modality"], one["fingerprint"])
            todo = [h for h in contents[one["modality"]] if bytes.fromhex(h) not in known]
            for start in range(0, len(todo), batch):
                part = todo[start : start + batch]
                writer.write(one["modality"], one["fingerprint"], to_keys(part), features(part, one))
        if finish:
            writer.finish(images, captions, skipped)


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file of a store but its lock and its ledger, which holds times, by name."""
    files = (p for p in sorted(path.rglob("*")) if p.is_file() and p.name not in (".lock", "ledger.jsonl"))
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def shards_of(path: Path, one: dict) -> list[Path]:
    return sorted((path / "features" / one["modality"] / one["fingerprint"][:12]).glob("shard-*.safetensors"))
