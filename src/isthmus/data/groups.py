"""Connected components: images and captions that are equal, directly or through others."""

from __future__ import annotations

from typing import Any

import numpy as np


def components(image_keys: np.ndarray, text_keys: np.ndarray, image_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss groups: equal images and equal captions share one, and so does everything linked through them.

    image_keys [N], text_keys [M]: what makes two images or two captions equal, of any type NumPy can sort,
    or rows of bytes [N, k] uint8; image_of [M] int: the image of each caption. Returns int64 group ids of
    the images [N] and of the captions [M], numbered from 0 in order of the images' first appearance.
    """
    image_node, images = _number(image_keys)
    text_node, texts = _number(text_keys)
    root = connected(images + texts, image_node[image_of], images + text_node)
    image_group = by_appearance(root[image_node])
    return image_group, image_group[image_of]


def whole_groups(groups: Any, image_keys: np.ndarray) -> np.ndarray:
    """Groups in which the user's groups and equal images stay whole: the unit of splits and of every bootstrap.

    groups [n]: names, None for an image without a group; None in place of the list: no image has one. image_keys [n]:
    what makes two images equal, as for `components`.
    Returns int64 [n], numbered from 0 in order of first appearance.
    """
    own = np.arange(len(image_keys))
    named = [(True, str(group)) if group is not None else (False, row) for row, group in enumerate(groups or ())]
    number: dict[Any, int] = {}
    user = np.array([number.setdefault(name, len(number)) for name in named]) if named else own
    return components(image_keys, user, own)[0]


def by_appearance(groups: np.ndarray) -> np.ndarray:
    """Any group ids [n] as int64 numbers from 0, in order of first appearance."""
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    order = np.empty(len(first), dtype=np.int64)
    order[np.argsort(first)] = np.arange(len(first))
    return order[group]


def _number(keys: np.ndarray) -> tuple[np.ndarray, int]:
    """Number distinct keys from 0: (number of each key, how many)."""
    keys = np.asarray(keys)
    if keys.ndim == 2:  # rows of bytes become one opaque value each
        keys = np.ascontiguousarray(keys).view(f"V{keys.shape[1] * keys.itemsize}")[:, 0]
    distinct, number = np.unique(keys, return_inverse=True)
    return number.astype(np.int64), len(distinct)


def connected(nodes: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smallest node of every node's component, int64 [nodes], in a graph with edges a[i]-b[i]."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(a), bool), (a, b)), shape=(nodes, nodes))
    count, component = connected_components(edges, directed=False)
    smallest = np.empty(count, np.int64)
    smallest[component[::-1]] = np.arange(nodes)[::-1]  # of equal indices the last assignment stays
    return smallest[component]
