"""MMVP-VLM (Tong et al. 2024, arXiv:2401.06209)."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import InputError
from isthmus.evaluation.datasets.questions import Files, Question, Questions, csv_rows, find_file, image_folder

MMVP_PROMPT = "a photo of "  # put before every statement by MMVP's own evaluation, and by SAIL's


def read_mmvp(root: str | Path, images: str | Path | None = None) -> Questions:
    """MMVP-VLM: `Questions.csv` (Question ID, Type, Statement; two lines a pair) beside `MLLM_VLM Images/Type/ID.jpg`.

    The statement stands behind "a photo of ", as in MMVP's own evaluation. The category is the first line's Type.
    """
    root = Path(root)
    file = find_file(root, ("Questions.csv",), "MMVP-VLM's questions")
    files = Files(image_folder(root, images, ("MLLM_VLM Images", "MLLM_VLM_Images")))
    rows = list(csv_rows(file, ("Question ID", "Type", "Statement")))
    if len(rows) % 2:
        raise InputError(f"{file}: the last line has no partner: statements come in pairs, one for each of two images.")
    questions = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        kind, ids = first["Type"], [first["Question ID"], second["Question ID"]]
        pictures = tuple(files.picture(f"{kind}/{id}.jpg") for id in ids)
        captions = tuple(MMVP_PROMPT + row["Statement"] for row in (first, second))
        questions.append(Question("-".join(ids), pictures, captions, kind, "-".join(ids)))
    return {"mmvp": questions}
