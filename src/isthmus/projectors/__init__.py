"""Projectors (heads): small trained maps from an encoder's pooled features into the joint space."""

from isthmus.projectors.budget import solve_expand
from isthmus.projectors.projector import KINDS, Projector, build_projector

__all__ = ["KINDS", "Projector", "build_projector", "solve_expand"]
