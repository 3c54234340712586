"""Kills, full disks, second writers, damage: the old store or the new, never a mixture, and told plainly."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from isthmus.errors import InputError
from isthmus.store import StoreWriter, doctor, open_store, remove
from isthmus.store.keys import text_hash, to_keys
from states_cases import EIGHT, FOUR, embed, expected
from store_cases import IMAGE, OTHER, TEXT, record, shards_of, snapshot, tables, write

HERE = Path(__file__).parent


def bad(path: Path) -> list[str]:
    return [finding["what"] for finding in doctor(path) if not finding["ok"]]


def test_an_unfinished_store_is_refused_with_the_remedy_and_loses_nothing(tmp_path):
    write(tmp_path, ["a", "b"], finish=False)
    with pytest.raises(InputError, match=r"unfinished.*isthmus embed"):
        open_store(tmp_path)
    assert "unfinished" in bad(tmp_path)[0]
    shards = shards_of(tmp_path, IMAGE)
    before = [path.stat().st_mtime_ns for path in shards]
    write(tmp_path, ["a", "b"])
    assert [path.stat().st_mtime_ns for path in shards_of(tmp_path, IMAGE)] == before
    assert not bad(tmp_path)


def test_an_unfinished_run_leaves_the_finished_store_readable(tmp_path):
    write(tmp_path, ["a"])
    write(tmp_path, ["a", "b"], (IMAGE, OTHER, TEXT), finish=False)
    store = open_store(tmp_path)
    assert store.images["id"].to_pylist() == ["a"] and store.encoders == [IMAGE, TEXT]
    assert store.features("image").shape == (1, 6)
    assert any("not finished" in what for what in bad(tmp_path))


def test_an_exception_keeps_what_was_computed(tmp_path):
    with pytest.raises(KeyboardInterrupt), StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        writer.write("image", IMAGE["fingerprint"], to_keys([text_hash("x")]), np.ones((1, 6)))
        raise KeyboardInterrupt
    with StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        assert writer.known("image", IMAGE["fingerprint"]) == {bytes.fromhex(text_hash("x"))}


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_truncated_shard_is_named_refused_and_computed_again(tmp_path, cut):
    """SAIL counts any file that exists as done."""
    write(tmp_path, ["a", "b", "c"])
    whole = snapshot(tmp_path)
    (path,) = shards_of(tmp_path, IMAGE)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=path.name):
        open_store(tmp_path).features("image")
    assert any(path.name in what for what in bad(tmp_path))
    with pytest.warns(UserWarning, match=path.name):
        write(tmp_path, ["a", "b", "c"])
    assert snapshot(tmp_path) == whole


def test_any_flipped_byte_is_found_or_harmless(tmp_path):
    write(tmp_path, ["a", "b"])
    (path,) = shards_of(tmp_path, IMAGE)
    whole = path.read_bytes()
    payload = 2 * (6 * 2 + 16)
    expected = open_store(tmp_path).features("image").gather([0, 1])
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            store = open_store(tmp_path, verify=True)
            np.testing.assert_array_equal(store.features("image").gather([0, 1]), expected)
            assert place < len(whole) - payload  # padding of the header at most
        except InputError as error:
            assert path.name in str(error) or "missing" in str(error)
            assert place % 50 or bad(tmp_path)


def test_a_lost_shard_is_counted(tmp_path):
    write(tmp_path, ["a", "b", "c"])
    shards_of(tmp_path, TEXT)[0].unlink()
    with pytest.raises(InputError, match=r"test:minilm are missing for 6 of 6.*isthmus embed"):
        open_store(tmp_path).features("text")
    assert any("6 of 6" in what for what in bad(tmp_path))


def test_a_shard_of_another_encoder_is_refused_by_reader_writer_and_doctor(tmp_path):
    stale = record("image", "dino, last layer", 6)
    write(tmp_path / "mine", ["a", "b"])
    write(tmp_path / "stale", ["c"], (stale, TEXT))
    (foreign,) = shards_of(tmp_path / "stale", stale)
    (mine,) = shards_of(tmp_path / "mine", IMAGE)
    shutil.copy(foreign, mine.parent)
    with pytest.raises(InputError, match=f"{foreign.name}: written by another encoder"):
        open_store(tmp_path / "mine").features("image")
    with pytest.raises(InputError, match="another encoder"):
        write(tmp_path / "mine", ["a", "b"])
    assert any(foreign.name in what for what in bad(tmp_path / "mine"))


def test_the_same_folder_for_two_encoders_is_refused(tmp_path):
    write(tmp_path, ["a"])
    twin = {**IMAGE, "uri": "test:twin", "fingerprint": IMAGE["fingerprint"][:12] + "0" * 52}
    with (
        pytest.raises(InputError, match=r"test:twin.*share its folder with test:dino"),
        StoreWriter(tmp_path) as writer,
    ):
        writer.add_encoder(twin)


def test_a_second_writer_is_refused_by_the_name_of_the_lock(tmp_path):
    code = f"from isthmus.store import StoreWriter\nwith StoreWriter({str(tmp_path)!r}): pass"
    with StoreWriter(tmp_path):
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 1 and f"{tmp_path}/.lock" in run.stderr and "another process" in run.stderr
    write(tmp_path, ["a"])
    with StoreWriter(tmp_path), pytest.raises(InputError, match="another process"):
        remove(tmp_path, ["a"])


def test_nothing_is_touched_in_a_folder_that_is_no_store(tmp_path):
    (tmp_path / "pending").mkdir()
    (tmp_path / "pending" / "letter.txt").write_text("…")
    with pytest.raises(InputError, match="not a store"):
        remove(tmp_path, ["a"])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["letter.txt", "pending"]


def test_a_lock_alone_does_not_make_a_folder_a_store(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "state.json").touch()
    with pytest.raises(InputError, match="not empty"), StoreWriter(tmp_path):
        pass


def test_a_folder_with_other_things_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("…")
    with pytest.raises(InputError, match="not empty"), StoreWriter(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_by_id(tmp_path, value):
    features = np.ones((2, 6), np.float32)
    features[1, 3] = value
    with (
        pytest.raises(InputError, match=r"test:dino: NaN or infinity.*1 of 2 items: 007\."),
        StoreWriter(tmp_path) as writer,
    ):
        writer.add_encoder(IMAGE)
        writer.record_images([("006", text_hash("x"), None, None), ("007", text_hash("y"), None, None)])
        writer.write("image", IMAGE["fingerprint"], to_keys([text_hash("x"), text_hash("y")]), features)
    assert not shards_of(tmp_path, IMAGE)


@pytest.mark.parametrize("shape", [(2, 5), (1, 6), (2, 6, 1)])
def test_features_of_another_shape_are_refused(tmp_path, shape):
    with pytest.raises(InputError, match=r"expected \[n, 6\]"), StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        writer.write("image", IMAGE["fingerprint"], to_keys([text_hash("x"), text_hash("y")]), np.ones(shape))


def test_finishing_without_the_features_is_refused(tmp_path):
    with pytest.raises(InputError, match="test:dino are missing for 2 of 2"), StoreWriter(tmp_path) as writer:
        writer.add_encoder(IMAGE)
        writer.finish(*tables(["a", "b"]))
    assert not (tmp_path / "store.json").exists()


@pytest.mark.parametrize("ids", [["a", "b", "a"]])
def test_a_repeated_id_is_refused(tmp_path, ids):
    with pytest.raises(InputError, match="id 'a' is there more than once"), StoreWriter(tmp_path) as writer:
        writer.finish(*tables(ids, 0))


@contextmanager
def full_disk() -> Iterator[None]:
    """Inside, every file is cut after ten bytes; the error must say so."""
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        real(path, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match=r"No space left on.*free some space"):
        patch.setattr(Path, "write_bytes", full)
        yield


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    write(tmp_path, ["a", "b"])
    before = snapshot(tmp_path)
    with full_disk():
        write(tmp_path, ["a", "b", "c"])
    assert {name: data for name, data in snapshot(tmp_path).items() if "journal" not in name} == before
    write(tmp_path, ["a", "b", "c"])
    assert not bad(tmp_path) and len(open_store(tmp_path)) == 3


def test_a_file_too_large_for_its_limit_is_told(tmp_path):
    """A real write error (EFBIG), in shards and in tables, from a limit on the size of files."""
    code = (
        "import pathlib, resource, signal, sys, store_cases as cases\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "cases.write(pathlib.Path(sys.argv[1]), [str(i) for i in range(300)], batch=300)\n"
    )
    for limit in (2_000, 5_000, 7_500):
        path = tmp_path / str(limit)
        run = subprocess.run(
            [sys.executable, "-c", code, str(path), str(limit)],
            env={**os.environ, "PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 1 and "free some space and run the same command again" in run.stderr, run.stderr
        assert "File too large" in run.stderr.splitlines()[-1]
        assert not list(path.rglob(".tmp-*"))


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MiB; only where mounting is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here; the two tests above cover the same errors")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_real_full_disk_is_told_and_the_run_goes_on_when_there_is_room(tiny_disk):
    store, ballast = tiny_disk / "store", tiny_disk / "ballast"
    write(store, ["a", "b"])
    before = snapshot(store)
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    with pytest.raises(InputError, match=r"No space left on device.*free some space"):
        write(store, [str(i) for i in range(500)], batch=100)
    assert {name: data for name, data in snapshot(store).items() if name in before} == before
    assert len(open_store(store, verify=True)) == 2
    ballast.unlink()
    write(store, [str(i) for i in range(500)], batch=100)
    assert len(open_store(store, verify=True)) == 502 and not bad(store)


def test_any_start_and_end_gives_the_same_pairs(tmp_path):
    """SAIL's encoder misaligns images and captions unless start and end are multiples of the batch size."""
    ids = [f"{i}" for i in range(11)]
    write(tmp_path / "one pass", ids, batch=4)
    for start, end in ((5, 11), (0, 3), (2, 7), (3, 5)):
        write(tmp_path / "pieces", ids[start:end], batch=4)
    one, pieces = open_store(tmp_path / "one pass"), open_store(tmp_path / "pieces")
    assert sorted(pieces.images["id"].to_pylist()) == sorted(ids)
    expected = {i: row.tolist() for i, row in zip(ids, one.features("image").gather(range(11)), strict=True)}
    pairs = pieces.pairs()
    for caption, image in enumerate(pairs.image_of):
        assert pairs.captions[caption].endswith(f" of {pairs.image_ids[image]}")
        assert pairs.image.gather([image])[0].tolist() == expected[pairs.image_ids[image]]


