"""From landmarks to crops of mouths that have one place, size and angle, as for LRS2 and LRW."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from isthmus.faces.landmarks import ANCHORS, MOUTH

EYES = 1.1  # sides of a crop from one outer corner of the eyes to the other
SMOOTH = 12  # frames over which landmarks are averaged, at 25 a second
# Where the anchors are in a frontal face, in distances of the outer corners of the eyes: ratios alone count.
MEAN_FACE = np.array([[0.0, 0.55], [-0.5, 0.0], [-0.17, 0.0], [0.17, 0.0], [0.5, 0.0]])


def interpolate(track: list[np.ndarray | None]) -> np.ndarray:
    """Landmarks [T, 68, 2] of all frames: those of frames without a face on the line between their neighbours.

    Before the first and behind the last face, that one's. At least one must be there.
    """
    there = [k for k, points in enumerate(track) if points is not None]
    known = np.stack([points for points in track if points is not None]).reshape(len(there), -1)
    every = np.arange(len(track))
    columns = [np.interp(every, there, column) for column in known.T]
    return np.stack(columns, axis=1).reshape(len(track), -1, 2)


def smooth(points: np.ndarray, frames: int) -> np.ndarray:
    """The moving average over `frames` frames, fewer at both ends: [T, 68, 2] to the same."""
    before, sums = frames // 2, np.cumsum(np.concatenate([np.zeros_like(points[:1]), points]), axis=0)
    at = np.arange(len(points))
    first, last = np.maximum(0, at - before), np.minimum(len(points), at - before + frames)
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None, None])


def similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The rotation, scale and shift [2, 3] that take points [n, 2] nearest to the target, in least squares.

    Umeyama (1991), without reflections.
    """
    middle, goal = points.mean(0), target.mean(0)
    x, y = points - middle, target - goal
    along, across = (x * y).sum(), (x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0]).sum()
    a, b = np.array([along, across]) / max(float((x**2).sum()), 1e-9)
    turn = np.array([[a, -b], [b, a]])
    return np.concatenate([turn, (goal - turn @ middle)[:, None]], axis=1)


def crop(frame: np.ndarray, points: np.ndarray, steady: np.ndarray, side: int) -> np.ndarray:
    """The mouth, uint8 [side, side], grey: upright, of the mean face's size, in the middle.

    points: [68, 2] of this frame, which say where the mouth is. steady: smoothed ones, which say how the face lies.
    """
    to_face = similarity(steady[list(ANCHORS)], MEAN_FACE * EYES * side)
    middle = to_face[:, :2] @ points[list(MOUTH)].mean(0) + to_face[:, 2]
    to_face[:, 2] += side / 2 - middle
    picture = Image.fromarray(np.ascontiguousarray(frame)).convert("L")
    scale = math.hypot(*to_face[:, 0])
    if (factor := int(1 / max(scale, 1e-3))) > 1:  # else the transform would skip pixels
        picture, to_face[:, :2] = picture.reduce(factor), to_face[:, :2] * factor
    back = np.linalg.inv(np.concatenate([to_face, [[0, 0, 1]]]))
    data = tuple(back[:2].ravel())
    return np.asarray(picture.transform((side, side), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC))
