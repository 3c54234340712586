"""JSON: lines of objects, lists of them (LAVIS, BLIP), and the captions of COCO and of Karpathy's splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isthmus.data.gathering import Gathered, GatheredRow
from isthmus.data.sources import Folders
from isthmus.data.text import json_lines, read_json_strictly
from isthmus.errors import InputError


def read_json_lines(path: Path, into: Gathered) -> None:
    """JSON Lines: one object per line. The file is read twice, because its columns are known only at its end."""
    _read(path, "line", lambda: json_lines(path), into, into.places(path))


def read_json_file(path: Path, into: Gathered) -> None:
    """A JSON file: a list of objects with image and caption, COCO's captions, Karpathy's split, or {image: captions}.

    Images are searched in the folder that the user names, otherwise beside the file and where data sets usually keep
    them. Raises `InputError` for JSON of another kind.
    """
    found = read_json_strictly(path)
    if isinstance(found, dict):
        found = _from_object(path, found)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise InputError(f"{path}: expected a list of objects with image and caption, or COCO's or Karpathy's JSON.")
    rows: list[GatheredRow] = [_conversed(row) for row in found]
    _read(path, "entry", lambda: enumerate(rows), into, into.places(path, by_name=True))


def _read(path: Path, word: str, records: Callable[[], Any], into: Gathered, folders: Folders) -> None:
    names: dict[str, None] = {}
    for _, record in records():
        names.update(dict.fromkeys(record))
    if not names:
        raise InputError(f"{path}: the table is empty.")
    columns, remarks = into.find_columns(path, list(names))
    into.notes += remarks
    into.rows(f"{path}: {word}", ((number, into.fields(record, columns)) for number, record in records()), folders)


def _from_object(path: Path, found: GatheredRow) -> Any:
    """The rows inside an object."""
    images, annotations = found.get("images"), found.get("annotations")
    if isinstance(images, list) and isinstance(annotations, list):
        return list(_coco(path, images, annotations))
    if isinstance(images, list) and all(isinstance(image, dict) and "sentences" in image for image in images):
        return [_karpathy(path, number, image) for number, image in enumerate(images)]
    for key in ("data", "annotations", "images"):
        if isinstance(found.get(key), list):
            return found[key]
    if found and all(isinstance(value, str | list) for value in found.values()):
        return [
            {"image": image, "captions": [said] if isinstance(said, str) else said} for image, said in found.items()
        ]
    return None


def _coco(path: Path, images: list[Any], annotations: list[Any]) -> Iterator[GatheredRow]:
    """COCO's captions: image and caption are joined by the image's id."""
    captions: dict[Any, list[Any]] = {}
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict) or "image_id" not in annotation:
            raise InputError(f"{path}: annotation {number} names no image_id.")
        captions.setdefault(annotation["image_id"], []).append(annotation.get("caption"))
    if annotations and all(caption is None for several in captions.values() for caption in several):
        raise InputError(f"{path}: its annotations are no captions (boxes or masks?). Use captions_….json.")
    for number, image in enumerate(images):
        if not isinstance(image, dict) or "file_name" not in image or "id" not in image:
            raise InputError(f"{path}: image {number} has no id and file_name.")
        yield {"image": image["file_name"], "captions": captions.get(image["id"], [])}


def _karpathy(path: Path, number: int, image: GatheredRow) -> GatheredRow:
    """Karpathy's split of Flickr8k, Flickr30k or COCO: `filepath` (a folder, COCO's alone), `filename`, `sentences`."""
    name = image.get("filename")
    if not isinstance(name, str) or not isinstance(image["sentences"], list):
        raise InputError(f"{path}: image {number} has no filename, or no list of sentences.")
    folder = image.get("filepath")
    row = {"image": f"{folder}/{name}" if folder else name, "captions": image["sentences"]}
    return row | ({"split": image["split"]} if "split" in image else {})


def _conversed(row: GatheredRow) -> GatheredRow:
    """LLaVA's rows: the caption is the first answer."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or "caption" in row:
        return row
    said = [turn for turn in turns if isinstance(turn, dict) and turn.get("from") in ("gpt", "assistant")]
    others = {name: value for name, value in row.items() if name != "conversations"}
    return others | {"caption": said[0].get("value") if said else None}
