"""Builds the demo pack from Debian's Open Clip Art packages.

    apt-get download openclipart-png openclipart-svg
    python demo/build.py --png-deb openclipart-png_*.deb --svg-deb openclipart-svg_*.deb \\
        --out demo/src/isthmus_demo/data

``--png-deb`` and ``--svg-deb`` also take folders with the unpacked packages. Needs pillow, numpy, pyarrow,
scipy and imagehash, about 6 GB of memory (two drawings are 623 megapixels each) and ten minutes. Equal
inputs and library versions give equal bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from importlib import metadata as distributions
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from captions import Metadata, caption, drawing_name, shared_texts, words
from grouping import components, look_alikes, on_white, series_key, trimmed
from labels import label
from PIL import Image, features

SIDE = 256  # longest side of a packed image, pixels
QUALITY = 80  # of WebP's lossy coder, where it is smaller than the lossless one
SMALLEST_SIDE = 16  # a longest side below this (flags of 3 x 2 pixels) shows nothing once enlarged
BLANK = 8  # a drawing on white whose darkest channel is within this of 255 everywhere shows nothing
TEST_GROUPS, VAL_GROUPS = 1500, 500
LARGEST_HELD_OUT_GROUP = 10  # larger groups train, so that no series dominates an evaluation
# Their PNGs show a sign "Linked Image Not Found"; picked by eye among the 100 drawings that link other files.
BROKEN = re.compile(
    r"stylized_yoga_person_ger_|creation_day_7_number_ge_0[14]$|tux_didier_fabert_01|duck_yellow_ii_kurt_cagl|"
    r"tsunami_warning_sign_bob_01|ukrainian_map_under_mag_01"
)
DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
RDF_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
WORK = "{http://web.resource.org/cc/}Work"
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "caption", "title")]
    + [("keywords", pa.list_(pa.string()))]
    + [(name, pa.string()) for name in ("description", "category", "label", "group", "split")]
    + [("image", pa.binary())]
)


@dataclass(frozen=True)
class Found:
    """One distinct picture: ``path`` is where it is filed most precisely, without extension."""

    path: str
    metadata: Metadata


@dataclass(frozen=True)
class Drawing(Found):
    """A picture that is packed."""

    caption: str
    series: tuple[str, ...]
    webp: bytes


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        pngs = unpack(arguments.png_deb, Path(scratch, "png")) / "usr/share/openclipart/png"
        svgs = unpack(arguments.svg_deb, Path(scratch, "svg")) / "usr/share/openclipart/svg"
        found = distinct_drawings(pngs, svgs)
        drawings, left_out = pack(found, pngs)
        counts = {
            "files": sum(1 for _ in pngs.rglob("*.png")),
            "distinct_drawings": len(found),
            "left_out": left_out,
        }
    groups = near_duplicates(drawings)
    table = to_table(drawings, groups, splits(groups))
    arguments.out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, arguments.out / "pairs.parquet", compression="zstd", row_group_size=512)
    summary = counts | summarize(table) | {"built_with": versions()}
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png-deb", type=Path, required=True, help="openclipart-png package, or its contents")
    parser.add_argument("--svg-deb", type=Path, required=True, help="openclipart-svg package, or its contents")
    parser.add_argument("--out", type=Path, required=True, help="folder of pairs.parquet and summary.json")
    return parser.parse_args()


def unpack(package: Path, into: Path) -> Path:
    """The folder with a package's contents, unpacked if it is not one already."""
    if package.is_dir():
        return package
    subprocess.run(["dpkg-deb", "-x", package, into], check=True)
    return into


def distinct_drawings(pngs: Path, svgs: Path) -> list[Found]:
    """One drawing per distinct PNG, sorted by path; copies in several folders add their keywords."""
    copies: dict[str, list[str]] = defaultdict(list)
    for png in sorted(pngs.rglob("*.png")):
        digest = hashlib.sha256(png.read_bytes()).hexdigest()
        copies[digest].append(png.relative_to(pngs).with_suffix("").as_posix())
    return sorted((merge_copies(paths, svgs) for paths in copies.values()), key=lambda found: found.path)


def merge_copies(paths: list[str], svgs: Path) -> Found:
    """The copy in the most specific folder, with the keywords of all copies after its own."""
    paths = sorted(paths, key=lambda path: (path.startswith("unsorted"), -path.count("/"), path))
    records = [read_metadata(svgs / f"{path}.svg") for path in paths]
    keywords = tuple(dict.fromkeys(keyword for record in records for keyword in record.keywords))
    return Found(paths[0], replace(records[0], keywords=keywords))


def read_metadata(svg: Path) -> Metadata:
    """Title, description, keywords and creator of an SVG's RDF block, as they stand there."""
    work = next(ElementTree.parse(svg).iter(WORK))

    def text(name: str) -> str:
        return "".join("".join(element.itertext()) for element in work.findall(DUBLIN_CORE + name)).strip()

    keywords = [item.text or "" for subject in work.iter(DUBLIN_CORE + "subject") for item in subject.iter(RDF_ITEM)]
    return Metadata(text("title"), text("description"), tuple(filter(None, keywords)), text("creator"))


