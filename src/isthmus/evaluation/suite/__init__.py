"""Zero-shot classification and retrieval over a list of data sets, in CLIP_benchmark's layout and words."""

from isthmus.evaluation.suite.run import suite
from isthmus.evaluation.suite.sets import LISTS, BenchmarkSet, find_sets, open_set

__all__ = ["LISTS", "BenchmarkSet", "find_sets", "open_set", "suite"]
