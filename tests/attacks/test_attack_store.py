"""Hostile stores: each file is untrusted. The answer is an InputError that names it, and no code runs."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isthmus.errors import InputError
from isthmus.files import file_digest, read_sealed, write_sealed
from isthmus.store import doctor, import_arrays, import_folder, open_store
from isthmus.store.ragged import write_ragged
from isthmus.store.shards import open_shard
from states_cases import FOUR, embed


@pytest.fixture
def store(tmp_path) -> Path:
    image = np.eye(3, 4, dtype=np.float16)
    import_arrays(
        tmp_path / "store", image=image, text=image, captions=["a", "b", "c"], image_model="m", text_model="m"
    )
    return tmp_path / "store"


def image_shard(store: Path) -> Path:
    (path,) = store.glob("features/image/*/shard-*")
    return path


def rewrite(path: Path, change) -> None:
    """Apply `change` to the parsed header of a shard and write the file back."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def sign(store: Path) -> None:
    """Make `store.json` agree with the images table, as an attacker would."""
    described = read_sealed(store / "store.json")
    described["tables"]["images"]["digest"] = file_digest(store / "images.parquet")
    write_sealed(store / "store.json", described)


def refused(store: Path) -> None:
    with pytest.raises(InputError, match="shard-"):
        open_store(store).features("image")
    assert any("shard-" in finding["what"] for finding in doctor(store) if not finding["ok"])


HEADERS = {
    "width": lambda h: h["features"].update(shape=[3, 2]),
    "swapped shape": lambda h: h["features"].update(shape=[4, 3]),
    "negative shape": lambda h: h["features"].update(shape=[-3, -4]),
    "huge shape": lambda h: h["features"].update(shape=[2**62, 4]),
    "offsets outside": lambda h: h["features"].update(data_offsets=[0, 10**9]),
    "offsets reversed": lambda h: h["features"].update(data_offsets=[24, 0]),
    "overlapping": lambda h: h["keys"].update(data_offsets=[0, 48]),
    "integers": lambda h: h["features"].update(dtype="I16"),
    "bfloat": lambda h: h["features"].update(dtype="BF16"),
    "keys of floats": lambda h: h["keys"].update(dtype="F8_E4M3"),
    "no keys": lambda h: h.pop("keys"),
    "no metadata": lambda h: h.pop("__metadata__"),
    "foreign metadata": lambda h: h.update(__metadata__={"format": "pt"}),
    "metadata not JSON": lambda h: h.update(__metadata__={"isthmus": "{"}),
    "metadata a list": lambda h: h.update(__metadata__={"isthmus": "[]"}),
    "metadata nested": lambda h: h.update(__metadata__={"isthmus": "[" * 100_000}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_shard_with_a_hostile_header_is_refused(store, name):
    rewrite(image_shard(store), HEADERS[name])
    refused(store)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 10**8) + b"{",
        b"PK\x03\x04",
        pickle.dumps([1]),
    ],
)
def test_a_file_that_is_no_shard_is_refused(store, data):
    image_shard(store).write_bytes(data)
    refused(store)


def test_a_shard_that_is_a_folder_is_refused(store):
    path = image_shard(store)
    path.unlink()
    path.mkdir()
    refused(store)


def test_nan_smuggled_into_a_shard_is_found_by_the_doctor(store):
    path = image_shard(store)
    shard = open_shard(path)
    with open(path, "rb+") as file:
        file.seek(shard.features.offset)
        file.write(np.array([np.nan], np.float16).tobytes())
    with pytest.raises(InputError, match="digest"):
        open_store(store, verify=True)
    assert any("digest" in finding["what"] for finding in doctor(store) if not finding["ok"])


