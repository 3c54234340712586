"""Hostile and damaged tars: nothing is followed, nothing is extracted, what is whole is still read."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from isthmus.data.images import MAX_BYTES
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.errors import InputError

BLOCK = tarfile.BLOCKSIZE


def png(shade: int = 1) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def member(name: str, data: bytes = b"", **fields) -> bytes:
    """Header and padded data of one member, as they stand in a tar; `fields` forge the header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


def good(key: str = "good") -> bytes:
    return member(f"{key}.png", png()) + member(f"{key}.txt", b"a caption")


def read(tmp_path: Path, content: bytes) -> Pairs:
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    return read_pairs(path)


END = bytes(2 * BLOCK)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_not_followed(tmp_path: Path, kind: bytes) -> None:
    evil = member("evil.png", type=kind, linkname="/etc/passwd") + member("evil.txt", b"text")
    pairs = read(tmp_path, evil + good() + END)
    assert pairs.images["id"].to_pylist() == ["s/good"]
    assert ("s/evil", "evil.png is not a plain file but a link, a device or sparse.") in pairs.skipped


@pytest.mark.parametrize("name", ["../../evil.png", "/tmp/evil.png", "a/../../evil.png"])
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "deep" / "deeper"
    folder.mkdir(parents=True)
    pairs = read(folder, member(name, png()) + good() + END)
    assert pairs.images["id"].to_pylist() == ["s/good"]
    assert "leaves the archive" in pairs.skipped[0][1]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["s.tar"]


def test_absurd_sizes_are_refused_without_reading(tmp_path: Path) -> None:
    """A sparse file of 300 MiB: only headers are read."""
    path = tmp_path / "s.tar"
    size = MAX_BYTES + 1
    with open(path, "wb") as file:
        file.write(member("huge.png", size=size))
        file.seek(size + -size % BLOCK, io.SEEK_CUR)
        file.write(member("huge.txt", b"text") + good() + END)
    pairs = read_pairs(path)
    assert pairs.images["id"].to_pylist() == ["s/good"]
    assert "more than the 268,435,456 allowed" in pairs.skipped[0][1]


def test_truncated_end_keeps_what_comes_before(tmp_path: Path) -> None:
    whole = good("a") + good("b")
    pairs = read(tmp_path, whole + member("c.txt", b"text") + member("c.png", png())[: BLOCK + 10])
    assert pairs.images["id"].to_pylist() == ["s/a", "s/b"]
    assert pairs.decode(1).size == (2, 2)
    reasons = dict(pairs.skipped)
    assert "c.png is cut off" in str(pairs.skipped)
    assert "damaged from byte" in reasons["s"]


def test_a_cut_header_is_said(tmp_path: Path) -> None:
    pairs = read(tmp_path, good("a") + member("b.png", png())[:100])
    assert pairs.images["id"].to_pylist() == ["s/a"]
    assert "the rest is lost" in dict(pairs.skipped)["s"]


def test_a_damaged_header_in_the_middle_is_said(tmp_path: Path) -> None:
    damaged = bytearray(good("b"))
    damaged[148:156] = b"99999999"  # the checksum of the first header
    pairs = read(tmp_path, good("a") + bytes(damaged) + good("c") + END)
    assert pairs.images["id"].to_pylist() == ["s/a"]
    assert "damaged header" in dict(pairs.skipped)["s"]


@pytest.mark.timeout(20)
def test_a_negative_size_does_not_loop(tmp_path: Path) -> None:
    info = tarfile.TarInfo("loop.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + (-BLOCK & 0xFFFF).to_bytes(2, "big")  # base-256: -512
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    pairs = read(tmp_path, good("a") + bytes(header) + good("b") + END)
    assert pairs.images["id"].to_pylist() == ["s/a"]
    assert "damaged" in str(pairs.skipped)


def test_names_that_are_not_text_are_skipped(tmp_path: Path) -> None:
    header = bytearray(member("xx.png", png()))
    header[0:2] = b"\xff\xfe"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:BLOCK])
    pairs = read(tmp_path, bytes(header) + good() + END)
    assert pairs.images["id"].to_pylist() == ["s/good"]
    assert pairs.skipped[0][1] == "its name is not valid UTF-8."


def test_the_same_member_twice_is_skipped(tmp_path: Path) -> None:
    pairs = read(tmp_path, good() + good("other") + good() + END)
    assert pairs.images["id"].to_pylist() == ["s/other"]
    assert [(id, "twice" in reason) for id, reason in pairs.skipped] == [("s/good", True)]


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", gzip.compress(END, mtime=0)])
def test_what_is_no_tar_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"s\.tar: not an uncompressed tar"):
        read(tmp_path, content)


def test_a_shard_that_shrinks_after_reading_is_a_bad_image(tmp_path: Path) -> None:
    pairs = read(tmp_path, good() + END)
    (tmp_path / "s.tar").write_bytes(good()[:550])
    with pytest.raises(InputError, match="ends before this image does"):
        pairs.read_bytes(0)


def test_a_caption_of_absurd_size_is_skipped(tmp_path: Path) -> None:
    text = b"a " * (9 * 1024**2)
    pairs = read(tmp_path, member("big.png", png()) + member("big.txt", text) + good() + END)
    assert pairs.images["id"].to_pylist() == ["s/good"]
    assert "its txt has" in dict(pairs.skipped)["s/big"]


SIX = [good(str(number)) for number in range(6)]


def the_rest_is_listed(tmp_path: Path, content: bytes, whole: int, words: str) -> None:
    pairs = read(tmp_path, content)
    assert pairs.images["id"].to_pylist() == [f"s/{number}" for number in range(whole)]
    assert words in dict(pairs.skipped)["s"] and "the rest is lost" in dict(pairs.skipped)["s"]


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_zeroed_header_is_said(tmp_path: Path, number: int) -> None:
    zeroed = bytes(BLOCK) + SIX[number][BLOCK:]
    the_rest_is_listed(tmp_path, b"".join([*SIX[:number], zeroed, *SIX[number + 1 :]]) + END, number, "header of zeros")


@pytest.mark.parametrize("end", [b"", bytes(BLOCK), bytes(2 * BLOCK - 1)])
def test_a_cut_between_members_is_said(tmp_path: Path, end: bytes) -> None:
    the_rest_is_listed(tmp_path, b"".join(SIX[:4]) + end, 4, "no end marker")


@pytest.mark.parametrize("padding", [0, 8 * BLOCK, 2**20])
def test_tars_put_together_are_said(tmp_path: Path, padding: int) -> None:
    content = b"".join(SIX[:4]) + END + bytes(padding) + b"".join(SIX[4:]) + END
    byte = len(b"".join(SIX[:4])) + len(END) + padding
    the_rest_is_listed(tmp_path, content, 4, f"from byte {byte:,}")


@pytest.mark.parametrize("padding", [0, 18 * BLOCK, 3 * 2**20 + 7])
def test_zeros_at_the_end_are_no_damage(tmp_path: Path, padding: int) -> None:
    assert read(tmp_path, b"".join(SIX) + END + bytes(padding)).skipped == []
