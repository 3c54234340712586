"""Emoji as captioned pictures, from Debian's packages: no data hub is asked.

    python benchmarks/emoji.py out/emoji                  # out/emoji/emoji.parquet, about 1,900 pictures
    python benchmarks/emoji.py out/emoji --duplicates     # what `--dedup phash` merges, how copies differ

Pictures of 128 pixels: Noto Color Emoji (`fonts-noto-color-emoji`, OFL-1.1). Captions: the names and keywords of
Unicode's CLDR (`unicode-cldr-core`). Labels: the subgroups of `emoji-test.txt` (`unicode-data`). `apt-get download`
fetches the three into the folder; nothing is installed. Skin tones are left out. Emoji that differ in a person's gender
or hair are one group, and a group is in one split.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

import isthmus as ist
from isthmus.curation.collection import DETAIL, Collection
from isthmus.curation.duplicates import find_duplicates
from isthmus.curation.near_duplicates import local_difference

PACKAGES = ("fonts-noto-color-emoji", "unicode-cldr-core", "unicode-data")
FONT, FONT_SIZE, SIDE = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", 109, (136, 128)  # the font's one size
ANNOTATIONS = "usr/share/unicode/cldr/common/annotations{}/en.xml"
NAMES = "usr/share/unicode/emoji/emoji-test.txt"
TONES, VARIANT = "🏻🏼🏽🏾🏿", "\N{VARIATION SELECTOR-16}"
PEOPLE = re.compile(r"\b(person|man|woman|men|women|boy|girl|people|blond|red|curly|white|bald|hair|beard|:|,)\b *")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--duplicates", action="store_true")
    options = parser.parse_args()
    path = build(options.out)
    print(path)
    if options.duplicates:
        tell_duplicates(path)


def tell_duplicates(path: Path) -> None:
    """Print the groups of both ways to compare looks, and the greatest difference of copies (levels of 255)."""
    pairs = ist.read_pairs(path)
    captions, every = pairs.captions["caption"].to_pylist(), np.arange(len(pairs))
    seen = Collection("emoji", pairs.images["id"].to_pylist(), every, captions, pictures=pairs)
    for method in ("phash-loose", "phash"):
        groups = find_duplicates(seen, every, [method])
        print(f"{method}: {len(groups.members())} groups, {len(groups.doubtful)} doubtful pairs")
    print("\n".join(" = ".join(captions[row] for row in part) for part in groups.members()))
    apart = np.array([local_difference(seen.detail(a), seen.detail(b)) for a, b, _ in groups.doubtful])
    print("doubtful pairs differ by at least", apart.min(axis=0).round(1))
    for name, kind, side in (("JPEG, quality 75", "JPEG", 128), ("WebP", "WEBP", 128), ("72 pixels", "PNG", 72)):
        differences = []
        for row in every[::6].tolist():
            file, picture = io.BytesIO(), pairs.decode(row)
            picture.resize((side, side)).save(file, kind, quality=75)
            copy = np.asarray(Image.open(file).convert("RGB").resize((DETAIL, DETAIL), Image.Resampling.BOX))
            differences.append(local_difference(seen.detail(row), copy.astype(np.int16)))
        print(f"copies ({name}) differ by at most", np.max(differences, axis=0).round(1))


def build(root: Path) -> Path:
    """The table of pairs below `root`, made where it is not there."""
    path = root / "emoji.parquet"
    if path.exists():
        return path
    _unpacked(root)
    rows = list(_rows(root))
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def _unpacked(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    if not (root / NAMES).exists():
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=root, check=True)
        for package in root.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package.name, "."], cwd=root, check=True)


def _rows(root: Path) -> Iterator[dict[str, object]]:
    font = ImageFont.truetype(root / FONT, FONT_SIZE)
    keywords = _keywords(root)
    seen = set()
    for emoji, name, label in _listed(root):
        picture = drawn(emoji, font)
        if picture in seen:  # a sequence that the font does not know is drawn as another
            continue
        seen.add(picture)
        words = [one for one in keywords.get(emoji.replace(VARIANT, ""), []) if one not in name]
        group = label if label == "family" else PEOPLE.sub("", name).strip() or name
        yield {
            "id": "-".join(f"{ord(one):x}" for one in emoji),
            "image": picture,
            "caption": ", ".join([name, *words]),
            "label": label.replace("-", " "),
            "group": group,
            "split": _split(group),
        }


def drawn(emoji: str, font: ImageFont.FreeTypeFont) -> bytes:
    """A PNG of an emoji on white."""
    image = Image.new("RGB", SIDE, "white")
    ImageDraw.Draw(image).text((0, 0), emoji, font=font, embedded_color=True)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _listed(root: Path) -> Iterator[tuple[str, str, str]]:
    """(emoji, its English name, its subgroup)."""
    label = ""
    for line in (root / NAMES).read_text(encoding="utf-8").splitlines():
        if line.startswith("# subgroup:"):
            label = line.partition(":")[2].strip()
        points, found, told = line.partition("; fully-qualified")
        if found and not any(tone in told for tone in TONES):
            yield "".join(chr(int(one, 16)) for one in points.split()), told.split(maxsplit=3)[3], label


def _keywords(root: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind in ("", "Derived"):
        for one in ElementTree.parse(root / ANNOTATIONS.format(kind)).iter("annotation"):
            if one.get("type") is None:
                found[one.get("cp", "")] = [word.strip() for word in (one.text or "").split("|")]
    return found


def _split(group: str) -> str:
    """Of ten groups six train, one validates and three test, by a hash."""
    place = hashlib.blake2b(group.encode(), digest_size=4).digest()[0] % 10
    return "test" if place < 3 else "val" if place == 3 else "train"


if __name__ == "__main__":
    main()
