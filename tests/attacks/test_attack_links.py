"""Links, pipes and devices inside folders that isthmus keeps: nothing is written, moved, deleted or awaited there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.errors import InputError
from isthmus.files import replaced_together, write_sealed
from isthmus.locking import alone
from isthmus.models import ledger
from isthmus.store import doctor, open_store, remove
from isthmus.training.fit import alone_in
from store_cases import IMAGE, record, write

pytestmark = pytest.mark.timeout(60)
IDS = ["a", "b", "c"]
MORE = [*IDS, "d"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "store", IDS)
    return tmp_path / "store"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that belongs to somebody else."""
    (tmp_path / "outside" / "sub").mkdir(parents=True)
    (tmp_path / "outside" / "shard-0123456789abcdef.safetensors").write_text("precious")
    (tmp_path / "outside" / "part-000000.parquet").write_text("precious")
    return tmp_path / "outside"


def state(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


def shard_folder(root: Path, one: dict) -> Path:
    return root / "features" / one["modality"] / one["fingerprint"][:12]


def linked(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


NEW = record("image", "another", 3)
PLACES: dict[str, Callable[[Path], Path]] = {
    "pending": lambda root: root / "pending",
    "journal": lambda root: root / "journal",
    "lock": lambda root: root / ".lock",
    "shard folder": lambda root: shard_folder(root, NEW),
    "shard": lambda root: shard_folder(root, IMAGE) / "shard-00000000000000aa.safetensors",
    "below pending": lambda root: root / "pending" / "features",
    "ledger": lambda root: root / "ledger.jsonl",
}


@pytest.mark.parametrize("target", ["folder", "file"])
@pytest.mark.parametrize("name", PLACES)
def test_a_link_in_a_store_is_refused_and_leads_nowhere(store: Path, outside: Path, name: str, target: str) -> None:
    place = PLACES[name](store)
    place.unlink(missing_ok=True)
    linked(place, outside if target == "folder" else outside / "part-000000.parquet")
    before = state(outside)
    for work in (
        lambda: write(store, MORE, (IMAGE, NEW)),
        lambda: remove(store, ["a"]),
        lambda: open_store(store),
    ):
        with pytest.raises(InputError, match="a link"):
            work()
    assert [one["ok"] for one in doctor(store)] == [False] and "a link" in doctor(store)[0]["what"]
    assert state(outside) == before


def test_a_link_in_a_new_folder_that_looks_unfinished_is_refused(tmp_path: Path, outside: Path) -> None:
    linked(tmp_path / "new" / "features", outside)
    before = state(outside)
    with pytest.raises(InputError, match="a link"):
        write(tmp_path / "new", IDS)
    assert state(outside) == before


PIPES = ("store.json", "images.parquet", "journal/encoders.json", "journal/part-000000.parquet", "ledger.jsonl")


@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_in_a_store_keeps_nobody_waiting(store: Path, name: str) -> None:
    place = store / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    for work in (lambda: write(store, MORE), lambda: open_store(store), lambda: remove(store, ["a"])):
        with pytest.raises(InputError, match=r"a pipe|not a store"):
            work()
    assert "a pipe" in doctor(store)[0]["what"]


def test_a_store_reached_by_a_link_is_used(store: Path, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to(store)
    assert len(open_store(tmp_path / "short")) == 3
    write(tmp_path / "short", MORE)
    assert len(open_store(store)) == 4


@pytest.mark.parametrize("name", ["pending", "pending/sub"])
def test_a_commit_moves_nothing_through_a_link(tmp_path: Path, outside: Path, name: str) -> None:
    linked(tmp_path / "out" / name, outside)
    before = state(outside)
    with pytest.raises(InputError, match="a link"), replaced_together(tmp_path / "out") as aside:
        (aside / "file").write_text("new")
    assert state(outside) == before


def test_a_commit_moves_nothing_into_a_linked_folder(tmp_path: Path, outside: Path) -> None:
    linked(tmp_path / "out" / "features", outside)
    before = state(outside)
    with pytest.raises(InputError, match="a link"), replaced_together(tmp_path / "out") as aside:
        (aside / "features").mkdir()
        (aside / "features" / "file").write_text("new")
    assert state(outside) == before


def test_a_link_among_the_leftovers_is_removed_and_not_followed(tmp_path: Path, outside: Path) -> None:
    linked(tmp_path / "out" / ".tmp-01234567-pending", outside)
    before = state(outside)
    with replaced_together(tmp_path / "out") as aside:
        (aside / "file").write_text("new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"] and state(outside) == before


def test_training_and_locks_follow_no_link(tmp_path: Path, outside: Path) -> None:
    before = state(outside)
    linked(tmp_path / "model" / "checkpoint", outside)
    with pytest.raises(InputError, match="a link"):
        alone_in(tmp_path / "model")
    linked(tmp_path / "locked" / ".lock", outside / "part-000000.parquet")
    with pytest.raises(InputError, match="a link"), alone(tmp_path / "locked", "testing"):
        pass
    assert state(outside) == before


def test_json_without_an_end_is_not_read(tmp_path: Path) -> None:
    linked(tmp_path / "model" / "config.json", Path("/dev/zero"))
    from isthmus.files import file_digest, read_json

    for read in (read_json, file_digest):
        with pytest.raises(InputError, match="not a file"):
            read(tmp_path / "model" / "config.json")


def test_json_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    from isthmus.files import MAX_JSON, read_json

    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(MAX_JSON + 1)
    with pytest.raises(InputError, match="more than"):
        read_json(tmp_path / "large.json")


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"encoders": [1], "items": 1, "seconds": 1}', '{"encoders": []}', "x"]
)
def test_lines_of_the_ledger_that_are_none_are_left_out(store: Path, line: str) -> None:
    sound = {"encoders": [{"fingerprint": "f"}], "items": 1, "seconds": 1.5}
    (store / ledger.LEDGER).write_text(f"{line}\n{json.dumps(sound)}\n")
    assert ledger.entries(store) == [sound]


def test_a_sealed_store_json_beside_links_is_still_refused(store: Path, outside: Path) -> None:
    """The seal is no secret: whoever made the store can seal it."""
    write_sealed(store / "extra.json", {"a": 1})
    linked(store / "features" / "image" / "x", outside)
    with pytest.raises(InputError, match="a link"):
        open_store(store)