def test_remove_frees_what_nothing_needs_and_keeps_the_rest(tmp_path):
    write(tmp_path, ["a", "b", "c"], skipped=[("z", "not an image")])
    expected = open_store(tmp_path).features("image").gather([0, 2])
    removed = remove(tmp_path, ["b", "z"])
    assert (removed.images, removed.captions, removed.feature_rows) == (1, 2, 3)
    store = open_store(tmp_path, verify=True)
    assert store.images["id"].to_pylist() == ["a", "c"] and store.skipped.num_rows == 0
    np.testing.assert_array_equal(store.features("image").gather([0, 1]), expected)
    assert store.captions["id"].to_pylist() == ["a", "a", "c", "c"] and not bad(tmp_path)
    with pytest.raises(InputError, match="1 of 2 ids are not in the store, first b"):
        remove(tmp_path, ["a", "b"])
    remove(tmp_path, ["a", "c"])
    assert not shards_of(tmp_path, IMAGE) and len(open_store(tmp_path)) == 0


def test_remove_waits_for_an_unfinished_run(tmp_path):
    write(tmp_path, ["a"])
    write(tmp_path, ["b"], finish=False)
    with pytest.raises(InputError, match="unfinished"):
        remove(tmp_path, ["a"])


def test_doctor_names_what_does_not_belong(tmp_path):
    write(tmp_path, ["a"])
    (tmp_path / "features/image" / OTHER["fingerprint"][:12]).mkdir()
    (shards_of(tmp_path, IMAGE)[0].parent / "notes.txt").write_text("x")
    (tmp_path / ".tmp-12345678-images.parquet").write_bytes(b"")
    found = "\n".join(bad(tmp_path))
    assert OTHER["fingerprint"][:12] in found and "notes.txt" in found and ".tmp-12345678" in found
    assert bad(tmp_path / "missing") == [f"{tmp_path / 'missing'}: not a store (no store.json)"]
    (tmp_path / "images.parquet").write_bytes((tmp_path / "images.parquet").read_bytes()[:-9])
    assert "images.parquet" in bad(tmp_path)[0]


