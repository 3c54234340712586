"""A contact sheet: pictures in rows, a caption below each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from isthmus.errors import InputError, UsageError

WHITE, FRAME, INK, GREY = (255, 255, 255), (222, 222, 222), (20, 20, 20), (95, 95, 95)


def check_image_name(path: str | Path) -> None:
    """UsageError for a path without the ending of an image file."""
    if Path(path).suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"{path}: not a name of an image file; try {Path(path).with_suffix('.png')}.")


def contact_sheet(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    title: str = "",
    *,
    columns: int = 5,
    size: int = 180,
    fill: bool = False,
) -> Image.Image:
    """Thumbnails on white with a caption of at most two lines below each, in rows of `columns`.

    images: n PIL pictures, fitted whole into squares of `size` pixels, transparency on white. captions: n
    strings (a line break separates the two lines), cut with an ellipsis where they do not fit. fill: enlarge small
    pictures to their square. Returns an RGB image. Raises InputError for no images or another number of captions,
    UsageError for columns < 1.
    """
    if not images or len(images) != len(captions):
        raise InputError(f"A contact sheet needs images with a caption each: {len(images)}, {len(captions)}.")
    if columns < 1 or size < 16:
        raise UsageError(f"columns={columns}, size={size}: at least 1 column, and 16 pixels a picture.")
    columns = min(columns, len(images))
    small, large = font(max(10, size // 14)), font(max(13, size // 10))
    margin, inset, line = max(4, size // 15), 1 + size // 40, line_height(small)
    head = margin + (line_height(large) + margin if title else 0)
    cell_width, cell_height = size + margin, size + 2 * line + 2 * margin
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (margin + columns * cell_width, head + rows * cell_height), WHITE)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((margin, margin), _elide(title, sheet.width - 2 * margin, large), INK, font=large)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = margin + i % columns * cell_width, head + i // columns * cell_height
        draw.rectangle((left, top, left + size - 1, top + size - 1), outline=FRAME)
        sheet.paste(_fitted(image, size - 2 * inset, fill), (left + inset, top + inset))
        for n, text in enumerate(_two_lines(caption, size, small)):
            draw.text((left, top + size + margin // 3 + n * line), text, GREY, font=small)
    return sheet


def _fitted(image: Image.Image, size: int, fill: bool) -> Image.Image:
    """The whole picture, centred on a white square of `size` pixels; fill: small ones are enlarged."""
    picture = image.convert("RGBA")
    if fill and max(picture.size) < size:
        picture = ImageOps.contain(picture, (size, size), Image.Resampling.BICUBIC)
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), WHITE)
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2), picture)
    return square


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans where it is installed: Pillow's own font has no accents, Greek or Cyrillic."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return round(1.25 * font.getbbox("Ág|")[3])


def _elide(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`text` on one line, cut with an ellipsis to fit `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text[:width]) <= width and len(text) <= width:
        return text
    text = text[:width]  # a character takes at least a pixel, which bounds the work for long texts
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _two_lines(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """At most two lines: those of the text itself, otherwise broken after the last word that fits."""
    first, _, rest = text.strip().partition("\n")
    if not rest:
        words = first[: 4 * width].split()
        fits = max(1, len(words))
        while fits > 1 and font.getlength(" ".join(words[:fits])) > width:
            fits -= 1
        first, rest = " ".join(words[:fits]), " ".join(words[fits:])
    return [_elide(line, width, font) for line in (first, rest) if line]
