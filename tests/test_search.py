"""Exact nearest items with settled ties, and the contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops, ImageFont

from isthmus.errors import InputError, UsageError
from isthmus.metrics.nearest import _pack, _unpack, top_k
from isthmus.report.contact_sheet import contact_sheet


def naive(query: np.ndarray, emb: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    query, emb = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, emb))
    scores = (query @ emb.T).astype(np.float32)
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, index, axis=1), index


@pytest.mark.parametrize("tile", [1, 7, 100, None])
def test_top_k_is_a_stable_sort_whatever_the_tile(tile):
    rng = np.random.default_rng(0)
    emb = rng.integers(-1, 2, size=(300, 3)) + 0.0  # few distinct directions: ties everywhere
    emb[(emb == 0).all(axis=1)] = 1
    query = rng.standard_normal((20, 3))
    scores, index = top_k(query, emb, 9, tile)
    expected_scores, expected = naive(query, emb, 9)
    assert np.array_equal(index, expected)
    assert scores == pytest.approx(expected_scores, abs=1e-6)
    assert (scores.dtype, index.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("width", [5, 64, 257])
def test_of_equal_items_the_lower_row_comes_first(width):
    rng = np.random.default_rng(1)
    emb = np.repeat(rng.standard_normal((1, width), dtype=np.float32), 501, axis=0)
    assert top_k(rng.standard_normal((3, width)), emb, 8)[1].tolist() == [list(range(8))] * 3


def test_an_item_finds_itself_and_more_than_there_are_gives_all():
    emb = np.random.default_rng(2).standard_normal((6, 4))
    scores, index = top_k(emb, torch.from_numpy(emb).half(), 50)
    assert index.shape == (6, 6)
    assert index[:, 0].tolist() == list(range(6))
    assert scores[:, 0] == pytest.approx(np.ones(6), abs=1e-3)


def test_many_queries_are_answered_in_blocks():
    rng = np.random.default_rng(3)
    query, emb = rng.standard_normal((2500, 4)), rng.standard_normal((40, 4))
    assert np.array_equal(top_k(query, emb, 5)[1], naive(query, emb, 5)[1])


def test_keys_sort_as_their_scores_and_give_them_back():
    scores = torch.tensor([[-1.0, -0.5, -1e-30, -0.0, 1e-30, 0.5, 1.0, 0.5, 0.0]])
    index = torch.arange(9)
    keys = _pack(scores, index)
    assert keys[0].argsort(descending=True).tolist() == [6, 5, 7, 4, 3, 8, 2, 1, 0]
    back, rows = _unpack(keys)
    assert torch.equal(back, scores)
    assert rows.tolist() == [list(range(9))]


def test_memory_mapped_embeddings_are_searched_as_they_lie(tmp_path):
    rng = np.random.default_rng(4)
    emb = rng.standard_normal((200, 8)).astype(np.float16)
    np.save(tmp_path / "emb.npy", emb)
    mapped = np.load(tmp_path / "emb.npy", mmap_mode="r", allow_pickle=False)
    query = rng.standard_normal((2, 8))
    assert np.array_equal(top_k(query, mapped, 4)[1], naive(query, emb.astype(float), 4)[1])


@pytest.mark.parametrize(
    ("query", "emb", "k", "error", "message"),
    [
        (np.ones((1, 3)), np.ones((4, 2)), 1, InputError, "3 wide, embeddings 2"),
        (np.ones((0, 3)), np.ones((4, 3)), 1, InputError, "0 queries among 4"),
        (np.ones((1, 3)), np.ones((0, 3)), 1, InputError, "1 queries among 0"),
        (np.ones((1, 3)), np.diag([1.0, 0, 1]), 1, InputError, "embeddings, row 1"),
        (np.ones((1, 3)), np.ones((4, 3)), 0, UsageError, "at least one"),
    ],
)
def test_what_cannot_be_searched_is_said(query, emb, k, error, message):
    with pytest.raises(error, match=message):
        top_k(query, emb, k)


def test_a_bad_row_is_counted_from_the_start_not_from_the_tile():
    emb = np.ones((9, 2))
    emb[7] = np.nan
    with pytest.raises(InputError, match="row 7"):
        top_k(np.ones((1, 2)), emb, 1, tile=4)


def boxes_of(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Where `colour` occurs: (left, top, right, bottom)."""
    difference = ImageChops.difference(sheet, Image.new("RGB", sheet.size, colour)).convert("L")
    return difference.point(lambda v: 255 if v == 0 else 0).getbbox()


