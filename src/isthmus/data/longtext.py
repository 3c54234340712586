"""Sets of pictures with long captions, as their authors publish them: Urban1k, DOCCI, DCI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.data.text import json_lines, read_text
from isthmus.errors import InputError
from isthmus.files import read_json

DOCCI_SPLITS = ("test", "train", "qual_dev", "qual_test")
UNUSABLE = 2  # DCI's mask_quality: 0 is fine, 1 has a label only


def read_longtext(root: Any, *, split: str | None = None) -> Pairs:
    """Pairs from a folder in the layout of Urban1k, DOCCI or DCI, or from whatever `read_pairs` reads.

    - Urban1k: `image/NAME.jpg` and `caption/NAME.txt`, of which the first line is the caption.
    - DOCCI: `docci_descriptions.jsonlines` (example_id, split, image_file, description) and `images/`; `split` is
      one of test (the default), train, qual_dev, qual_test.
    - DCI: `complete/*.json` and `photos/` (here or in `densely_captioned_images/`). The caption is the whole
      description as DCI's own loader puts it together: short and extra caption, then every mask's.

    Raises InputError naming file and line.
    """
    if not isinstance(root, str | Path):
        return read_pairs(root, split=split)
    root = Path(root)
    if (root / "caption").is_dir() and (root / "image").is_dir():
        return _pairs(_urban(root))
    if (root / "docci_descriptions.jsonlines").is_file():
        return _pairs(_docci(root, split or DOCCI_SPLITS[0]))
    for folder in (root, root / "densely_captioned_images"):
        if (folder / "complete").is_dir():
            return _pairs(_dci(folder))
    return read_pairs(root, split=split)


def _pairs(rows: Iterator[tuple[str, Path, str]]) -> Pairs:
    """Pairs of (id, image file, caption)."""
    ids, images, captions = zip(*rows, strict=True)
    return pairs_from_lists(images, captions, ids=ids)


def _urban(root: Path) -> Iterator[tuple[str, Path, str]]:
    files = sorted((root / "caption").glob("*.txt"))
    if not files:
        raise InputError(f"{root / 'caption'}: no captions (*.txt), as Urban1k has them.")
    for file in files:
        yield file.stem, root / "image" / f"{file.stem}.jpg", read_text(file).partition("\n")[0]


def _docci(root: Path, split: str) -> Iterator[tuple[str, Path, str]]:
    file = root / "docci_descriptions.jsonlines"
    if not (root / "images").is_dir():
        raise InputError(f"{root}: no images/ beside {file.name}. Unpack docci_images.tar.gz there.")
    found: set[str] = set()
    any_row = False
    for line, row in json_lines(file):
        try:
            found.add(row["split"])
            if row["split"] == split:
                any_row = True
                yield row["example_id"], root / "images" / row["image_file"], row["description"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{file}: line {line} is not one of DOCCI's descriptions ({error!r}).") from None
    if not any_row:
        raise InputError(f"{file}: no image of split {split!r}; splits are: {', '.join(sorted(found))}.")


def _dci(root: Path) -> Iterator[tuple[str, Path, str]]:
    files = sorted((root / "complete").glob("*.json"))
    if not files:
        raise InputError(f"{root / 'complete'}: no descriptions (*.json), as DCI has them.")
    for file in files:
        entry = read_json(file)
        try:
            yield file.stem, root / "photos" / entry["image"], _description(entry)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file}: is not one of DCI's descriptions ({error!r}).") from None


def _description(entry: dict[str, Any]) -> str:
    """As `DenseCaptionedImage.get_formatted_complete_description` words it."""
    whole = f"{entry['short_caption']}\n{entry['extra_caption']}"
    masks = [mask for mask in entry["mask_data"].values() if mask["mask_quality"] != UNUSABLE]
    parts = [m["label"] if m["mask_quality"] else f"{m['label']}: {m['caption']}" for m in masks]
    return whole + ("\nThe following can also be seen in the image:\n" + "\n".join(parts) if parts else "")
