"""Bombs are refused with a message, in bounded memory and time, each in a process of its own."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import isthmus as ist
from bounded import cost
from isthmus.data.images import decode
from isthmus.errors import InputError, IsthmusError
from isthmus.files import file_digest, read_json, read_sealed, write_sealed
from isthmus.store import doctor, import_arrays, open_store
from isthmus.store.shards import open_shard
from isthmus.training import load_recipe

SECONDS = 20  # a second each, on a machine that does nothing else


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey_png(width: int, height: int) -> bytes:
    """A black picture: a mebibyte of zeros, compressed once and repeated."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = head + block * ((width + 1) * height // 2**20) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_picture_of_623_megapixels() -> None:
    """As large as the largest of Open Clip Art; in 0.6 MB."""
    data = grey_png(31_496, 19_780)
    spent = cost(lambda: decode(data))
    assert "31496 × 19780 pixels are more than 100,000,000" in spent.error
    assert spent.mib < 40 and spent.seconds < SECONDS


def tar_member(name: str, data: bytes, **fields) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_tar_header_of_two_gibibytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """A sparse file: it takes no room on disk, and would all of it in memory."""
    path = tmp_path / "s.tar"
    with open(path, "wb") as file:
        file.write(tar_member("good.png", b"x") + tar_member("good.txt", b"a caption"))
        file.write(tar_member("huge", b"", type=kind, size=2**31))
        file.truncate(2**31 + 8192)
    pairs = ist.read_pairs(path)
    assert pairs.images["id"].to_pylist() == ["s/good"] and "a header of 2,147,483,648 bytes" in str(pairs.skipped)
    spent = cost(lambda: ist.read_pairs(path))
    assert spent.error == "" and spent.mib < 30 and spent.seconds < SECONDS


def test_a_tar_name_of_slashes_costs_no_search(tmp_path: Path) -> None:
    name = "/" * 500_000 + "x.png"
    long = tar_member("././@LongLink", name.encode() + b"\0", type=tarfile.GNUTYPE_LONGNAME)
    (tmp_path / "s.tar").write_bytes(
        long + tar_member("x", b"") + tar_member("a.png", b"x") + tar_member("a.txt", b"b") + bytes(1024)
    )
    spent = cost(lambda: ist.read_pairs(tmp_path / "s.tar"))
    assert spent.error == "" and spent.seconds < SECONDS
    (skipped,) = ist.read_pairs(tmp_path / "s.tar").skipped
    assert "its name has 500,005 characters" in skipped[1] and len(skipped[0]) < 100


