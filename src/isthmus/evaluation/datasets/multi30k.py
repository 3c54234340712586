"""Multi30k (Elliott et al. 2016, arXiv:1605.00459): Flickr30k in English, German, French and Czech."""

from __future__ import annotations

from pathlib import Path

from isthmus.data.text import read_lines
from isthmus.errors import InputError
from isthmus.evaluation.datasets.languages import CaptionsByLanguage, add_captions, iso

SPLIT = "test_2016_flickr"
IMAGES = ("images", "flickr30k-images", ".")


def read_multi30k(root: Path, split: str | None = None) -> CaptionsByLanguage | None:
    """The repository (`data/task1/raw/SPLIT.LANG.gz`, `data/task1/image_splits/SPLIT.txt`); None where it is not.

    split: one of its own; default `SPLIT`.
    """
    task, split = root / "data" / "task1", split or SPLIT
    if not (task / "raw").is_dir():
        return None
    names_file = task / "image_splits" / f"{split}.txt"
    if not names_file.is_file():
        known = ", ".join(sorted(file.stem for file in names_file.parent.glob("*.txt")))
        raise InputError(f"{names_file}: no such file; splits are: {known or 'none'}.")
    names = [line.split("#")[0] for line in read_lines(names_file)]
    captions: CaptionsByLanguage = {name: {} for name in names}
    for file in sorted((task / "raw").glob(f"{split}.*")):
        lang = file.name.removesuffix(".gz").rpartition(".")[2]
        add_captions(captions, names, iso(lang), read_lines(file), f"{file}", names_file)
    return captions
