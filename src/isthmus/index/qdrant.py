"""An index into a Qdrant cluster, by its own client: for more pictures than one machine searches.

Points have the embedding, and what is known of the picture as payload. Their ids are UUIDs of the content, so that
sending again changes what has changed and doubles nothing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import Any

from isthmus.errors import InputError, UsageError, caught
from isthmus.index.reader import ImageIndex
from isthmus.store.keys import to_hashes

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "isthmus:content")
KEY = "QDRANT_API_KEY"  # the environment variable that holds the key of a cluster
BATCH = 256  # points of a request
READ = 4096  # rows at once
PAYLOAD = ("id", "path", "caption", "label", "source", "width", "height", "also", "missing")


def point_id(content_hash: str) -> str:
    """The id of a picture's point: a UUIDv5 of its content's hash (32 hex digits)."""
    return str(uuid.uuid5(NAMESPACE, content_hash))


def send_to_qdrant(index: ImageIndex, url: str, collection: str, *, shards: int | None = None) -> int:
    """Send every picture of an index to a collection, which is made if it is missing; how many there were.

    What was removed from the index is removed there. Vectors are kept on disk as float16 and searched as bytes in
    memory. The key of a cluster is read from the environment, `QDRANT_API_KEY`.

    Args:
        url: of the cluster, `http://localhost:6333`.
        collection: its name.
        shards: of a new collection; None: as the cluster is set.

    Raises:
        UsageError: qdrant-client is not installed. InputError: the cluster does not answer or refuses, or the
            collection is of another width.
    """
    try:
        from qdrant_client import QdrantClient, models
    except ImportError:
        raise UsageError("--to qdrant needs its client: pip install 'isthmus[qdrant]'.") from None
    with caught(f"{url}: {collection}", "Qdrant does not take it"):
        client = QdrantClient(url=url, api_key=os.environ.get(KEY), check_compatibility=False)
        if client.collection_exists(collection):
            _check_width(client, collection, index)
        else:
            _create(client, models, collection, index.width, shards)
        sent = 0
        for points in _batches(_points(index)):
            client.upsert(collection, [models.PointStruct(**point) for point in points], wait=False)
            sent += len(points)
        for gone in _batches(_removed(index)):
            client.delete(collection, models.PointIdsList(points=gone), wait=False)
        return sent


def _batches(items: Iterator[Any]) -> Iterator[list[Any]]:
    while some := list(islice(items, BATCH)):
        yield some


def _check_width(client: Any, collection: str, index: ImageIndex) -> None:
    found = client.get_collection(collection).config.params.vectors
    if getattr(found, "size", None) != index.width:
        raise InputError(f"{collection}: a collection of other vectors ({found}), this index is {index.width} wide.")


def _create(client: Any, models: Any, collection: str, width: int, shards: int | None) -> None:
    client.create_collection(
        collection,
        vectors_config=models.VectorParams(
            size=width, distance=models.Distance.COSINE, on_disk=True, datatype=models.Datatype.FLOAT16
        ),
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
        ),
        shard_number=shards,
    )


def _points(index: ImageIndex) -> Iterator[dict[str, Any]]:
    """Every picture as a point, read a few thousand rows at a time."""
    gone = set(index.removed.tolist())
    for start, keys, embeddings in index.blocks(READ):
        for place, content in enumerate(to_hashes(keys)):
            if start + place in gone:
                continue
            told: Any = index.record(start + place)
            payload = {name: told[name] for name in PAYLOAD}
            yield {
                "id": point_id(content),
                "vector": embeddings[place].astype(float).tolist(),
                "payload": payload | {"content_hash": content},
            }


def _removed(index: ImageIndex) -> Iterator[str]:
    """The ids of what is no longer in the index."""
    gone = set(index.removed.tolist())
    for start, keys, _ in index.blocks(READ) if gone else ():
        yield from (point_id(one) for place, one in enumerate(to_hashes(keys)) if start + place in gone)