@pytest.mark.parametrize("store_schema", [True, False])
def test_parquet_that_repeats_one_long_caption(tmp_path: Path, store_schema: bool) -> None:
    """20 GB of text in a file of some kilobytes, whether or not it says that it is a dictionary."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array(["x" * 2**20]))
    table = pa.table({"image": [f"{row}.png" for row in range(20_000)], "caption": column})
    pq.write_table(table, tmp_path / "t.parquet", compression="zstd", store_schema=store_schema)
    assert (tmp_path / "t.parquet").stat().st_size < 500_000
    spent = cost(lambda: ist.read_pairs(tmp_path / "t.parquet"))
    assert "t.parquet: column 'caption' has a cell of 1,048,576 bytes" in spent.error
    assert spent.mib < 200 and spent.seconds < SECONDS


def patch_footer(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    assert old in data[start:] and len(old) == len(new)
    path.write_bytes(data[:start] + data[start:].replace(old, new))


def test_parquet_with_lying_statistics_is_read_as_it_is(tmp_path: Path) -> None:
    ids = [f"id-{row:02d}" for row in range(77)]
    pq.write_table(pa.table({"id": ids, "image": ids, "caption": ids}), tmp_path / "t.parquet")
    patch_footer(tmp_path / "t.parquet", b"id-76", b"id-05")
    pairs = ist.read_pairs(tmp_path / "t.parquet")
    assert pairs.images["id"].to_pylist() == ids and pairs.captions["caption"].to_pylist() == ids


@pytest.mark.parametrize("rows", [1, 76, 8191])
def test_parquet_that_lies_about_its_rows_is_refused_or_its_images_are(tmp_path: Path, rows: int) -> None:
    """77 rows are there; the footer says otherwise."""

    def varint(number: int) -> bytes:
        return bytes([(2 * number & 0x7F) | 0x80, 2 * number >> 7])

    pq.write_table(pa.table({"image": [b"not an image"] * 77, "caption": ["a"] * 77}), tmp_path / "t.parquet")
    patch_footer(tmp_path / "t.parquet", varint(77), varint(rows))
    try:
        pairs = ist.read_pairs(tmp_path / "t.parquet")
    except InputError as error:
        assert "t.parquet" in str(error)
        return
    for row in range(len(pairs)):
        with pytest.raises(InputError):
            pairs.decode(row)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0).normal(size=(2, 40, 6)).astype(np.float16)
    import_arrays(tmp_path / "store", image=draws[0], text=draws[1], image_model="m", text_model="m")
    return tmp_path / "store"


def header_of(tensors: int) -> bytes:
    entry = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps({f"t{number}": entry for number in range(tensors)}).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("head", [header_of(300_000), struct.pack("<Q", 2**62), struct.pack("<Q", 10**8) + b"["])
def test_safetensors_with_an_absurd_header(store: Path, tmp_path: Path, head: bytes) -> None:
    """The first is valid: 18 MB of names of nothing."""
    (shard,) = store.glob("features/image/*/shard-*")
    shard.write_bytes(head)
    spent = cost(lambda: open_store(store).features("image"))
    assert shard.name in spent.error and spent.mib < 40 and spent.seconds < SECONDS
    model = saved_model(tmp_path)
    (model / "model.safetensors").write_bytes(head)
    resign(model, weights=file_digest(model / "model.safetensors", 32))
    spent = cost(lambda: ist.DualEncoder.from_pretrained(model, load=False))
    assert "model.safetensors: not a safetensors file" in spent.error and spent.mib < 40 and spent.seconds < SECONDS


def saved_model(folder: Path) -> Path:
    draws = np.random.default_rng(0).normal(size=(2, 40, 6)).astype(np.float32)
    record = {"uri": "callable:x", "fingerprint": "0" * 64, "width": 6}
    pairs = ist.FeaturePairs.from_arrays(*draws, image_encoder=[record], text_encoder=[record])
    ist.train(pairs, recipe="cca", overrides=["head.width=4", "loss.scale=10"], out=folder / "model")
    return folder / "model"


def resign(model: Path, **changes) -> None:
    write_sealed(model / "config.json", read_sealed(model / "config.json") | changes)


def test_a_model_that_says_it_is_huge_allocates_nothing(tmp_path: Path) -> None:
    model = saved_model(tmp_path)
    projectors = read_sealed(model / "config.json")["projectors"]
    projectors["image"]["width"] = 10**9
    resign(model, projectors=projectors)
    spent = cost(lambda: ist.DualEncoder.from_pretrained(model, load=False))
    assert "does not fit config.json" in spent.error and spent.mib < 40 and spent.seconds < SECONDS


@pytest.mark.parametrize(
    "changes",
    [
        {"projectors": 3},
        {"projectors": {}},
        {"projectors": {"image": {"kind": "linear"}, "text": {}}},
        {"projectors": {"image": {"kind": "no"}, "text": {"kind": "no"}}},
        {"encoders": []},
        {"encoders": {"image": [1], "text": []}},
        {"encoders": {"image": [{"uri": "x"}], "text": []}},
        {"format": "1"},
        {"format": 99},
        {"weights": {"a": 1}},
        {"weights": ""},
        {"weights": "f" * 1000},
    ],
)
def test_a_model_with_a_hostile_configuration_is_refused(tmp_path: Path, changes: dict) -> None:
    model = saved_model(tmp_path)
    resign(model, **changes)
    with pytest.raises(InputError, match=str(model)):
        ist.DualEncoder.from_pretrained(model, load=False)


def test_a_model_of_nan_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = saved_model(tmp_path)
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, model / "model.safetensors")
    resign(model, weights=file_digest(model / "model.safetensors", 32))
    with pytest.raises(InputError, match=r"model\.safetensors: .* is not made of finite numbers"):
        ist.DualEncoder.from_pretrained(model, load=False)


def test_nan_in_a_signed_shard_ends_training_with_a_message(store: Path) -> None:
    from isthmus.store.keys import to_hashes
    from isthmus.store.shards import write_shard

    (path,) = store.glob("features/image/*/shard-*")
    shard = open_shard(path)
    features = np.array(shard.features.map())
    features[3, 2] = np.nan
    write_shard(path.parent, "image", shard.fingerprint, shard.keys(), features)
    assert len(to_hashes(shard.keys())) == 40
    assert any("1 rows hold NaN" in finding["what"] for finding in doctor(store))
    for recipe in ("cca", "linear"):
        with pytest.raises(IsthmusError, match=r"NaN|not finite"):
            ist.train(store, recipe=recipe, overrides=["optim.epochs=1"] if recipe == "linear" else [])


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", '{"a":' * 50_000, "\ud800"])
def test_json_that_breaks_parsers_is_named(store: Path, text: str) -> None:
    (store / "store.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    spent = cost(lambda: open_store(store))
    assert "store.json: cannot be read as JSON" in spent.error and spent.mib < 50 and spent.seconds < SECONDS
    with pytest.raises(InputError):
        read_json(store / "store.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 50_000, "not valid TOML"),
        ("[head.nested.deeper]\nwidth = 3", r"head\.nested"),
        ("[surprise]\nx = 1", "unknown key 'surprise'"),
        ("[optim]\nlr = {a = {b = 1}}", r"optim\.lr must be a number"),
        ("[optim]\nlr = nan", r"optim\.lr must be from 0 to 10, not nan"),
        ("[head]\nwidth = " + "9" * 5000, "not valid TOML|width"),
    ],
)
def test_a_hostile_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(IsthmusError, match=message):
        load_recipe(tmp_path / "r.toml")


def jsonl(folder: Path, **row) -> Path:
    (folder / "t.jsonl").write_text(json.dumps({"image": "a.png", "caption": "a"} | row) + "\n")
    return folder / "t.jsonl"


@pytest.mark.parametrize("field", ["id", "label", "group", "lang", "split"])
def test_an_id_of_a_megabyte_is_refused_in_a_line(tmp_path: Path, field: str) -> None:
    with pytest.raises(InputError, match=rf"t\.jsonl: line 1: {field} has 1,048,576 characters") as error:
        ist.read_pairs(jsonl(tmp_path, **{field: "x" * 2**20}))
    assert len(str(error.value)) < 300


def test_a_caption_of_a_megabyte_is_left_out(tmp_path: Path) -> None:
    pairs = ist.read_pairs(jsonl(tmp_path, captions=["a", "b" * 2**20]))
    assert pairs.captions["caption"].to_pylist() == ["a"] and "1,048,576 characters" in pairs.skipped[0][1]


def png(mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 8), 7).save(file, "PNG")
    return file.getvalue()


POLYGLOTS = {
    "an archive behind a picture": png() + b"PK\x05\x06" + bytes(18),
    "a page behind a picture": png() + b"<script>alert(1)</script>",
    "a program before a picture": b"#!/bin/sh\nrm -rf /\n" + png(),
    "a document before a picture": b"%PDF-1.7\n" + png(),
    "a page in a picture's comment": b"GIF89a\x01\0\x01\0\0\0\0!\xfe\x08<script>\0"
    b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;",
    "two signatures": b"\xff\xd8\xff" + png(),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "vector graphics": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
}


@pytest.mark.parametrize("name", POLYGLOTS)
def test_a_polyglot_is_a_plain_picture_or_refused(name: str) -> None:
    try:
        picture = decode(POLYGLOTS[name])
    except InputError as error:
        assert "image" in str(error)
        assert not name.endswith("behind a picture")
    else:
        assert picture.mode == "RGB" and {colour[0] for _, colour in picture.getcolors()} <= {0, 7, 255}
