"""Run as a program, TARGET RUNS: throw mutated files at a reader; only an `IsthmusError` may come of it.

Targets: manifest, shard, tar, table. Guided by coverage (atheris); the seeds are small sound files.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["isthmus", "tarfile", "csv"]):
    from isthmus.data import pairs, records, tables, webdataset  # noqa: F401
    from isthmus.store import manifest, shards

import pyarrow as pa
import pyarrow.parquet as pq

from isthmus.errors import IsthmusError
from states_cases import EIGHT, FOUR, embed
from store_cases import write

MEMORY = 2 << 30  # bytes: more is a MemoryError, which is no error of ours
TABLES = (".parquet", ".csv", ".tsv", ".jsonl")


def manifest_target(folder: Path) -> tuple[Callable[[bytes], object], list[bytes]]:
    store = folder / "store"
    write(store, ["a", "b"])

    def read(data: bytes) -> object:
        (store / "store.json").write_bytes(data)
        return manifest.read_manifest(store)

    sealed = (store / "store.json").read_bytes()
    unsealed = json.loads(sealed)
    del unsealed["seal"]
    return read, [sealed, json.dumps(unsealed).encode()]


def shard_target(folder: Path) -> tuple[Callable[[bytes], object], list[bytes]]:
    write(folder / "store", ["a", "b"])
    (whole, *_) = (folder / "store").glob("features/image/*/shard-*")
    embed(folder / "states", ["a", "b"], (FOUR, {**EIGHT, "stored": "int8"}))
    ragged = (folder / "states").glob("features/image/*/shard-*")
    path = folder / whole.name

    def read(data: bytes) -> object:
        path.write_bytes(data)
        shard = shards.open_shard(path)
        shard.verify()
        return shard.keys()

    return read, [whole.read_bytes(), *(shard.read_bytes() for shard in ragged)]


def tar_target(folder: Path) -> tuple[Callable[[bytes], object], list[bytes]]:
    import tarfile

    path = folder / "s.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("a.png", "a.txt", "é" * 60 + ".png", "b.json"):
            (folder / "member").write_text('{"caption": "a"}')
            archive.add(folder / "member", name)

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return pairs.read_pairs(path)

    return read, [path.read_bytes()]


def table_target(folder: Path) -> tuple[Callable[[bytes], object], list[bytes]]:
    """The first byte chooses the kind of table."""
    pq.write_table(pa.table({"image": ["a", "b"], "caption": ["x", "y"], "id": ["1", "2"]}), folder / "t.parquet")
    texts = [b"image,caption\na.png,red\n", b"image\tcaption\na.png\tred\n", b'{"image": "a.png", "captions": ["a"]}\n']
    seeds = [bytes([kind]) + text for kind, text in enumerate([(folder / "t.parquet").read_bytes(), *texts])]

    def read(data: bytes) -> object:
        path = folder / f"t{TABLES[data[0] % len(TABLES)]}" if data else folder / "none.csv"
        path.write_bytes(data[1:])
        return pairs.read_pairs(path)

    return read, seeds


TARGETS = {"manifest": manifest_target, "shard": shard_target, "tar": tar_target, "table": table_target}


def main(target: str, runs: int) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    read, seeds = TARGETS[target](folder)
    (folder / "corpus").mkdir()
    for number, seed in enumerate(seeds):
        (folder / "corpus" / str(number)).write_bytes(seed)
        read(seed)  # sound files are read

    def one(data: bytes) -> None:
        try:
            read(data)
        except IsthmusError as error:
            assert str(error)

    options = [
        "-seed=1",
        f"-runs={runs}",
        "-rss_limit_mb=0",  # it would count the greatest memory of whoever started this process
        "-timeout=20",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
