"""Tars are read in place: img2dataset's output and CLIP_benchmark's layout work as they are."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.webdataset import expand_braces
from isthmus.errors import InputError


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes | str | dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            if isinstance(content, dict):
                content = json.dumps(content)
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def captions(pairs: Pairs) -> dict[str, str]:
    return dict(zip(pairs.captions["caption_id"].to_pylist(), pairs.captions["caption"].to_pylist(), strict=True))


def shades(pairs: Pairs) -> dict[str, int]:
    return {id: pairs.decode(row).getpixel((0, 0))[0] for row, id in enumerate(pairs.images["id"].to_pylist())}


def img2dataset_shard(path: Path, first: int) -> None:
    members: dict = {}
    for k in range(first, first + 2):
        key = f"{k:09d}"
        metadata = {"caption": f"caption {k}", "key": key, "status": "success", "url": "u", "width": 2}
        members |= {f"{key}.jpg": png(k), f"{key}.txt": f"caption {k}", f"{key}.json": metadata}
    write_tar(path, members)
    path.with_suffix(".parquet").write_bytes(b"metadata of the shard, of no use here")
    path.with_name(f"{path.stem}_stats.json").write_text("{}")


def test_img2dataset_output_works_as_it_is(tmp_path: Path) -> None:
    for shard in range(2):
        img2dataset_shard(tmp_path / f"{shard:05d}.tar", 10 * shard)
    pairs = read_pairs(tmp_path)
    assert captions(pairs) == {
        "00000/000000000#0": "caption 0",
        "00000/000000001#0": "caption 1",
        "00001/000000010#0": "caption 10",
        "00001/000000011#0": "caption 11",
    }
    assert list(shades(pairs).values()) == [0, 1, 10, 11]
    assert pairs.skipped == []


def test_clip_benchmark_layout_works_as_it_is(tmp_path: Path) -> None:
    for shard in range(2):
        members = {
            f"s{shard}.webp": png(shard),
            f"s{shard}.txt": f"one {shard}\ntwo {shard}",
            f"s{shard}.cls": "1",
        }
        write_tar(tmp_path / "test" / f"{shard}.tar", members)
    write_tar(tmp_path / "train" / "0.tar", {"a.png": png(9), "a.txt": "x", "a.cls": "0"})
    (tmp_path / "test" / "nshards.txt").write_text("2\n")
    (tmp_path / "classnames.txt").write_text("cat\nsmall dog\n")
    pairs = read_pairs(tmp_path)
    assert pairs.images["id"].to_pylist() == ["test/0/s0", "test/1/s1", "train/0/a"]
    assert pairs.images["split"].to_pylist() == ["test", "test", "train"]
    assert pairs.images["label"].to_pylist() == ["small dog", "small dog", "cat"]
    assert captions(pairs)["test/1/s1#1"] == "two 1"
    assert shades(read_pairs(tmp_path, split="test")) == {"test/0/s0": 0, "test/1/s1": 1}


def test_missing_shards_are_noticed(tmp_path: Path) -> None:
    write_tar(tmp_path / "test" / "0.tar", {"a.png": png(1), "a.txt": "x"})
    (tmp_path / "test" / "nshards.txt").write_text("3")
    with pytest.raises(InputError, match=r"nshards\.txt promises 3 tars, but 1 are there"):
        read_pairs(tmp_path)


def test_class_names_that_repeat_are_said(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.png": png(1), "a.txt": "x", "a.cls": "2"})
    (tmp_path / "classnames.txt").write_text("crane\ndog\ncrane\n")
    pairs = read_pairs(tmp_path)
    assert pairs.images["label"].to_pylist() == ["crane"]
    assert "'crane' is there twice" in pairs.notes[0]


def test_labels_without_captions_serve_classification(tmp_path: Path) -> None:
    pairs = read_pairs(write_tar(tmp_path / "0.tar", {"a.png": png(1), "a.cls": "17"}), captions="optional")
    assert pairs.images["label"].to_pylist() == ["17"]
    assert len(pairs.captions) == 0


def test_captions_in_json(tmp_path: Path) -> None:
    members = {
        "a.png": png(1),
        "a.json": {"captions": ["x", "y"], "lang": "de", "group": 7, "split": "part3", "label": [1, 2]},
        "b.png": png(2),
        "b.json": {"caption": "z"},
    }
    pairs = read_pairs(write_tar(tmp_path / "s.tar", members))
    assert captions(pairs) == {"s/a#0": "x", "s/a#1": "y", "s/b#0": "z"}
    assert pairs.images["group"].to_pylist() == ["7", None]
    assert pairs.captions["lang"].to_pylist() == ["de", "de", None]


def test_a_line_break_parts_captions_unless_json_says_it_is_one(tmp_path: Path) -> None:
    members = {
        "a.png": png(1),
        "a.txt": "x\ny",
        "a.json": {"caption": "x\ny"},
        "b.png": png(2),
        "b.txt": "x\ny",
    }
    pairs = read_pairs(write_tar(tmp_path / "s.tar", members))
    assert captions(pairs) == {"s/a#0": "x\ny", "s/b#0": "x", "s/b#1": "y"}


def test_members_need_not_stand_together_and_may_begin_with_a_dot_slash(tmp_path: Path) -> None:
    members = {"./d/a.png": png(1), "./d/b.png": png(2), "./d/b.txt": "of b", "./d/a.txt": "of a"}
    pairs = read_pairs(write_tar(tmp_path / "s.tar", members))
    assert captions(pairs) == {"s/d/a#0": "of a", "s/d/b#0": "of b"}
    assert shades(pairs) == {"s/d/a": 1, "s/d/b": 2}


def test_samples_that_cannot_be_used_are_listed_and_shift_nothing(tmp_path: Path) -> None:
    members = {
        "a.txt": "no image",
        "b.png": png(2),
        "c.png": png(3),
        "c.txt": b"caf\xe9",
        "d.png": png(4),
        "d.json": b"{",
        "e.png": png(5),
        "e.txt": "fine",
    }
    pairs = read_pairs(write_tar(tmp_path / "s.tar", members))
    assert shades(pairs) == {"s/e": 5}
    assert captions(pairs) == {"s/e#0": "fine"}
    reasons = dict(pairs.skipped)
    assert reasons["s/a"] == "no image among its members: txt."
    assert reasons["s/b"] == "no caption."
    assert reasons["s/c"].startswith("its txt is not UTF-8")
    assert "its json cannot be read" in reasons["s/d"]


def test_second_image_of_a_key_is_noted(tmp_path: Path) -> None:
    pairs = read_pairs(write_tar(tmp_path / "s.tar", {"a.jpg": png(1), "a.png": png(2), "a.txt": "x"}))
    assert shades(pairs) == {"s/a": 1}
    assert pairs.notes == [f"{tmp_path / 's.tar'}: of a, png is not used."]


def test_patterns(tmp_path: Path) -> None:
    for k in range(12):
        write_tar(tmp_path / "p" / f"{k:02d}.tar", {"a.png": png(k), "a.txt": "x"})
    assert list(shades(read_pairs(f"{tmp_path}/p/{{08..11}}.tar")).values()) == [8, 9, 10, 11]
    assert len(read_pairs(f"{tmp_path}/p/0*.tar")) == 10
    with pytest.raises(InputError, match=r"12\.tar: no such file"):
        read_pairs(f"{tmp_path}/p/{{11..12}}.tar")
    with pytest.raises(InputError, match="no such file"):
        read_pairs(tmp_path / "nothing.tar")


def test_braces() -> None:
    assert expand_braces("{8..10}") == ["8", "9", "10"]
    assert expand_braces("{a,b}/{01..02}.tar") == ["a/01.tar", "a/02.tar", "b/01.tar", "b/02.tar"]
    assert expand_braces("plain.tar") == ["plain.tar"]
