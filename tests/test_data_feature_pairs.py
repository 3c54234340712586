"""Features joined to ids: checks name the row, loss groups are connected components, subsets stay aligned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.groups import components, connected
from isthmus.data.matrix import Chosen, Computed, rows
from isthmus.errors import InputError
from isthmus.metrics.nearest import top_k


class Gathering:
    """A matrix that is not an array, as a store's is."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.shape = values, values.shape
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.values)

    def gather(self, index: np.ndarray) -> np.ndarray:
        self.asked.append(len(index))
        return self.values[index].astype(np.float32)


def numbered(count: int, width: int = 2) -> np.ndarray:
    """Row k holds k."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], width, axis=1)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = len(set(zip(a.tolist(), b.tolist(), strict=True)))
    return pairs == len(set(a.tolist())) == len(set(b.tolist()))


# --- components


def test_components_by_hand() -> None:
    # images 0 and 3 are equal; captions 1 (of image 1) and 2 (of image 0) are equal; image 2 stands alone
    image_group, text_group = components(
        np.array(["p", "q", "r", "p"]), np.array(["a", "b", "b", "c", "d"]), np.array([0, 1, 0, 2, 3])
    )
    assert image_group.tolist() == [0, 0, 1, 0]
    assert text_group.tolist() == [0, 0, 0, 1, 0]


def test_distinct_things_get_their_own_groups_in_order() -> None:
    image_group, text_group = components(np.arange(4), np.arange(4), np.array([2, 0, 1, 3]))
    assert image_group.tolist() == [0, 1, 2, 3]
    assert text_group.tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize("seed", range(20))
def test_components_are_those_that_a_walk_along_the_links_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, m = random.integers(1, 200, 2)
    image_keys = random.integers(0, max(1, n // 2), n)
    text_keys = random.integers(0, max(1, m), m)
    image_of = random.integers(0, n, m)
    image_group, text_group = components(image_keys, text_keys, image_of)
    links = list(zip(image_keys[image_of].tolist(), (n + text_keys).tolist(), strict=True))
    smallest = list(range(n + m + 1))
    for _ in links:
        for a, b in links:
            smallest[a] = smallest[b] = min(smallest[a], smallest[b])
    assert same_partition(image_group, np.array(smallest)[image_keys])
    assert np.array_equal(text_group, image_group[image_of])
    assert connected(n + m + 1, *np.array(links).T).tolist() == smallest


def test_a_long_chain_is_one_component() -> None:
    """Image k and image k + 1 share a caption, in a shuffled order: 50,000 links in a row."""
    n = 50_000
    image_of = np.repeat(np.arange(n), 2)
    text_keys = np.stack([np.arange(n), np.arange(1, n + 1)], axis=1).reshape(-1)
    order = np.random.default_rng(0).permutation(n)
    image_group, _ = components(np.arange(n), text_keys, order[image_of])
    assert not image_group.any()


def test_keys_may_be_rows_of_bytes() -> None:
    keys = np.array([[1, 2], [1, 3], [1, 2]], dtype=np.uint8)
    image_group, _ = components(keys, np.arange(3), np.arange(3))
    assert image_group.tolist() == [0, 1, 0]


# --- from_arrays


def test_from_arrays_fills_in_what_is_not_given() -> None:
    pairs = FeaturePairs.from_arrays(numbered(2, 3), numbered(4, 5), [1, 0, 1, 1], captions=["a", "b", "c", "b"])
    assert pairs.image_ids == ["0", "1"]
    assert pairs.caption_ids == ["1#0", "0#0", "1#1", "1#2"]
    assert (pairs.image_parts, pairs.text_parts) == ([3], [5])
    assert pairs.image_group.tolist() == [0, 0]  # the caption "b" is of both
    assert pairs.bootstrap_group.tolist() == [0, 1]
    assert len(pairs) == 2


def test_equal_images_and_user_groups_stay_together() -> None:
    pairs = FeaturePairs.from_arrays(
        numbered(5), numbered(5), groups=["a", "a", None, None, "b"], image_keys=np.array([1, 2, 2, 3, 4])
    )
    assert pairs.bootstrap_group.tolist() == [0, 0, 0, 1, 2]
    assert pairs.image_group.tolist() == [0, 1, 1, 2, 3]  # groups are no reason to share a loss group


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_row_with_nan_or_infinity_is_named(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr("isthmus.data.matrix.TILE_BYTES", 4 * 2 * 10)  # ten rows a tile
    bad = numbered(35)
    bad[23, 1] = value
    with pytest.raises(InputError, match="image features: row 23 holds NaN or infinity"):
        FeaturePairs.from_arrays(bad, numbered(35))
    with pytest.raises(InputError, match="text features: row 23 holds"):
        FeaturePairs.from_arrays(numbered(35), Gathering(bad))


def test_checks_read_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isthmus.data.matrix.TILE_BYTES", 4 * 2 * 10)
    matrix = Gathering(numbered(35))
    FeaturePairs.from_arrays(matrix, numbered(35))
    assert matrix.asked == [10, 10, 10, 5]


BAD = {
    "counts": ({"text": numbered(3)}, "4 images but 3 captions: give the image"),
    "flat": ({"image": np.zeros(4)}, r"image features must be a matrix \[n, width\], not \(4,\)"),
    "list": ({"image": [[1.0]]}, "image features must be a matrix .* not list"),
    "empty": ({"image": np.zeros((0, 2)), "text": np.zeros((0, 2))}, r"image features are empty: \[0, 2\]"),
    "strings": ({"text": np.full((4, 2), "a")}, "text features are of type <U1"),
    "out of range": ({"image_of": [0, 1, 4, 2]}, "caption 2 is of image 4, but there are 4 images"),
    "negative": ({"image_of": [0, 1, -1, 2]}, "caption 2 is of image -1"),
    "floats": ({"image_of": [0.0, 1.0, 2.0, 3.0]}, "image_of must hold row numbers"),
    "short image_of": ({"image_of": [0, 1]}, "image_of has 2 entries, but there are 4 captions"),
    "repeated ids": ({"ids": ["a", "b", "a", "c"]}, "'a' is in rows 0 and 2"),
    "short ids": ({"ids": ["a"]}, "ids has 1 entries, but there are 4 images"),
    "captions": ({"captions": ["a"]}, "captions has 1 entries, but there are 4 captions"),
    "labels": ({"labels": ["a"]}, "labels has 1 entries, but there are 4 images"),
    "parts": ({"image_parts": [1, 2]}, r"image features are 2 wide, but parts \[1, 2\] add up to 3"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_named(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises(InputError, match=message):
        FeaturePairs.from_arrays(**({"image": numbered(4), "text": numbered(4)} | arguments))


# --- rows, subsets, splits


def test_rows_of_any_matrix_are_float32(tmp_path: Path) -> None:
    values = numbered(6).astype(np.float16)
    np.save(tmp_path / "x.npy", values)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for matrix in (values, mapped, Gathering(values), Chosen(mapped, np.array([5, 4, 3, 2, 1, 0]))):
        got = rows(matrix, np.array([4, 0]))
        assert got.dtype == np.float32
        assert got[:, 0].tolist() == ([1, 5] if isinstance(matrix, Chosen) else [4, 0])


def test_rows_on_demand_are_sliced_as_arrays_are() -> None:
    values = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    index = np.array([8, 1, 1, 5])
    computed = Computed(values.shape, lambda some: 2 * values[some])
    for matrix, array in (
        (Chosen(values, index), values[index]),
        (computed, 2 * values),
        (Chosen(Chosen(computed, index), np.array([3, 0])), 2 * values[[5, 8]]),
    ):
        assert (matrix.shape, matrix.ndim, len(matrix)) == (array.shape, 2, len(array))
        for some in (slice(1, None), slice(0, 100, 2), np.array([1, 0])):
            np.testing.assert_array_equal(matrix[some], array[some])
        np.testing.assert_array_equal(top_k(values, matrix, 2, tile=2)[1], top_k(values, array, 2)[1])


@pytest.mark.parametrize("kind", ["array", "memmap", "gather"])
def test_subsets_keep_captions_with_their_images(tmp_path: Path, kind: str) -> None:
    image, text = numbered(4), 10 + numbered(6)
    if kind == "memmap":
        np.save(tmp_path / "x.npy", image)
        image = np.load(tmp_path / "x.npy", mmap_mode="r")
    pairs = FeaturePairs.from_arrays(
        Gathering(image) if kind == "gather" else image,
        text,
        [3, 0, 1, 3, 2, 0],
        ids=list("abcd"),
        captions=[f"t{k}" for k in range(6)],
        lang=list("uvwxyz"),
        labels=list("ABCD"),
    )
    once = pairs.subset([3, 0, 1])
    twice = once.subset(np.array([True, True, False]))
    for subset, ids, owners, texts in (
        (once, ["d", "a", "b"], [0, 1, 2, 0, 1], [0, 1, 2, 3, 5]),
        (twice, ["d", "a"], [0, 1, 0, 1], [0, 1, 3, 5]),
    ):
        assert subset.image_ids == ids
        assert subset.image_of.tolist() == owners
        assert subset.captions == [f"t{k}" for k in texts]
        assert subset.lang == ["uvwxyz"[k] for k in texts]
        assert subset.labels == [id.upper() for id in ids]
        assert rows(subset.text, slice(0, 9))[:, 0].tolist() == [10 + k for k in texts]
        assert rows(subset.image, np.arange(len(ids)))[:, 0].tolist() == ["abcd".index(id) for id in ids]
    assert twice.caption_ids == ["d#0", "a#0", "d#1", "a#1"]
    if kind != "array":
        assert isinstance(twice.image, Chosen)
        assert not isinstance(twice.image.matrix, Chosen)


def test_splits_follow_the_data() -> None:
    pairs = FeaturePairs.from_arrays(numbered(4), numbered(4), splits=["train", "val", None, "test"])
    parts = pairs.split()
    assert {name: part.image_ids for name, part in parts.items()} == {
        "train": ["0", "2"],
        "val": ["1"],
        "test": ["3"],
    }


def test_held_out_images_do_not_depend_on_the_order_of_rows() -> None:
    count = 600
    ids = [f"image {k}" for k in range(count)]
    groups = [k // 3 for k in range(count)]
    order = np.random.default_rng(0).permutation(count)
    plain = FeaturePairs.from_arrays(numbered(count), numbered(count), ids=ids, groups=groups)
    shuffled = FeaturePairs.from_arrays(
        numbered(count), numbered(count), ids=[ids[k] for k in order], groups=[groups[k] for k in order]
    )
    held_out = plain.split(seed=1)["val"]
    assert set(shuffled.split(seed=1)["val"].image_ids) == set(held_out.image_ids)
    assert len(held_out) == 120
    kept = {int(id.split()[1]) // 3 for id in plain.split(seed=1)["train"].image_ids}
    assert kept.isdisjoint(int(id.split()[1]) // 3 for id in held_out.image_ids)
