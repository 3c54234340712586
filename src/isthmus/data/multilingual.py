"""Captions in several languages, as their authors publish them: XTD-10, Multi30k, XM3600."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.data.text import json_lines, read_lines
from isthmus.errors import InputError

ISO = {"jp": "ja", "cz": "cs"}  # as two sets write them
XTD_FOLDERS = ("XTD10", "MIC", "STAIR", ".")  # where the captions of its eleven languages come from
MULTI30K_SPLIT = "test_2016_flickr"

Captions = dict[str, dict[str, list[str]]]  # image -> language -> captions


def read_multilingual(root: Any, *, images: str | Path | None = None, split: str | None = None) -> Pairs:
    """Pairs whose captions carry a `lang`, from a folder in the layout of a set, or from whatever `read_pairs` reads.

    - XTD-10: the repository (`XTD10/`, `MIC/`, `STAIR/`, each with `test_1kcaptions_LANG.txt`) and
      `test_image_names.txt`, one image a line; images of COCO 2014 in `images`, `images/`, `val2014/`, `train2014/`.
    - Multi30k: the repository (`data/task1/raw/SPLIT.LANG.gz`, `data/task1/image_splits/SPLIT.txt`); `split` is one of
      its own, test_2016_flickr by default; images in `images`, `images/` or `flickr30k-images/`.
    - XM3600: `captions.jsonl` (image/key, and per language a list `caption`) beside `images/KEY.jpg`.

    Languages are named by ISO codes (XTD-10's jp is ja). Raises InputError naming file and line.
    """
    if not isinstance(root, str | Path):
        return read_pairs(root, split=split, captions="optional", images=images)
    root = Path(root)
    index = [file for pattern in ("", "*/") for file in sorted(root.glob(f"{pattern}test_image_names.txt"))]
    if index:
        return _pairs(_xtd(root, index[0]), _folders(root, images, ("images", "val2014", "train2014", ".")))
    if (root / "data" / "task1" / "raw").is_dir():
        captions = _multi30k(root / "data" / "task1", split or MULTI30K_SPLIT)
        return _pairs(captions, _folders(root, images, ("images", "flickr30k-images", ".")))
    if (root / "captions.jsonl").is_file():
        return _pairs(_xm3600(root / "captions.jsonl"), _folders(root, images, ("images", ".")))
    return read_pairs(root, split=split, captions="optional", images=images)


def _pairs(captions: Captions, folders: Sequence[Path]) -> Pairs:
    """The images, wherever in `folders` they are, with every caption and its language."""
    paths = [next((f / name for f in folders if (f / name).is_file()), folders[0] / name) for name in captions]
    texts = [[text for several in of.values() for text in several] for of in captions.values()]
    langs = [[lang for lang, several in of.items() for _ in several] for of in captions.values()]
    return pairs_from_lists(paths, texts, ids=list(captions), langs=langs)


def _xtd(root: Path, names_file: Path) -> Captions:
    names = read_lines(names_file)
    captions: Captions = {name: {} for name in names}
    files = [file for folder in XTD_FOLDERS for file in sorted((root / folder).glob("test_1kcaptions_*.txt"))]
    if not files:
        raise InputError(f"{root}: no test_1kcaptions_LANG.txt in {', '.join(XTD_FOLDERS[:-1])} or here.")
    for file in files:
        _add(captions, names, _code(file.stem.rpartition("_")[2]), read_lines(file), f"{file}", names_file)
    return captions


def _multi30k(task: Path, split: str) -> Captions:
    names_file = task / "image_splits" / f"{split}.txt"
    if not names_file.is_file():
        known = ", ".join(sorted(file.stem for file in names_file.parent.glob("*.txt")))
        raise InputError(f"{names_file}: no such file; splits are: {known or 'none'}.")
    names = [line.split("#")[0] for line in read_lines(names_file)]
    captions: Captions = {name: {} for name in names}
    for file in sorted((task / "raw").glob(f"{split}.*")):
        lang = file.name.removesuffix(".gz").rpartition(".")[2]
        _add(captions, names, _code(lang), read_lines(file), f"{file}", names_file)
    return captions


def _xm3600(file: Path) -> Captions:
    captions: Captions = {}
    for line, row in json_lines(file):
        try:
            said = {lang: value["caption"] for lang, value in row.items() if isinstance(value, dict)}
            captions[f"{row['image/key']}.jpg"] = {_code(lang): list(texts) for lang, texts in said.items() if texts}
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: line {line} is not a row of XM3600 ({error!r}).") from None
    return captions


def _add(captions: Captions, names: list[str], lang: str, texts: list[str], place: str, names_file: Path) -> None:
    if len(texts) != len(names):
        raise InputError(f"{place}: {len(texts):,} captions for the {len(names):,} images of {names_file}.")
    for name, text in zip(names, texts, strict=True):
        captions[name].setdefault(lang, []).append(text)


def _code(lang: str) -> str:
    return ISO.get(lang, lang)


def _folders(root: Path, given: str | Path | None, names: Sequence[str]) -> list[Path]:
    return [Path(given)] if given is not None else [root / name for name in names if (root / name).is_dir()]
