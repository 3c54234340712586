"""What finds the landmarks of a face, by name. Another package adds one by an entry point of `isthmus.landmarks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from isthmus.registry import Registry

POINTS = 68  # as iBUG numbers them
ANCHORS = (33, 36, 39, 42, 45)  # below the nose, the corners of both eyes: they hardly move with speech
MOUTH = tuple(range(48, 68))

Finder = Callable[[np.ndarray], np.ndarray | None]
"""Frame uint8 [H, W, 3] to landmarks float32 [68, 2] in pixels (x, y), or None where there is no face. It is called
for the frames of one film in order, and may remember where the face was."""

FINDERS = Registry("isthmus.landmarks", {"dlib": "isthmus.faces.dlib_landmarks:finder"}, noun="finder of landmarks")


def find_finder(name: str, model: str | None) -> Callable[[], Finder]:
    """What makes a new finder for each film: that of `name`, with its model file, if it has one.

    Raises `UsageError` for a name that is not registered, a package or a model that is not there.
    """
    made: Any = FINDERS.find(name)
    found: Callable[[], Finder] = made(model)
    return found


def opening(points: np.ndarray) -> np.ndarray:
    """How open mouths are: float [T], the gap between the inner lips in distances of the outer corners of the eyes.

    points: [T, 68, 2].
    """
    gap = np.linalg.norm(points[:, 61:64] - points[:, [67, 66, 65]], axis=-1).mean(-1)
    return np.asarray(gap / np.linalg.norm(points[:, 36] - points[:, 45], axis=-1))
