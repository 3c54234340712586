"""SugarCrepe (Hsieh et al. 2023, arXiv:2306.14610)."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.questions import Files, Questions, choice, image_folder
from isthmus.files import read_json


def read_sugarcrepe(root: str | Path, images: str | Path | None = None) -> Questions:
    """SugarCrepe (and its like): one JSON per category, `{"0": {"filename", "caption", "negative_caption"}, …}`.

    The files are in the folder itself or in `data/`, the images (COCO's val2017) in `images`, `val2017/` or `images/`.
    """
    root = Path(root)
    found = [file for folder in (root, root / "data") for file in sorted(folder.glob("*.json"))]
    if not found:
        raise InputError(f"{root}: no JSON files of SugarCrepe (add_att.json, swap_obj.json, …), nor in data/.")
    files = Files(image_folder(root, images, ("val2017", "images/val2017", "images")))
    questions: Questions = {}
    for file in found:
        rows = read_json(file)
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise InputError(f"{file}: expected an object of questions by number, as SugarCrepe writes them.")
        questions[f"sugar_crepe/{file.stem}"] = [
            choice(files, row, ("filename", "caption", "negative_caption"), f"{file}: {key}", file.stem)
            for key, row in rows.items()
        ]
    return questions
