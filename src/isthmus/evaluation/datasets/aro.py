"""ARO (Yuksekgonul et al. 2023, arXiv:2210.01936)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from isthmus.errors import InputError
from isthmus.evaluation.datasets.aro_symmetric import symmetric_relations
from isthmus.evaluation.datasets.questions import (
    NONE,
    Files,
    Question,
    Questions,
    choice,
    image_folder,
    json_rows,
    options,
)

RARE = 25  # ARO leaves out pairs of attributes with fewer questions when it averages over them


def read_aro(root: str | Path, images: str | Path | None = None) -> Questions:
    """ARO: `visual_genome_relation.json`, `visual_genome_attribution.json` (beside `images/`, cut to each row's box),
    `coco_order.json` and `flickr30k_order.json`.

    Relations are scored twice: all, and as ARO's published mean has them, without the 157 that are symmetric
    (`vg_relation_directed`).

    ARO draws its shuffled captions anew on every run. A fixed draw of theirs is what is read here: a list of
    `{"image", "caption_options"}` (the first is right), as `json.dump(COCO_Order(…).test_cases, file)` writes it.
    """
    root = Path(root)
    questions: Questions = {}
    for name, category in (("relation", "relation_name"), ("attribution", "attributes")):
        file = root / f"visual_genome_{name}.json"
        if file.is_file():
            files = Files(image_folder(root, images, ("images",)))
            rows = enumerate(json_rows(file))
            found = [_visual_genome(files, row, f"{file}: row {i}", category) for i, row in rows]
            questions[f"vg_{name}"] = _without_rare(found) if name == "attribution" else found
            if name == "relation" and (directed := [q for q in found if q.category not in symmetric_relations()]):
                questions["vg_relation_directed"] = directed
    for name, folders in (("coco", ("coco", "images", ".")), ("flickr30k", ("flickr30k", "images", "."))):
        file = root / f"{name}_order.json"
        if file.is_file():
            files = Files(image_folder(root, images, folders))
            questions[f"{name}_order"] = [
                options(files, row, "image", f"{file}: row {i}", "order") for i, row in enumerate(json_rows(file))
            ]
    if not questions:
        names = "visual_genome_relation.json, visual_genome_attribution.json, coco_order.json, flickr30k_order.json"
        raise InputError(f"{root}: none of ARO's files ({names}).")
    return questions


def _visual_genome(files: Files, row: Mapping[str, Any], place: str, category: str) -> Question:
    named = row.get(category)
    kind = "_".join(map(str, named)) if isinstance(named, list) else str(named or "all")
    box = tuple(row.get(f"bbox_{key}") for key in "xywh")
    if not all(isinstance(value, int | float) for value in box):
        raise InputError(f"{place}: no box (bbox_x, bbox_y, bbox_w, bbox_h).")
    cut = (int(box[0]), int(box[1]), int(box[2]), int(box[3]))  # type: ignore[arg-type]
    return choice(files, row, ("image_path", "true_caption", "false_caption"), place, kind, cut)


def _without_rare(questions: list[Question]) -> list[Question]:
    counts = Counter(question.category for question in questions)
    return [q if counts[q.category] >= RARE else replace(q, category=NONE) for q in questions]
