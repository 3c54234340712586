"""Contrastive losses over all pairs of a batch: exact, in tiles, for anyone's trainer."""

from isthmus.losses.infonce import infonce
from isthmus.losses.sigmoid import sigmoid
from isthmus.losses.temperature import Scale, initial_bias
from isthmus.registry import Registry

# What a recipe's `loss.name` can be: functions `loss(x, y, scale, *, groups, process_group)` of unit rows [N, d] and
# [M, d] to a 0-d tensor, as `infonce` is. One that takes a `bias`, as `sigmoid` does, gets one that is learned; of the
# other choices in a recipe's [loss], such as `normalize`, a loss gets those that it names.
LOSSES = Registry(
    "isthmus.losses",
    {"infonce": "isthmus.losses.infonce:infonce", "sigmoid": "isthmus.losses.sigmoid:sigmoid"},
    noun="loss",
)

__all__ = ["LOSSES", "Scale", "infonce", "initial_bias", "sigmoid"]