def test_pictures_are_fitted_whole_and_keep_their_shape():
    pictures = [Image.new("RGB", (400, 100), "red"), Image.new("RGB", (50, 300), "blue")]
    sheet = contact_sheet(pictures, ["a", "b"], size=180)
    left, top, right, bottom = boxes_of(sheet, (255, 0, 0))
    assert (right - left) / (bottom - top) == pytest.approx(4, rel=0.05)
    assert right - left == 170  # the whole width within the frame
    left, top, right, bottom = boxes_of(sheet, (0, 0, 255))
    assert (bottom - top) / (right - left) == pytest.approx(6, rel=0.05)
    assert sheet.mode == "RGB"
    assert sheet.getpixel((0, 0)) == (255, 255, 255)


def test_small_pictures_are_not_enlarged_and_transparency_shows_white():
    drawing = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    drawing.paste((0, 200, 0, 255), (5, 5, 15, 15))
    sheet = contact_sheet([drawing], [""])
    left, top, right, bottom = boxes_of(sheet, (0, 200, 0))
    assert (right - left, bottom - top) == (10, 10)
    assert sheet.getpixel((left - 3, top - 3)) == (255, 255, 255)


def test_rows_fill_from_left_to_right():
    colours = [(10 * i, 200, 255 - 10 * i) for i in range(1, 8)]
    pictures = [Image.new("RGB", (64, 64), colour) for colour in colours]
    sheet = contact_sheet(pictures, list("abcdefg"), columns=3, size=64)
    corners = [boxes_of(sheet, colour)[:2] for colour in colours]
    assert len({top for _, top in corners[:3]}) == 1
    assert corners[0][0] < corners[1][0] < corners[2][0]
    assert corners[3][0] == corners[6][0] == corners[0][0]
    assert corners[0][1] < corners[3][1] < corners[6][1]


def test_long_text_stays_within_its_cell_and_costs_no_more():
    images = [Image.new("RGB", (64, 64), "white")] * 2
    short = contact_sheet(images, ["", ""], size=64)
    sheet = contact_sheet(images, ["wide " * 100_000 + "\n" + "w" * 500_000, ""], size=64)
    assert sheet.size == short.size
    written = ImageChops.difference(sheet, short).getbbox()
    assert written is not None
    assert written[2] <= sheet.width // 2


def test_a_title_adds_a_line_above():
    image = [Image.new("RGB", (64, 64), "white")]
    plain, titled = contact_sheet(image, ["a"]), contact_sheet(image, ["a"], "“an owl” " * 40)
    assert titled.width == plain.width
    assert titled.height > plain.height


def test_without_dejavu_installed_pillow_s_own_font_serves(monkeypatch):
    truetype = ImageFont.truetype

    def only_given(font, *args, **options):
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return truetype(font, *args, **options)

    monkeypatch.setattr(ImageFont, "truetype", only_given)
    image = [Image.new("RGB", (64, 64), "white")]
    sheet, empty = contact_sheet(image, ["an owl"]), contact_sheet(image, [""])
    assert sheet.size == empty.size
    assert ImageChops.difference(sheet, empty).getbbox() is not None


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "CMYK", "I;16"])
def test_any_mode_of_picture_is_shown(mode):
    assert contact_sheet([Image.new(mode, (30, 30))], ["a"]).mode == "RGB"


def test_sheets_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="caption"):
        contact_sheet([], [])
    with pytest.raises(InputError, match="1, 2"):
        contact_sheet([Image.new("RGB", (9, 9))], ["a", "b"])
    with pytest.raises(UsageError, match="columns=0"):
        contact_sheet([Image.new("RGB", (9, 9))], ["a"], columns=0)