def test_states_survive_a_full_disk_and_an_unfinished_run(tmp_path):
    embed(tmp_path / "whole", ["a", "b", "c"])
    store = tmp_path / "store"
    embed(store, ["a", "b"])
    before = snapshot(store)
    with full_disk():
        embed(store, ["a", "b", "c"])
    assert {name: data for name, data in snapshot(store).items() if "journal" not in name} == before
    embed(store, ["a", "b", "c"], finish=False)
    assert open_store(store, verify=True).states("image").shape[0] == 2
    with pytest.raises(InputError, match="unfinished"):
        remove(store, ["a"])
    embed(store, ["a", "b", "c"])
    for one in (open_store(store), open_store(tmp_path / "whole")):
        found = one.states("image").gather([0, 1, 2])[0]
        np.testing.assert_array_equal(found, expected(["a", "b", "c"], (FOUR, EIGHT))[0])
    assert not bad(store)


@pytest.mark.parametrize("moment", range(10))
def test_a_run_of_states_that_is_killed_at_any_write_is_finished_by_the_same_run(tmp_path, moment):
    """The process ends without a word, in the middle of one of its writes or renames."""
    code = (
        "import os, pathlib, sys, states_cases as cases\n"
        "left = int(sys.argv[2]); real = os.replace\n"
        "def replace(a, b):\n"
        "    global left\n"
        "    left -= 1\n"
        "    os._exit(9) if left < 0 else real(a, b)\n"
        "os.replace = replace\n"
        "cases.embed(pathlib.Path(sys.argv[1]), list('abcde'), batch=2)\n"
    )
    path = tmp_path / "store"
    embed(tmp_path / "whole", list("abcde"), batch=2)
    imported = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, str(path), str(moment)]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": imported})
    assert run.returncode == 9
    embed(path, list("abcde"), batch=2)
    assert snapshot(path) == snapshot(tmp_path / "whole") and not bad(path)
