"""Projectors (heads): small trained maps from an encoder's features, pooled or token by token, into the joint space."""

from typing import Any

from isthmus.projectors.build import build_projector, solve_expand
from isthmus.projectors.ensembles import ConcatEnsemble, SumEnsemble
from isthmus.projectors.projector import KINDS, Projector
from isthmus.projectors.tokens import TokenProjector

__all__ = [
    "KINDS",
    "ConcatEnsemble",
    "Head",
    "Projector",
    "SumEnsemble",
    "TokenProjector",
    "build_projector",
    "from_config",
    "solve_expand",
]

Head = Projector | ConcatEnsemble


def from_config(config: dict[str, Any]) -> Head:
    """A projector with fresh weights from its `config()`."""
    joins = {ConcatEnsemble.kind: ConcatEnsemble, SumEnsemble.kind: SumEnsemble}
    if config["kind"] not in joins:
        return build_projector(**config)
    return joins[config["kind"]]([build_projector(**member) for member in config["members"]], config["shares"])