RECORDS = {
    "path in the fingerprint": {"fingerprint": "../../../../etc/passwd"},
    "short fingerprint": {"fingerprint": "abc"},
    "path in the modality": {"modality": "../image"},
    "width of text": {"width": "4"},
    "parts that do not sum": {"parts": [1, 2]},
    "negative parts": {"parts": [8, -4]},
    "parts of text": {"parts": ["4"]},
    "no uri": {"uri": None},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_hostile_encoder_record_is_refused(store, name):
    described = read_sealed(store / "store.json")
    described["encoders"][0].update(RECORDS[name])
    write_sealed(store / "store.json", described)
    with pytest.raises(InputError, match=r"store\.json: (?!changed)"):
        open_store(store)
    assert not doctor(store)[0]["ok"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"format": "isthmus-store/1"}',
        '{"format": "isthmus-store/2"}',
        "{",
        '{"format": "isthmus-store/1", "encoders": [1], "tables": {}}',
    ],
)
def test_a_damaged_store_json_is_refused(store, text):
    (store / "store.json").write_text(text)
    with pytest.raises(InputError, match=r"store\.json"):
        open_store(store)


@pytest.mark.parametrize(
    "table",
    [
        {"id": ["a"]},
        {"id": ["a", None, "c"], "content_hash": ["0" * 32] * 3},
        {"id": ["a", "a", "c"], "content_hash": ["0" * 32] * 3},
        {"id": ["a", "b", "c"], "content_hash": ["../" * 4, "0" * 32, "0" * 32]},
        {"id": ["a", "b"], "content_hash": ["0" * 32] * 2},
        {"id": [[1], [2], [3]], "content_hash": ["0" * 32] * 3},
    ],
)
def test_a_hostile_images_table_is_refused(store, table):
    pq.write_table(pa.table(table), store / "images.parquet")
    with pytest.raises(InputError, match=r"images\.parquet: damaged, or changed"):
        open_store(store)
    sign(store)
    with pytest.raises(InputError, match=r"images\.parquet: (?!damaged)"):
        open_store(store)


def test_a_table_of_garbage_is_refused(store):
    for data in (b"", b"PAR1" * 9, (store / "images.parquet").read_bytes()[:-20]):
        (store / "images.parquet").write_bytes(data)
        sign(store)
        with pytest.raises(InputError, match=r"images\.parquet: cannot be read as Parquet"):
            open_store(store)


class Bomb:
    def __reduce__(self):
        return (open, ("detonated", "w"))


def test_pickled_arrays_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "image.npy", np.array([[Bomb()]], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"image\.npy.*pickle"):
        import_folder(tmp_path, tmp_path / "store")
    (tmp_path / "image.npy").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"image\.npy.*pickle"):
        import_folder(tmp_path, tmp_path / "store")
    assert not (tmp_path / "detonated").exists()


@pytest.mark.parametrize("cut", [0, 5, 60, -1])
def test_a_truncated_array_is_refused(tmp_path, cut):
    np.save(tmp_path / "image.npy", np.ones((4, 3), np.float32))
    whole = (tmp_path / "image.npy").read_bytes()
    (tmp_path / "image.npy").write_bytes(whole[:cut])
    with pytest.raises(InputError, match=r"image\.npy"):
        import_folder(tmp_path, tmp_path / "store")


def test_other_numpy_files_are_refused(tmp_path):
    np.savez(tmp_path / "image.npz", a=np.ones((2, 2)))
    (tmp_path / "image.npz").rename(tmp_path / "image.npy")
    with pytest.raises(InputError, match="single array"):
        import_folder(tmp_path, tmp_path / "store")
    np.save(tmp_path / "image.npy", np.asfortranarray(np.ones((3, 2))))
    with pytest.raises(InputError, match="column by column"):
        import_folder(tmp_path, tmp_path / "store")


# --- states -----------------------------------------------------------------------------------------------------


@pytest.fixture
def states(tmp_path) -> Path:
    """A store whose one ragged shard is of three items."""
    embed(tmp_path, ["a", "b", "c"], ({**FOUR, "stored": "int8"},))
    return tmp_path


def offsets_as(store: Path, *offsets: int) -> None:
    """Write these offsets into the shard, with a digest that agrees, as an attacker would."""
    path = image_shard(store)
    shard = open_shard(path)
    held = shard.map()
    write_ragged(
        path.parent, "image", shard.fingerprint, shard.keys(), replace(held, offsets=np.array(offsets, np.int64))
    )


def states_refused(store: Path) -> None:
    with pytest.raises(InputError, match="shard-"):
        open_store(store).states("image")
    assert any("shard-" in finding["what"] for finding in doctor(store) if not finding["ok"])


