"""Landmarks by dlib: its frontal face detector, and the regression trees of Kazemi and Sullivan (CVPR 2014)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.errors import InputError, UsageError
from isthmus.faces.landmarks import POINTS, Finder

NAME = "shape_predictor_68_face_landmarks.dat"
PLACES = (Path("/usr/share/dlib"), Path("/usr/local/share/dlib"))  # the first is where Debian's libdlib-data has it
SMALL = 100  # pixels of a face, below which its surroundings are enlarged
FaceBox = tuple[int, int, int, int]  # left, top, right, bottom


def finder(model: str | None) -> Callable[[], Finder]:
    """Makes finders. model: the file of 68 landmarks; None: where Debian has it.

    Raises `UsageError` without dlib or the file, `InputError` for a file that is none.
    """
    try:
        import dlib
    except ImportError as error:
        raise UsageError(f"landmarks need dlib: pip install 'isthmus[faces]' ({error}).") from None
    path = Path(model) if model else next((one / NAME for one in PLACES if (one / NAME).is_file()), None)
    if path is None or not path.is_file():
        raise UsageError(
            f"{path or NAME}: no such file. Debian and Ubuntu have it in libdlib-data (apt-get install libdlib-data); "
            "name another place with --landmarks-model."
        )
    try:
        predictor, detector = dlib.shape_predictor(str(path)), dlib.get_frontal_face_detector()
    except RuntimeError as error:
        raise InputError(f"{path}: no model of landmarks ({error}).") from None
    return lambda: _DlibFinder(dlib, detector, predictor)


class _DlibFinder:
    """The largest face of a film's first frame, then the face near to where it was."""

    def __init__(self, dlib: Any, detector: Any, predictor: Any) -> None:
        self.dlib, self.detector, self.predictor = dlib, detector, predictor
        self.before: FaceBox | None = None

    def __call__(self, frame: np.ndarray) -> np.ndarray | None:
        frame = np.ascontiguousarray(frame)
        box = self._near(frame) or self._anywhere(frame)
        if box is None:
            return None
        self.before = box
        shape = self.predictor(frame, self.dlib.rectangle(*box))
        return np.array([(shape.part(k).x, shape.part(k).y) for k in range(POINTS)], np.float32)

    def _near(self, frame: np.ndarray) -> FaceBox | None:
        """The face in the surroundings of the last one."""
        if self.before is None:
            return None
        left, top, right, bottom = self.before
        side = right - left
        x, y = max(0, left - side // 2), max(0, top - side // 2)
        part = np.ascontiguousarray(frame[y : bottom + side // 2, x : right + side // 2])
        if not part.size:
            return None
        box = _largest(self.detector(part, int(side < SMALL)))
        return None if box is None else (box[0] + x, box[1] + y, box[2] + x, box[3] + y)

    def _anywhere(self, frame: np.ndarray) -> FaceBox | None:
        return _largest(self.detector(frame, 0)) or _largest(self.detector(frame, 1))


def _largest(found: Any) -> FaceBox | None:
    best = max(found, key=lambda box: box.width(), default=None)
    return None if best is None else (best.left(), best.top(), best.right(), best.bottom())
