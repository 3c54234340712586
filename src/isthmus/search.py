"""The nearest items of an embedding, exactly, and a contact sheet to look at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from isthmus.errors import InputError, UsageError
from isthmus.evaluation.scores import cosine, same_width, tiles, unit_rows

INDEX_MASK = 0xFFFFFFFF
QUERIES_AT_ONCE = 1024

WHITE, FRAME, INK, GREY = (255, 255, 255), (222, 222, 222), (20, 20, 20), (95, 95, 95)


def top_k(
    query_emb: np.ndarray | torch.Tensor, emb: np.ndarray | torch.Tensor, k: int, tile: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `emb` with the greatest cosine, best first; of equal ones the lower row comes first.

    query_emb: [q, d], emb: [n, d]; any float dtype, normalised or not; `emb` may be memory-mapped, it is read
    `tile` rows at a time and never copied whole. Returns (scores float32 [q, k], index int64 [q, k]), with
    k = n where fewer than k rows exist. Raises InputError for rows without direction or widths that differ,
    UsageError for k < 1.
    """
    if k < 1:
        raise UsageError(f"k={k}: ask for at least one item.")
    if not len(query_emb) or not len(emb):
        raise InputError(f"Nothing to search: {len(query_emb)} queries among {len(emb)} embeddings.")
    keys = []
    for some in tiles(len(query_emb), 1, QUERIES_AT_ONCE):
        queries = unit_rows(query_emb[some], "query embeddings", first_row=some.start)
        keys.append(_top_keys(queries, emb, k, tile))
    scores, index = _unpack(torch.cat(keys))
    return scores.numpy(), index.numpy()


def _top_keys(
    queries: torch.Tensor, emb: np.ndarray | torch.Tensor, k: int, tile: int | None
) -> torch.Tensor:
    """The k greatest keys int64 [q, k], merged tile by tile: a key orders by score, then by lower index."""
    best = torch.empty(len(queries), 0, dtype=torch.int64)
    for rows in tiles(len(emb), max(queries.shape), tile):
        items = unit_rows(emb[rows], "embeddings", first_row=rows.start)
        same_width(queries, "query embeddings", items, "embeddings")
        keys = _pack(cosine(queries, items), torch.arange(rows.start, rows.stop))
        best = torch.cat([best, keys.topk(min(k, len(items))).values], dim=1)
        best = best.topk(min(k, best.shape[1])).values
    return best


def _pack(scores: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """float32 scores [q, n] and their columns [n] as one int64 each, no two alike, so that no tie is left to
    `topk`, which does not say how it breaks them: the score above, the complement of the index below."""
    return (_ordered(scores + 0.0).long() << 32) | (INDEX_MASK - index)  # + 0.0 turns −0 into 0


def _unpack(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    bits = _flip((keys >> 32).int())
    return bits.view(torch.float32), INDEX_MASK - (keys & INDEX_MASK)


def _ordered(scores: torch.Tensor) -> torch.Tensor:
    """int32 that sort as the float32 do."""
    return _flip(scores.view(torch.int32))


def _flip(bits: torch.Tensor) -> torch.Tensor:
    """Negative floats grow downwards in their bits: flip all but the sign. Its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    title: str = "",
    *,
    columns: int = 5,
    size: int = 180,
) -> Image.Image:
    """Thumbnails on white with a caption of at most two lines below each, in rows of `columns`.

    images: n PIL pictures, fitted whole into squares of `size` pixels, transparency on white. captions: n
    strings (a line break separates the two lines), cut with an ellipsis where they do not fit. Returns an RGB
    image. Raises InputError for no images or another number of captions, UsageError for columns < 1.
    """
    if not images or len(images) != len(captions):
        raise InputError(f"A contact sheet needs images with a caption each: {len(images)}, {len(captions)}.")
    if columns < 1 or size < 16:
        raise UsageError(f"columns={columns}, size={size}: at least 1 column, and 16 pixels a picture.")
    columns = min(columns, len(images))
    small, large = _font(max(10, size // 14)), _font(max(13, size // 10))
    margin, inset, line = max(4, size // 15), 1 + size // 40, _line_height(small)
    head = margin + (_line_height(large) + margin if title else 0)
    cell_width, cell_height = size + margin, size + 2 * line + 2 * margin
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (margin + columns * cell_width, head + rows * cell_height), WHITE)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin), _elide(title, sheet.width - 2 * margin, large), INK, font=large)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = margin + i % columns * cell_width, head + i // columns * cell_height
        draw.rectangle((left, top, left + size - 1, top + size - 1), outline=FRAME)
        sheet.paste(_fitted(image, size - 2 * inset), (left + inset, top + inset))
        for n, text in enumerate(_two_lines(caption, size, small)):
            draw.text((left, top + size + margin // 3 + n * line), text, GREY, font=small)
    return sheet


def _fitted(image: Image.Image, size: int) -> Image.Image:
    """The whole picture, centred on a white square of `size` pixels; small ones are not enlarged."""
    picture = image.convert("RGBA")
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), WHITE)
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2), picture)
    return square


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans where it is installed: Pillow's own font knows no accents, let alone Greek or Cyrillic."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return round(1.25 * font.getbbox("Ág|")[3])


def _elide(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`text` on one line, cut with an ellipsis to fit `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text[:width]) <= width and len(text) <= width:
        return text
    text = text[:width]  # a character takes a pixel at least: a very long text costs no more
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _two_lines(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """At most two lines: those of the text itself, else broken after the last word that fits."""
    first, _, rest = text.strip().partition("\n")
    if not rest:
        words = first[: 4 * width].split()
        fits = max(1, len(words))
        while fits > 1 and font.getlength(" ".join(words[:fits])) > width:
            fits -= 1
        first, rest = " ".join(words[:fits]), " ".join(words[fits:])
    return [_elide(line, width, font) for line in (first, rest) if line]
