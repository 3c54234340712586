"""`doctor`: verify everything in a store that can be verified, and give a remedy for each problem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from isthmus.errors import InputError
from isthmus.files import PENDING, TEMPORARY
from isthmus.owned import strangers, what_it_is
from isthmus.store.journal import FOLDER as JOURNAL
from isthmus.store.journal import Journal
from isthmus.store.keys import KeyIndex, to_keys
from isthmus.store.manifest import STORE_JSON, Manifest, is_store, is_unfinished, read_manifest
from isthmus.store.shards import check_owner, open_shard, shard_folder, shard_paths

_AGAIN = "Run the same `isthmus embed` again."


class Finding(TypedDict):
    """The result of one check. `remedy` is empty if nothing need be done."""

    ok: bool
    what: str
    remedy: str


def doctor(path: str | Path) -> list[Finding]:
    """Check a store: `store.json`, tables, every shard's header, owner, digest and values, whether every
    image and caption has its features, and stray files.

    Returns findings in that order; the store is sound if all are `ok`. Reads all of it (about a second per
    GB), and changes nothing.
    """
    root = Path(path)
    if found := list(strangers(root)):  # links are not followed
        return [_bad(f"{one}: {what_it_is(one)}; isthmus neither reads nor writes here", "Remove it.") for one in found]
    if not is_store(root):
        unfinished = is_unfinished(root)
        what = "an unfinished store" if unfinished else "not a store (no store.json)"
        return [_bad(f"{root}: {what}", _AGAIN if unfinished else "Check the path.")]
    try:
        manifest = read_manifest(root)
    except InputError as error:
        return [_bad(str(error), f"Restore this file from a copy, or delete {root / STORE_JSON} and embed again.")]
    counts = f"{manifest.images.num_rows:,} images, {manifest.captions.num_rows:,} captions"
    counts += "".join(f", {table.num_rows:,} of {name}" for name, table in manifest.others.items())
    findings = [_good(f"{root}: {counts}, {manifest.skipped.num_rows:,} skipped")]
    for record in manifest.encoders:
        findings += _encoder(root, record, manifest)
    return [*findings, *_strays(root, manifest)]


def _good(what: str) -> Finding:
    return {"ok": True, "what": what, "remedy": ""}


def _bad(what: str, remedy: str) -> Finding:
    return {"ok": False, "what": what, "remedy": remedy}


def _encoder(root: Path, record: dict[str, Any], manifest: Manifest) -> Iterator[Finding]:
    """Check an encoder's shards one by one, then whether the sound ones cover the table."""
    held, sound = [np.empty((0, 16), np.uint8)], True
    for path in shard_paths(shard_folder(root, record["modality"], record["fingerprint"])):
        try:
            shard = open_shard(path)
            check_owner(shard, record)
            shard.verify()
        except InputError as error:
            sound = False
            yield _bad(str(error), f"Delete {path.name}. {_AGAIN}")
            continue
        held.append(shard.keys())
        bad = shard.not_finite()
        if bad:
            sound = False
            yield _bad(f"{path}: {bad:,} rows hold NaN or infinity", f"Delete {path.name}. {_AGAIN}")
    table = manifest.table(record["modality"])
    keys = to_keys(table["content_hash"].to_pylist())
    rows = np.concatenate(held)
    missing = int((KeyIndex(rows).find(keys) < 0).sum())
    unused = int((KeyIndex(keys).find(rows) < 0).sum())
    if missing:
        yield _bad(f"{record['uri']}: features are missing for {missing:,} of {len(keys):,} rows", _AGAIN)
    elif sound:
        yield _good(f"{record['uri']}: {len(rows):,} rows [{record['width']}] in {len(held) - 1:,} shards, all sound")
    if unused:
        yield _good(f"{record['uri']}: {unused:,} rows that no id refers to; removing ids frees them")


def _strays(root: Path, manifest: Manifest) -> Iterator[Finding]:
    """Unfinished runs, leftovers, and feature folders and files that belong to no encoder of the store."""
    if (root / JOURNAL).is_dir():
        yield _bad(f"{root / JOURNAL}: a run was not finished; what was there before it is intact", _AGAIN)
    if (root / PENDING).is_dir():
        yield _bad(
            f"{root / PENDING}: a commit was interrupted; readers see it whole",
            "The next writer finishes it.",
        )
    for path in sorted(root.rglob(f"{TEMPORARY}*")):
        yield _bad(f"{path}: left over from a run that was killed", "The next writer removes it.")
    running = Journal(root).encoders()
    ours = {shard_folder(root, r["modality"], r["fingerprint"]) for r in [*manifest.encoders, *running]}
    for folder in sorted(root.glob("features/*/*")):
        if folder not in ours:
            yield _bad(
                f"{folder}: features of an encoder that store.json does not name",
                "Delete it, or embed again.",
            )
            continue
        known = set(shard_paths(folder))
        for path in sorted(folder.iterdir()):
            if path not in known and not path.name.startswith(TEMPORARY):
                yield _bad(f"{path}: not a shard", "Move it away.")
