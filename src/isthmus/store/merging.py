"""Merging the tables of a run into those of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from isthmus.errors import InputError
from isthmus.store.keys import text_hash
from isthmus.store.manifest import Manifest, conform


def merge(
    old: Manifest,
    images: pa.Table,
    captions: pa.Table,
    skipped: Iterable[tuple[str, str]],
    others: Mapping[str, pa.Table] | None = None,
) -> Manifest:
    """`old` with this run's images, their captions, and the items of `others`, by modality: new ids are added, for
    known ids the run's rows count.

    What the run does not contain stays: columns it does not have, captions of images for which it has none, images in
    the store that it could not read.

    Raises:
        InputError: a repeated id, a caption without its image, or ids that stand for other samples in `old`.
    """
    images = conform(_completed(images, old.images), "images", "images")
    captions = conform(_with_hashes(captions), "captions", "captions")
    others = {name: conform(table, name, name) for name, table in (others or {}).items()}
    _check_owners(captions, sample_ids(images, others))
    _check_same_samples(old, images, captions)
    new = Manifest(
        old.encoders,
        _appended(old.images, images),
        _appended(old.captions, captions),
        others=old.others | {name: _appended(old.table(name), table) for name, table in others.items()},
    )
    rows = [{"id": id_, "reason": reason} for id_, reason in skipped]
    unread = pa.Table.from_pylist(rows, schema=old.skipped.schema)
    before = _without(old.skipped, unread["id"])
    new.skipped = _without(pa.concat_tables([before, unread]), new.images["id"])
    return new


def sample_ids(images: pa.Table, others: Mapping[str, pa.Table]) -> pa.ChunkedArray:
    """The ids that captions can belong to: of images, and of items of other modalities."""
    return pa.chunked_array(
        [chunk for table in (images, *others.values()) for chunk in table["id"].chunks], pa.string()
    )


def _appended(old: pa.Table, new: pa.Table) -> pa.Table:
    return pa.concat_tables([_without(old, new["id"]), new])


def _without(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table["id"], value_set=ids)))


def _completed(images: pa.Table, old: pa.Table) -> pa.Table:
    """`images` with the columns it lacks filled from the store's rows of the same id."""
    rows = pc.index_in(images["id"], value_set=old["id"].combine_chunks())
    for name in old.column_names:
        if name not in images.column_names:
            images = images.append_column(name, old[name].take(rows))
    return images


def _with_hashes(captions: pa.Table) -> pa.Table:
    if "content_hash" in captions.column_names:
        return captions
    hashes = [text_hash(text) for text in captions["caption"].to_pylist()]
    return captions.append_column("content_hash", pa.array(hashes, pa.string()))


def _check_owners(captions: pa.Table, ids: pa.ChunkedArray) -> None:
    strangers = _without(captions, ids).slice(0, 1).to_pylist()
    for one in strangers:
        raise InputError(f"captions: {one['caption_id']!r} is of image {one['id']!r}, which is not there.")


def _check_same_samples(old: Manifest, images: pa.Table, captions: pa.Table) -> None:
    """An edited image or an edited caption is an update; both at once under one id is another sample."""
    before = old.images.select(["id", "content_hash"])
    both = before.join(images.select(["id", "content_hash"]), "id", join_type="inner", right_suffix="_new")
    changed = both.filter(pc.not_equal(both["content_hash"], both["content_hash_new"]))["id"]
    said, says = _captions_of(old.captions, changed), _captions_of(captions, changed)
    clash = [one for one in changed.to_pylist() if not said.get(one, set()) & says.get(one, set())]
    if clash:
        raise InputError(
            f"{len(clash):,} ids already stand for another image with other captions in this store, first "
            f"{clash[0]!r}. Use another store, give the new pairs other ids, or remove the old ones first."
        )


def _captions_of(captions: pa.Table, ids: pa.ChunkedArray) -> dict[str, set[str]]:
    """The caption hashes of each of `ids`."""
    found: dict[str, set[str]] = {}
    chosen = captions.filter(pc.is_in(captions["id"], value_set=ids))
    for id_, hash_ in zip(chosen["id"].to_pylist(), chosen["content_hash"].to_pylist(), strict=True):
        found.setdefault(id_, set()).add(hash_)
    return found
