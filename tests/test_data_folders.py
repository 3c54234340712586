"""Folders: links, names, other formats, tars beside images, class folders, imagefolder; what is left out is said."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isthmus.data.folders import survey
from isthmus.data.images import EXTENSIONS, FOREIGN
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.errors import InputError


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def tar(members: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def shades(pairs: Pairs) -> dict[str, int]:
    return {id: pairs.decode(row).getpixel((0, 0))[0] for row, id in enumerate(pairs.images["id"].to_pylist())}


def labels(pairs: Pairs) -> dict[str, str | None]:
    return dict(zip(pairs.images["id"].to_pylist(), pairs.images["label"].to_pylist(), strict=True))


def test_every_name_of_a_supported_format_is_read(tmp_path: Path) -> None:
    put(tmp_path, {f"{number}{ending.upper()}": png(number) for number, ending in enumerate(EXTENSIONS)})
    found = shades(read_pairs(tmp_path, captions="optional"))
    assert sorted(found.values()) == list(range(len(EXTENSIONS)))
    assert {".jfif", ".jpe", ".tif", ".jpeg"} <= set(EXTENSIONS)


def test_other_pictures_and_arrays_are_listed_the_rest_counted(tmp_path: Path) -> None:
    others = [".heic", ".jp2", ".cr2", ".npy", ".svg"]
    put(tmp_path, {"a.png": png(1), "a.txt": "x", ".hidden.png": png(2), "notes.md": "n", "b.xml": "x", "c.xml": "x"})
    put(tmp_path, {f"sub/a{ending}": b"some" for ending in others})
    pairs = read_pairs(tmp_path)
    assert shades(pairs) == {"a.png": 1}
    assert dict(pairs.skipped) == {f"sub/a{ending}": FOREIGN[ending] for ending in others}
    assert pairs.notes == [
        f"{tmp_path}: files that are not read: 2 .xml, 1 .md, 1 .cr2, 1 .heic, 1 .jp2, 1 .npy, 1 kinds more, 1 "
        "whose names begin with a dot."
    ]


def test_links_are_followed_once_and_never_in_circles(tmp_path: Path) -> None:
    put(tmp_path / "far", {"c.png": png(3), "deep/d.png": png(4)})
    here = put(tmp_path / "set", {"a.png": png(1), "sub/b.png": png(2)})
    os.symlink(tmp_path / "far", here / "linked")
    os.symlink(tmp_path / "far", here / "again")
    os.symlink(here, here / "sub" / "circle")
    os.symlink(tmp_path / "nowhere", here / "broken.png")
    os.symlink(here / "a.png", here / "z.png")
    pairs = read_pairs(here, captions="optional")
    assert shades(pairs) == {"a.png": 1, "z.png": 1, "sub/b.png": 2, "again/c.png": 3, "again/deep/d.png": 4}
    assert pairs.skipped == [("broken.png", "a link that leads nowhere.")]
    assert pairs.notes == [
        f"{here}: {name} is a link to a folder that is read already." for name in ("linked", "sub/circle")
    ]


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_links_are_followed_wherever_a_folder_is_read(tmp_path: Path, kind: str) -> None:
    far = tmp_path / "far"
    if kind == "tars":
        put(far, {"x/0.tar": tar({"a.png": png(5), "a.txt": "x"})})
    else:
        (far / "x").mkdir(parents=True)
        pq.write_table(pa.table({"image": [png(5)], "caption": ["x"]}), far / "x" / "0.parquet")
    (tmp_path / "set").mkdir()
    os.symlink(far, tmp_path / "set" / "linked")
    assert list(shades(read_pairs(tmp_path / "set")).values()) == [5]


def test_a_stray_tar_does_not_change_what_a_folder_of_images_is(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": png(1), "a.txt": "x", "b.png": png(2), "b.txt": "y", "backup.tar": tar({"n.md": "n"})})
    pairs = read_pairs(tmp_path)
    assert shades(pairs) == {"a.png": 1, "b.png": 2}
    assert "1 .tar" in pairs.notes[0]


def test_a_stray_picture_does_not_change_what_a_folder_of_tars_is(tmp_path: Path) -> None:
    shard = {f"a/b/{k:05d}.tar": tar({"a.png": png(k), "a.txt": "x"}) for k in range(2)}
    pairs = read_pairs(put(tmp_path, {**shard, "preview.png": png(9)}))
    assert shades(pairs) == {"a/b/00000/a": 0, "a/b/00001/a": 1}
    assert "1 .png" in pairs.notes[0]


def test_brackets_and_braces_in_names_are_literal_first(tmp_path: Path) -> None:
    folder = put(
        tmp_path / "set [v1] {x} ",
        {"00000.tar": tar({"a.png": png(1), "a.txt": "x"}), "{0..1}.tar": tar({"b.png": png(2), "b.txt": "y"})},
    )
    assert len(read_pairs(f"{folder}/0*.tar")) == 1
    assert len(read_pairs(f"{folder}/*.tar")) == 2
    assert shades(read_pairs(f"{folder}/{{0..1}}.tar")) == {"{0..1}/b": 2}
    put(folder, {"p [a].csv": "image,caption\nq[1].png,x\n", "q[1].png": png(3)})
    assert shades(read_pairs(folder / "p [a].csv")) == {"q[1].png": 3}
    with pytest.raises(InputError, match=r"7\.tar: no such file"):
        read_pairs(f"{folder}/{{7..8}}.tar")


def test_patterns_serve_every_format(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": png(1), "b.png": png(2), "c.png": png(3)})
    put(tmp_path, {"1.csv": "image,caption\na.png,x\n", "2.csv": "image,caption\nb.png,y\n"})
    put(tmp_path, {"3.jsonl": json.dumps({"image": "c.png", "caption": "z"})})
    assert shades(read_pairs(f"{tmp_path}/*.csv")) == {"a.png": 1, "b.png": 2}
    assert shades(read_pairs(f"{tmp_path}/[123].*")) == {"a.png": 1, "b.png": 2, "c.png": 3}


def test_class_folders_are_labels_and_it_is_said(tmp_path: Path) -> None:
    put(
        tmp_path, {"test/001.Grey_Cat/x/1.png": png(1), "test/BigDog/2.png": png(2), "train/001.Grey_Cat/3.png": png(3)}
    )
    pairs = read_pairs(tmp_path, captions="optional")
    assert labels(pairs) == {
        "test/001.Grey_Cat/x/1.png": "grey cat",
        "test/BigDog/2.png": "big dog",
        "train/001.Grey_Cat/3.png": "grey cat",
    }
    assert pairs.images["split"].to_pylist() == ["test", "test", "train"]
    assert pairs.class_folders == ["001.Grey_Cat", "BigDog"]
    assert "2 folders of its images are their labels" in pairs.notes[0]


def test_folders_of_captioned_images_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, {"one/a.png": png(1), "one/a.txt": "x", "two/b.png": png(2)})
    assert labels(read_pairs(tmp_path, captions="optional")) == {"one/a.png": None, "two/b.png": None}


def test_img2dataset_files_have_their_caption_in_json(tmp_path: Path) -> None:
    put(tmp_path, {"00000/000000001.jpg": png(1), "00000/000000001.json": json.dumps({"caption": "x", "url": "u"})})
    put(tmp_path, {"00000/000000002.jpg": png(2), "00000/000000002.json": "[1"})
    pairs = read_pairs(tmp_path)
    assert pairs.captions["caption"].to_pylist() == ["x"]
    assert "captions beside it cannot be read" in dict(pairs.skipped)["00000/000000002.jpg"]


METADATA = {
    "jsonl": '\ufeff{"file_name": "a.png", "text": "of a"}\r\n{"file_name": "sub/b.png", "text": "of b"}\n',
    "csv": "file_name,text\r\na.png,of a\r\nsub/b.png,of b\r\n",
}


@pytest.mark.parametrize("form", METADATA)
def test_imagefolder_with_metadata(tmp_path: Path, form: str) -> None:
    put(tmp_path, {"a.png": png(1), "sub/b.png": png(2), "c.png": png(3), f"metadata.{form}": METADATA[form]})
    pairs = read_pairs(tmp_path)
    assert shades(pairs) == {"a.png": 1, "sub/b.png": 2}
    assert pairs.captions["caption"].to_pylist() == ["of a", "of b"]
    assert any("1 images that no metadata file names, as c.png" in note for note in pairs.notes)


def test_imagefolder_with_a_metadata_file_in_each_split(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "validation")):
        row = json.dumps({"file_name": "a.png", "text": split})
        put(tmp_path / split, {"a.png": png(number), "metadata.jsonl": row})
    pairs = read_pairs(tmp_path)
    assert shades(pairs) == {"train/a.png": 0, "validation/a.png": 1}
    assert pairs.images["split"].to_pylist() == ["train", "val"]
    assert pairs.captions["caption"].to_pylist() == ["train", "validation"]


def test_metadata_of_something_else_changes_nothing(tmp_path: Path) -> None:
    put(tmp_path, {"a.png": png(1), "a.txt": "x", "metadata.csv": "camera,lens\nx,y\n"})
    assert shades(read_pairs(tmp_path)) == {"a.png": 1}


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"a.png": png(1), "closed/b.png": png(2)})
    scan = os.scandir

    def refuse(path: Path) -> object:
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert survey(tmp_path).skipped == [("closed/", "this folder cannot be read (Permission denied).")]


def test_broken_tars_and_members_end_nothing(tmp_path: Path) -> None:
    good = tar({"a.png": png(1), "a.txt": "x"})
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as archive:
        for name, data in (("a.png", png(2)), ("a.txt", b"x"), ("a.png", png(3)), ("b.png", png(4)), ("b.txt", b"y")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    put(tmp_path, {"0.tar": good, "1.tar": b"", "2.tar": b"no tar " * 200, "3.tar": twice.getvalue()})
    pairs = read_pairs(tmp_path)
    assert shades(pairs) == {"0/a": 1, "3/b": 4}
    assert [id for id, _ in pairs.skipped] == ["1", "2", "3/a"]


def test_names_with_more_dots_in_tars(tmp_path: Path) -> None:
    members = {"v 2.5.0.jpg": png(1), "v 2.5.0.txt": "x", "v 2.5.1.jpg": png(2), "v 2.5.1.txt": "y"}
    put(
        tmp_path,
        {"s.tar": tar({**members, "k.image.png": png(3), "k.caption.txt": "z", "l.JFIF": png(4), "l.text": "w"})},
    )
    pairs = read_pairs(tmp_path / "s.tar")
    assert shades(pairs) == {"s/v 2.5.0": 1, "s/v 2.5.1": 2, "s/k": 3, "s/l": 4}
    assert pairs.captions["caption"].to_pylist() == ["x", "y", "z", "w"]


def test_a_table_beside_images_without_captions_is_pointed_at(tmp_path: Path) -> None:
    put(tmp_path, {"Images/a.jpg": png(1), "captions.txt": "image,caption\na.jpg,x\n"})
    with pytest.raises(InputError, match=r"If captions\.txt holds them, name that file"):
        read_pairs(tmp_path)
    assert shades(read_pairs(tmp_path, captions="optional")) == {"Images/a.jpg": 1}
    assert shades(read_pairs(tmp_path / "captions.txt")) == {"a.jpg": 1}


def test_an_empty_tar_is_said(tmp_path: Path) -> None:
    put(tmp_path, {"0.tar": tar({"a.png": png(1), "a.txt": "x"}), "1.tar": tar({})})
    pairs = read_pairs(tmp_path)
    assert shades(pairs) == {"0/a": 1}
    assert f"{tmp_path / '1.tar'}: holds no samples." in pairs.notes
