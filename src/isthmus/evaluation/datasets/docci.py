"""DOCCI (Onoe et al. 2024, arXiv:2404.19753): pictures with long descriptions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isthmus.data.text import json_lines
from isthmus.errors import InputError

DEFAULT = "test"


def read_docci(root: Path, split: str | None = None) -> Iterator[tuple[str, Path, str]]:
    """`docci_descriptions.jsonlines` (example_id, split, image_file, description) and `images/`.

    split: one of test (the default), train, qual_dev, qual_test.
    """
    split = split or DEFAULT
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
            raise InputError(f"{file}: line {line} is not a description in DOCCI's format ({error!r}).") from None
    if not any_row:
        raise InputError(f"{file}: no image of split {split!r}; splits are: {', '.join(sorted(found))}.")
