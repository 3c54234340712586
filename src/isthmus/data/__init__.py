"""Pairs of images and captions: reading them, decoding them safely, splitting them."""

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.groups import components
from isthmus.data.images import BadImage, content_hash, decode
from isthmus.data.matrix import rows
from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.data.splits import assign_splits

__all__ = [
    "BadImage",
    "FeaturePairs",
    "Pairs",
    "assign_splits",
    "components",
    "content_hash",
    "decode",
    "pairs_from_lists",
    "read_pairs",
    "rows",
]