def pack(everything: list[Found], pngs: Path) -> tuple[list[Drawing], dict[str, int]]:
    """The drawings worth packing, and how many were left out by reason."""
    shared = shared_texts({found.path: found.metadata for found in everything})
    drawings: list[Drawing] = []
    left_out: Counter[str] = Counter()
    for found in everything:
        path, metadata = found.path, found.metadata
        text, image = caption(path, metadata, shared), render(pngs / f"{path}.png")
        if reason := fault(path, text, image):
            left_out[reason] += 1
            continue
        name = drawing_name(path, metadata, shared)
        series = series_key(name, metadata.creator) if name else (path,)
        drawings.append(Drawing(path, metadata, text, series, to_webp(image)))
    return drawings, dict(sorted(left_out.items()))


def fault(path: str, text: str, image: Image.Image) -> str:
    """Why a drawing is left out; empty if it is not."""
    if BROKEN.search(path):
        return "linked image missing"
    if max(image.size) < SMALLEST_SIDE:
        return f"smaller than {SMALLEST_SIDE} pixels"
    if np.asarray(on_white(image)).min() >= 255 - BLANK:
        return "blank on white"
    return "" if text else "nothing honest to say"


def render(png: Path) -> Image.Image:
    """RGBA without transparent margins, longest side at most ``SIDE``; never enlarged.

    Colour is weighted by alpha while shrinking. A wholly transparent image stays as it is.
    """
    Image.MAX_IMAGE_PIXELS = None  # the collection is trusted, and 14 of its files exceed Pillow's cap
    with Image.open(png) as opened:
        image = opened.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    scale = SIDE / max(image.size)
    if scale >= 1:
        return image
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def to_webp(image: Image.Image) -> bytes:
    """WebP with exact alpha: lossless where that is no larger than lossy."""
    return min((encode(image, lossless=True), encode(image, quality=QUALITY, alpha_quality=100)), key=len)


def encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", method=4, **options)
    return buffer.getvalue()


def read_webp(webp: bytes) -> Image.Image:
    return Image.open(io.BytesIO(webp)).convert("RGBA")


def near_duplicates(drawings: list[Drawing]) -> list[str]:
    """The group of every drawing: the id of the group's first member."""
    pairs = look_alikes([trimmed(read_webp(drawing.webp)) for drawing in drawings])
    captions = [" ".join(words(drawing.caption)) for drawing in drawings]
    firsts = components(len(drawings), pairs, [captions, [drawing.series for drawing in drawings]])
    return [drawings[first].path for first in firsts]


def splits(groups: list[str]) -> list[str]:
    """Each row's split: small groups by hash, first test, then val; the rest and large groups train."""
    sizes = Counter(groups)
    small = [group for group, size in sizes.items() if size <= LARGEST_HELD_OUT_GROUP]
    order = sorted(small, key=lambda group: hashlib.sha256(group.encode()).digest())
    test, val = set(order[:TEST_GROUPS]), set(order[TEST_GROUPS : TEST_GROUPS + VAL_GROUPS])
    return ["test" if group in test else "val" if group in val else "train" for group in groups]


def to_table(drawings: list[Drawing], groups: list[str], split: list[str]) -> pa.Table:
    rows = [
        {
            "id": drawing.path,
            "caption": drawing.caption,
            "title": drawing.metadata.title,
            "keywords": list(drawing.metadata.keywords),
            "description": drawing.metadata.description,
            "category": drawing.path.split("/")[0],
            "label": label(drawing.path),
            "group": groups[row],
            "split": split[row],
            "image": drawing.webp,
        }
        for row, drawing in enumerate(drawings)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def summarize(table: pa.Table) -> dict[str, object]:
    """The numbers the README quotes."""
    rows = table.drop_columns("image").to_pylist()
    sizes = Counter(row["group"] for row in rows)
    names = {row["label"] for row in rows} - {None}
    train = [row["caption"] for row in rows if row["split"] == "train"]
    return {
        "drawings": len(rows),
        "with_transparency": sum(has_transparency(image.as_py()) for image in table["image"]),
        "image_megabytes": round(sum(len(image.as_py()) for image in table["image"]) / 1e6, 2),
        "captions": len({row["caption"] for row in rows}),
        "groups": len(sizes),
        "group_sizes": {str(size): count for size, count in sorted(Counter(sizes.values()).items())},
        "largest_groups": dict(sizes.most_common(10)),
        "splits": {name: split_counts(rows, name) for name in ("train", "val", "test")},
        "train_captions_with_a_label_word": round(sum(holds_label(text, names) for text in train) / len(train), 4),
        "labels": dict(sorted(Counter(row["label"] for row in rows if row["label"]).items())),
        "unlabelled": sum(row["label"] is None for row in rows),
    }


def split_counts(rows: list[dict[str, str]], split: str) -> dict[str, int]:
    inside = [row for row in rows if row["split"] == split]
    return {
        "drawings": len(inside),
        "groups": len({row["group"] for row in inside}),
        "labelled": sum(row["label"] is not None for row in inside),
    }


def holds_label(text: str, names: set[str]) -> bool:
    """Whether a caption holds every word of some label (a plural counts)."""
    found = {word.removesuffix("s") for word in words(text)}
    return any({word.removesuffix("s") for word in words(name)} <= found for name in names)


def versions() -> dict[str, str | None]:
    """What affects the bytes of the pack besides its input."""
    libraries = ("pillow", "numpy", "scipy", "imagehash", "pyarrow")
    return {name: distributions.version(name) for name in libraries} | {"libwebp": features.version("webp")}


def has_transparency(webp: bytes) -> bool:
    return bool(np.asarray(read_webp(webp))[..., 3].min() < 255)


if __name__ == "__main__":
    main()
