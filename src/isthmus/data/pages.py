"""TIFF files with several pages: one page is used, or every page becomes an image."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
from PIL import Image

from isthmus.data.budget import PICTURES, decoding_bytes
from isthmus.data.images import MAX_PIXELS, OUT_OF_MEMORY, TIFF_MAGIC, BadImage, check_size, open_image
from isthmus.data.sources import ImageSource
from isthmus.errors import UsageError

MAX_PAGES = 100_000


class Pages:
    """Images of another source, of which some are a page of a file (from 0; None: the file as it is)."""

    def __init__(self, source: Any, pages: list[tuple[int, int | None]], max_pixels: int = MAX_PIXELS) -> None:
        self.source, self.pages, self.max_pixels = source, pages, max_pixels

    def __len__(self) -> int:
        return len(self.pages)

    def read(self, index: int) -> bytes:
        inner, page = self.pages[index]
        data = self.source.read(inner)
        return data if page is None else one_page(data, page, self.max_pixels)

    def signature(self, index: int) -> str | None:
        inner, page = self.pages[index]
        known = self.source.signature(inner)
        return known if page is None else known and f"{known}:page {page}"


def with_pages(
    images: pa.Table, captions: pa.Table, reader: ImageSource, pages: str | int, max_pixels: int = MAX_PIXELS
) -> tuple[pa.Table, pa.Table, ImageSource]:
    """The tables and the source of `Pairs` with the page `pages` (from 1) of every TIFF, or, for "all", with every page
    as an image `id[page]`.

    Captions belong to all pages of their image. Every file is opened. Raises `UsageError` for anything else.
    """
    number = int(pages) if str(pages).isdigit() else 0
    if pages not in ("all", "first") and number < 1:
        raise UsageError(f"--pages {pages}: write all, first, or the number of a page, from 1.")
    rows: list[tuple[int, int | None]] = []
    names: list[str | None] = []
    for row, source in enumerate(images["source"].to_pylist()):
        count = _page_count(reader, source)
        if pages == "all" and count > 1:
            rows += [(row, page) for page in range(count)]
            names += [f"[{page + 1}]" for page in range(count)]
        else:
            rows.append((row, None if count == 1 else max(number, 1) - 1))
            names.append(None)
    taken = images.take([row for row, _ in rows])
    sources = taken["source"].to_pylist()
    old = taken["id"].to_pylist()
    new = [f"{id}{name or ''}" for id, name in zip(old, names, strict=True)]
    taken = taken.set_column(0, "id", pa.array(new, pa.string()))
    taken = taken.set_column(taken.column_names.index("source"), "source", pa.array(range(len(rows)), pa.int64()))
    paged = Pages(reader, [(source, page) for source, (_, page) in zip(sources, rows, strict=True)], max_pixels)
    return taken, _captions(captions, old, new), paged


def _captions(captions: pa.Table, old: list[str], new: list[str]) -> pa.Table:
    """The captions of images, repeated for each page."""
    pages: dict[str, list[str]] = {}
    for before, after in zip(old, new, strict=True):
        pages.setdefault(before, []).append(after)
    rows = [
        row | {"id": id, "caption_id": f"{id}#{row['caption_id'].rpartition('#')[2]}"}
        for row in captions.to_pylist()
        for id in pages[row["id"]]
    ]
    return pa.Table.from_pylist(rows, schema=captions.schema)


def _page_count(reader: ImageSource, index: int) -> int:
    try:
        data = reader.read(index)
        return min(getattr(open_image(data), "n_frames", 1), MAX_PAGES) if data[:4] in TIFF_MAGIC else 1
    except Exception:  # a damaged image shows when it is decoded
        return 1


def one_page(data: bytes, page: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """Page `page` of a TIFF as a separate TIFF, pixel for pixel. Raises `BadImage` where it is missing or huge."""
    try:
        image = open_image(data)
        image.seek(page)
        check_size(image, data, max_pixels)
        file = io.BytesIO()
        with PICTURES.taking(decoding_bytes(image)):
            Image.Image.copy(image).save(file, "TIFF", exif=_orientation(image))
        return file.getvalue()
    except BadImage:
        raise
    except MemoryError:
        raise BadImage(OUT_OF_MEMORY) from None
    except EOFError:
        raise BadImage(f"it has no page {page + 1}.") from None
    except Exception as error:  # as in `decode`
        raise BadImage(f"damaged image: {error or type(error).__name__}.") from error


def _orientation(image: Image.Image) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = image.getexif().get(0x0112, 1)
    return exif
