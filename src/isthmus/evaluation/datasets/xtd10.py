"""XTD-10 (Aggarwal and Kale 2020, arXiv:2012.05107): a thousand images of COCO 2014 in eleven languages."""

from __future__ import annotations

from pathlib import Path

from isthmus.data.text import read_lines
from isthmus.errors import InputError
from isthmus.evaluation.datasets.languages import CaptionsByLanguage, add_captions, iso

FOLDERS = ("XTD10", "MIC", "STAIR", ".")  # where the captions of its eleven languages come from
IMAGES = ("images", "val2014", "train2014", ".")


def read_xtd10(root: Path, split: str | None = None) -> CaptionsByLanguage | None:
    """The repository (`XTD10/`, `MIC/`, `STAIR/`, each with `test_1kcaptions_LANG.txt`) and `test_image_names.txt`, one
    image a line. None where there is no such file.
    """
    index = [file for pattern in ("", "*/") for file in sorted(root.glob(f"{pattern}test_image_names.txt"))]
    if not index:
        return None
    names_file = index[0]
    names = read_lines(names_file)
    captions: CaptionsByLanguage = {name: {} for name in names}
    files = [file for folder in FOLDERS for file in sorted((root / folder).glob("test_1kcaptions_*.txt"))]
    if not files:
        raise InputError(f"{root}: no test_1kcaptions_LANG.txt in {', '.join(FOLDERS[:-1])} or here.")
    for file in files:
        add_captions(captions, names, iso(file.stem.rpartition("_")[2]), read_lines(file), f"{file}", names_file)
    return captions