@pytest.mark.parametrize(
    "offsets",
    [(0, 5, 2), (0, 3, 10**6), (1, 2, 3), (0, -1, 2), (-1, 0, 1), (0, 2**62, 2**62), (0, 0, -(2**63)), (5, 0, 0)],
)
def test_offsets_out_of_order_overlapping_or_beyond_the_data_are_refused(states, offsets):
    offsets_as(states, *offsets)
    states_refused(states)


RAGGED_HEADERS = {
    "more tokens": lambda h: h["values"].update(shape=[10**9, 4]),
    "wider": lambda h: h["values"].update(shape=[h["values"]["shape"][0] // 2, 8]),
    "no width": lambda h: h["values"].update(shape=[h["values"]["shape"][0] * 4, 0]),
    "three dimensions": lambda h: h["values"].update(shape=[h["values"]["shape"][0], 2, 2]),
    "unsigned": lambda h: h["values"].update(dtype="U8"),
    "no scale": lambda h: h.pop("scale"),
    "scale of integers": lambda h: h["scale"].update(dtype="I32"),
    "scale of halves": lambda h: h["scale"].update(shape=[2 * h["scale"]["shape"][0]], dtype="F16"),
    "scale in rows": lambda h: h["scale"].update(shape=[h["scale"]["shape"][0], 1]),
    "no offsets": lambda h: h.pop("offsets"),
    "offsets of floats": lambda h: h["offsets"].update(dtype="F64"),
    "fewer offsets": lambda h: h["offsets"].update(shape=[2], data_offsets=[0, 16]),
    "offsets outside": lambda h: h["offsets"].update(data_offsets=[10**12, 10**12 + 24]),
    "offsets over the scale": lambda h: h["offsets"].update(data_offsets=h["scale"]["data_offsets"]),
    "short keys": lambda h: h["keys"].update(shape=[6, 8]),
    "negative": lambda h: h["values"].update(shape=[-1, -4]),
    "absurd": lambda h: h["values"].update(shape=[2**62, 2**62]),
    "no rate": lambda h: describe(h, rate_hz=...),
    "rate of text": lambda h: describe(h, rate_hz="50"),
    "rate of zero": lambda h: describe(h, rate_hz=0),
    "infinite rate": lambda h: describe(h, rate_hz=float("inf")),
    "another format": lambda h: describe(h, format="isthmus-shard/3"),
    "pooled": lambda h: describe(h, format="isthmus-shard/1"),
    "another encoder": lambda h: describe(h, fingerprint="0" * 64),
    "metadata a list": lambda h: h.update(__metadata__={"isthmus": "[]"}),
}


def describe(header: dict, **changes: object) -> None:
    """Change what a shard says of itself; ... takes a field away."""
    described = json.loads(header["__metadata__"]["isthmus"]) | changes
    kept = {name: value for name, value in described.items() if value is not ...}
    header["__metadata__"] = {"isthmus": json.dumps(kept)}


@pytest.mark.parametrize("name", RAGGED_HEADERS)
def test_a_ragged_shard_with_a_hostile_header_is_refused(states, name):
    rewrite(image_shard(states), RAGGED_HEADERS[name])
    states_refused(states)


@pytest.mark.parametrize("cut", [0, 4, 8, 200, -1])
def test_a_truncated_ragged_shard_is_refused(states, cut):
    path = image_shard(states)
    path.write_bytes(path.read_bytes()[:cut])
    states_refused(states)


def test_a_scale_that_is_no_number_is_found_by_the_doctor(states):
    path = image_shard(states)
    shard = open_shard(path)
    held = shard.map()
    scale = np.array(held.scale)
    scale[1] = np.nan
    write_ragged(path.parent, "image", shard.fingerprint, shard.keys(), replace(held, scale=scale))
    assert any("1 rows hold NaN or infinity" in finding["what"] for finding in doctor(states) if not finding["ok"])


def test_a_shard_that_shrinks_while_it_is_open_is_told(states):
    matrix = open_store(states).states("image")
    path = image_shard(states)
    path.write_bytes(path.read_bytes()[: open_shard(path).values.offset + 3])
    with pytest.raises(InputError, match="changed while it was open"):
        matrix.gather([0])
