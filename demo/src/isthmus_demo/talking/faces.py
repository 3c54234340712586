"""Rendered faces: an identity, and films of its mouth that follow weights of face units, with a pose and a light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isthmus_demo.talking.head import CAVITY, LIPS, LOWER_TEETH, SKIN, TONGUE, UPPER_TEETH, HeadMesh
from isthmus_demo.talking.rasterise import rasterise

SIDE = 48  # pixels of a film
CROP = 1.35  # distances of the eyes' middles along a side: that of real crops, whose measure is the eyes' outer corners
FPS = 25
SPREAD = 0.45  # of the weight of each shape of an identity
ACTIVE = 0.4  # share of the shapes that an identity has
INNER = 0.7  # share of the light inside of a mouth that comes from everywhere
TURN = np.deg2rad([9.0, 14.0, 4.0])  # standard deviations of pitch, yaw and roll


@dataclass(frozen=True)
class Face:
    """An identity: points [V, 3] at rest, albedo [V], the middle and the size of its mouth's crop."""

    points: np.ndarray
    albedo: np.ndarray
    scale: float


def make_face(head: HeadMesh, rng: np.random.Generator) -> Face:
    """A new identity: a mixture of ages, sexes and origins, shapes of mouth, chin, cheeks, nose and head, a skin."""
    mixture = rng.dirichlet(np.full(len(head.roots), 0.5))
    weights = rng.normal(0, SPREAD, len(head.shapes)).clip(0, 1) * (rng.random(len(head.shapes)) < 2 * ACTIVE)
    points = head.points + np.tensordot(mixture, head.roots, 1) + np.tensordot(weights, head.shapes, 1)
    eyes = head.eyes + np.tensordot(mixture, head.root_eyes, 1) + np.tensordot(weights, head.shape_eyes, 1)
    skin, lips = rng.uniform(0.35, 0.95), rng.uniform(0.55, 0.9)
    of = {SKIN: skin, LIPS: skin * lips, CAVITY: 0.12, TONGUE: 0.45 * rng.uniform(0.7, 1.2)}
    of |= dict.fromkeys((UPPER_TEETH, LOWER_TEETH), rng.uniform(0.75, 1.0))
    albedo = np.array([of[kind] for kind in range(6)])[head.kind] * rng.normal(1, 0.03, len(points)).clip(0.8, 1.2)
    return Face(points.astype(np.float32), albedo, float(np.linalg.norm(eyes[0] - eyes[1])))


def render(head: HeadMesh, face: Face, weights: np.ndarray, rng: np.random.Generator, side: int = SIDE) -> np.ndarray:
    """A film uint8 [T, side, side] of a face whose units have weights [T, U], `FPS` a second.

    The pose is new and sways, the light, the noise and the sharpness are new; the mouth stays in the middle up to the
    error of a tracker.
    """
    frames = len(weights)
    moving = np.flatnonzero(weights.any(0))
    units = head.units[moving].reshape(len(moving), -1)
    points = face.points + (weights[:, moving].astype(np.float32) @ units).reshape(frames, -1, 3)
    pose = rng.normal(0, TURN) + _sway(frames, rng)[:, None] * rng.normal(0, TURN / 4)
    points = points @ _rotations(pose).transpose(0, 2, 1).astype(np.float32)
    middle = points[:, head.kind == LIPS].mean(1, keepdims=True)
    size = 2 * side / (CROP * face.scale) * rng.normal(1, 0.05)
    drift = rng.normal(0, 0.02, 2) + rng.normal(0, 0.004, (frames, 1, 2))
    flat = (points - middle) * size
    flat[..., :2] += 2 * side * drift
    flat[..., 1] *= -1
    flat[..., :2] += side
    light = np.array([rng.normal(0, 0.6), rng.normal(-0.5, 0.5), 1.0])
    ambient = np.where(head.kind >= LIPS, rng.uniform(0.25, 0.6), INNER)
    found = rasterise(flat, head.triangles, face.albedo, ambient, light, rng.uniform(0.05, 0.5), side)
    contrast, level = rng.uniform(0.75, 1.15), rng.normal(0, 12)
    found = (found.astype(np.float32) - 128) * contrast + 128 + level + rng.normal(0, rng.uniform(1, 5), found.shape)
    return np.asarray(found.clip(0, 255).astype(np.uint8))


def _sway(frames: int, rng: np.random.Generator) -> np.ndarray:
    """A slow movement [T] of deviation about 1."""
    time = np.arange(frames) / FPS
    speeds, phases = rng.uniform(0.1, 0.8, 3), rng.uniform(0, 2 * np.pi, 3)
    return np.asarray(np.sin(2 * np.pi * speeds * time[:, None] + phases).sum(1) / np.sqrt(1.5))


def _rotations(angles: np.ndarray) -> np.ndarray:
    """Matrices [T, 3, 3] of pitch, yaw and roll [T, 3]."""
    (a, b, c), (d, e, f) = np.cos(angles.T), np.sin(angles.T)
    zero, one = np.zeros_like(a), np.ones_like(a)
    pitch = np.stack([one, zero, zero, zero, a, -d, zero, d, a], -1).reshape(-1, 3, 3)
    yaw = np.stack([b, zero, e, zero, one, zero, -e, zero, b], -1).reshape(-1, 3, 3)
    roll = np.stack([c, -f, zero, f, c, zero, zero, zero, one], -1).reshape(-1, 3, 3)
    return np.asarray(roll @ yaw @ pitch)
