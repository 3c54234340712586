"""Open-vocabulary segmentation: every pixel gets the class whose text its patch is nearest to."""

from isthmus.segmentation.dense import DenseEncoder
from isthmus.segmentation.labels import Segmenter

__all__ = ["DenseEncoder", "Segmenter"]
