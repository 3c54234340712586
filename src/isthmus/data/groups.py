"""Connected components: images and captions that are the same thing, directly or by way of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def components(image_keys: np.ndarray, text_keys: np.ndarray, image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss groups: equal images and equal captions share one, and so does everything linked through them.

    image_keys [N], text_keys [M]: what makes two images or two captions equal, of any type NumPy can sort,
    or rows of bytes [N, k] uint8; image_of [M] int: the image of each caption. Returns int64 group ids of
    the images [N] and of the captions [M], numbered from 0 in order of the images' first appearance.
    """
    image_node, images = _number(image_keys)
    text_node, texts = _number(text_keys)
    image_end = image_node[image_of]
    text_end = images + text_node
    root = connected(images + texts, image_end, text_end)
    _, first, group = np.unique(root[image_node], return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    image_group = order[group]
    return image_group, image_group[image_of]


def _number(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Number distinct keys from 0: (number of each key, how many)."""
    keys = np.asarray(keys)
    if keys.ndim == 2:  # rows of bytes become one opaque value each
        keys = np.ascontiguousarray(keys).view(f"V{keys.shape[1] * keys.itemsize}")[:, 0]
    distinct, number = np.unique(keys, return_inverse=True)
    return number.astype(np.int64), len(distinct)


def connected(nodes: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest node of every node's component, in a graph with edges a[i]-b[i].

    Each round hooks the larger root of every edge under the smallest neighbour it has and flattens the
    trees again, so that rounds grow with the logarithm of the longest chain and not with its length.
    """
    root = np.arange(nodes)
    while True:
        a, b = root[a], root[b]
        apart = a != b
        if not apart.any():
            return root
        a, b = a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root[root] != root).any():
            root = root[root]


def group_numbers(groups: Sequence[str | None], kept: Sequence[int]) -> np.ndarray:
    """Named groups as numbers; an image without a group is its own."""
    names = [groups[i] if groups[i] is not None else (i,) for i in kept]
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)
