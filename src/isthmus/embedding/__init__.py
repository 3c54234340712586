"""Pairs to features: decode, preprocess and encode every distinct image and caption once, into a store."""

from isthmus.embedding.estimate import EmbedPlan, plan
from isthmus.embedding.run import EmbedReport, embed

__all__ = ["EmbedPlan", "EmbedReport", "embed", "plan"]
