"""Deeper joins of frozen encoders: transformers that read several layers of both, word by patch."""

from isthmus.fusion.aggregators import AGGREGATORS, Aggregator, build_aggregator
from isthmus.fusion.cross_modal import CrossModalLayer
from isthmus.fusion.heads import FusionHeads
from isthmus.fusion.network import FusionNetwork, FusionPlan
from isthmus.fusion.sides import SideStates, side_states
from isthmus.fusion.two_tower import Fused, FusionOptions, TwoTower

__all__ = [
    "AGGREGATORS",
    "Aggregator",
    "CrossModalLayer",
    "Fused",
    "FusionHeads",
    "FusionNetwork",
    "FusionOptions",
    "FusionPlan",
    "SideStates",
    "TwoTower",
    "build_aggregator",
    "side_states",
]
