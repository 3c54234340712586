"""What's Up (Kamath et al. 2023, arXiv:2310.19785)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isthmus.errors import InputError
from isthmus.evaluation.datasets.questions import Files, Question, Questions, image_folder, json_rows, options, texts


def read_whatsup(root: str | Path, images: str | Path | None = None) -> Questions:
    """What's Up: `controlled_images_dataset.json`, `controlled_clevr_dataset.json` (photographs of two objects in
    four relations) and `coco_qa_{one,two}_obj.json`, `vg_qa_{one,two}_obj.json`.

    Of the controlled images, `pair` (a relation and its opposite) and `set` (all four) are scored too.
    """
    root = Path(root)
    questions: Questions = {}
    for name in ("controlled_images", "controlled_clevr"):
        file = root / f"{name}_dataset.json"
        if file.is_file():
            files = Files(image_folder(root, images, (name,)))
            questions[name] = [_controlled(files, row, f"{file}: row {i}") for i, row in enumerate(json_rows(file))]
    for name, folder in (("coco_qa", "val2017"), ("vg_qa", "vg_images")):
        for objects in ("one_obj", "two_obj"):
            file = root / f"{name}_{objects}.json"
            if file.is_file():
                files = Files(image_folder(root, images, (folder,)))
                rows = enumerate(json_rows(file, list))
                questions[f"{name}_{objects}"] = [
                    _triple(files, row, f"{file}: row {i}", padded=name == "coco_qa") for i, row in rows
                ]
    if not questions:
        raise InputError(
            f"{root}: none of What's Up's files (controlled_images_dataset.json, coco_qa_two_obj.json, …)."
        )
    return questions


def _controlled(files: Files, row: Mapping[str, Any], place: str) -> Question:
    """`…/mug_left_of_table.jpeg`: object, relation, object. Paths are kept by their last part."""
    (path,) = texts(row, ("image_path",), place)
    name = path.rsplit("/", 1)[-1]
    question = options(files, {**row, "image_path": name}, "image_path", place, "")
    words = name.rsplit(".", 1)[0].split("_")
    if len(words) < 3:
        raise InputError(f"{place}: {name!r} does not name object_relation_object.")
    objects, relation = f"{words[0]} {words[-1]}", "_".join(words[1:-1])
    axis = "sideways" if words[1] in ("left", "right") else "other"
    within = (("pair", f"{objects} {axis}"), ("set", objects))
    return Question(place, question.images, question.captions, relation, objects, within)


def _triple(files: Files, row: Sequence[Any], place: str, padded: bool) -> Question:
    """`[image number, right caption, wrong caption]`; the category is the caption's relation."""
    if len(row) != 3 or not all(isinstance(caption, str) and caption for caption in row[1:]):
        raise InputError(f"{place}: expected [image, right caption, wrong caption].")
    number = str(row[0]).zfill(12) if padded else str(row[0])
    text = row[1]
    relations = ("left of", "right of", "above", "below", "front of", "behind", "on top of")
    kind = next((relation for relation in relations if relation in text), text.rstrip(".").split()[-1])
    return Question(place, (files.picture(f"{number}.jpg"),), tuple(row[1:]), kind, number)
