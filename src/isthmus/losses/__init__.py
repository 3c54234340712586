"""Contrastive losses over all pairs of a batch: exact, in tiles, for anyone's trainer."""

from isthmus.losses.infonce import infonce
from isthmus.losses.sigmoid import sigmoid
from isthmus.losses.temperature import Scale, initial_bias

__all__ = ["Scale", "infonce", "initial_bias", "sigmoid"]
