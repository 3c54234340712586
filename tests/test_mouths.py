"""Mouths are cropped in one place, size and angle; films without a face are left out, and ready crops are taken."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

import isthmus.faces.landmarks as landmarks
from isthmus.cli import main
from isthmus.data.video import Film, decode
from isthmus.faces.alignment import MEAN_FACE, crop, interpolate, similarity, smooth
from isthmus.faces.landmarks import ANCHORS, MOUTH
from isthmus.faces.run import write_grey
from isthmus.registry import Registry

pytest.importorskip("av", reason="needs the extra video")


def face(x: float, y: float, size: float, angle: float) -> np.ndarray:
    """Landmarks [68, 2] of a frontal face whose mouth is around (x, y)."""
    points = np.zeros((68, 2), np.float32)
    points[list(ANCHORS)] = MEAN_FACE - [0, 0.9]
    around = np.linspace(0, 2 * np.pi, len(MOUTH), endpoint=False)
    points[list(MOUTH)] = np.stack([0.28 * np.cos(around), 0.12 * np.sin(around)], axis=1)
    points -= points[list(MOUTH)].mean(0) * [1, 1]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (points @ turn.T * size + [x, y]).astype(np.float32)


def drawn(points: np.ndarray) -> np.ndarray:
    """A picture with the mouth of these landmarks: uint8 [200, 240, 3]."""
    picture = Image.new("RGB", (240, 200), (90, 90, 90))
    ImageDraw.Draw(picture).polygon([tuple(p) for p in points[list(MOUTH)].tolist()], fill=(250, 250, 250))
    return np.asarray(picture)


def test_mouths_of_faces_in_any_place_size_and_angle_give_one_crop():
    crops = []
    for points in (face(100, 120, 80, 0), face(150, 90, 50, 0.3), face(80, 100, 120, -0.2)):
        crops.append(crop(drawn(points), points, points, 64).astype(float))
    for other in crops[1:]:
        assert np.abs(other - crops[0]).mean() < 6  # of 255, the edges
    bright = np.argwhere(crops[0] > 200)
    assert np.abs(bright.mean(0) - 32).max() < 1 and np.ptp(bright[:, 1]) == pytest.approx(0.56 * 1.1 * 64, abs=3)


def test_the_similarity_is_the_one_that_made_the_points():
    rng = np.random.default_rng(0)
    points, turn = rng.normal(size=(5, 2)), np.array([[0.6, -0.8], [0.8, 0.6]]) * 2.5
    found = similarity(points, points @ turn.T + [3, -1])
    np.testing.assert_allclose(found, [[1.5, -2.0, 3], [2.0, 1.5, -1]], atol=1e-9)


def test_missed_frames_are_between_their_neighbours():
    a, b = np.zeros((68, 2)), np.full((68, 2), 4.0)
    found = interpolate([None, a, None, None, None, b, None])
    assert found[:, 0, 0].tolist() == [0, 0, 1, 2, 3, 4, 4]
    np.testing.assert_allclose(smooth(found, 3)[:, 0, 0], [0, 1 / 3, 1, 2, 3, 11 / 3, 4])


def bright(model):
    """A finder of landmarks that knows the drawn mouths by their brightness, and misses every fourth frame."""

    def new():
        seen = iter(range(10**6))

        def find(frame):
            places = np.argwhere(frame[..., 0] > 200)
            if next(seen) % 4 == 3 or not len(places):
                return None
            y, x = places.mean(0)
            return face(x, y, np.ptp(places[:, 1]) / 0.56, 0)

        return find

    return new


def clip(path, frames, fps=30):
    import av

    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=fps)
        track.height, track.width = frames[0].shape[:2]
        for frame in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(track.encode())


def test_mouths_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(landmarks, "FINDERS", Registry("isthmus.landmarks", {"bright": "test_mouths:bright"}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips" / "a").mkdir(parents=True)
    moving = [drawn(face(90 + k, 110, 60 + k / 4, 0)) for k in range(30)]
    clip(tmp_path / "clips" / "a" / "talk.mp4", moving)
    clip(tmp_path / "clips" / "wall.mp4", [np.full((64, 64, 3), 90, np.uint8)] * 10)
    (tmp_path / "clips" / "torn.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    assert main(["mouths", "clips", "--out", "out", "--side", "64", "--landmarks", "bright"]) == 3
    told = capsys.readouterr()
    assert "out/a_talk.mkv: 25 frames, a face in 76 % of them" in told.out
    assert "wall.mp4: a face in 0 % of its 8 frames" in told.err and "torn.mp4: a film that cannot be read" in told.err
    crops = np.stack([f[..., 0] for f in decode((tmp_path / "out/a_talk.mkv").read_bytes()).frames(25)])
    assert crops.shape == (25, 64, 64) and crops[:, 30:34, 28:36].min() > 180 > 120 > crops[:, :8].max()
    row = next(csv.DictReader((tmp_path / "out/mouths.csv").open()))
    assert row["video"] == "a_talk.mkv" and row["frames"] == "25" and float(row["share"]) == 0.76
    assert json.loads((tmp_path / "out/mouths.json").read_text())["skipped"].keys() == {
        "clips/wall.mp4",
        "clips/torn.mp4",
    }
    assert Image.open(tmp_path / "out/mouths.png").width > 600
    assert main(["mouths", "out/a_talk.mkv", "--out", "ready", "--ready", "--fps", "50", "--side", "32"]) == 0
    assert len(list(decode((tmp_path / "ready/a_talk.mkv").read_bytes()).frames(50))) == 50
    assert main(["mouths", "clips/wall.mp4", "--out", "none", "--landmarks", "bright"]) == 1
    assert main(["mouths", "clips", "--out", "o", "--landmarks", "brighter"]) == 2
    assert main(["mouths", "clips", "--out", "o", "--side", "5"]) == 2


def test_no_film_is_written_over_and_one_that_is_gone_spoils_no_other(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    clip(tmp_path / "clips" / "a.mkv", [np.full((64, 64, 3), 20 * k, np.uint8) for k in range(10)])
    whole = (tmp_path / "clips" / "a.mkv").read_bytes()
    assert main(["mouths", str(tmp_path / "clips"), "--out", str(tmp_path / "clips"), "--ready"]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert (tmp_path / "clips" / "a.mkv").read_bytes() == whole
    (tmp_path / "clips" / "b.mp4").symlink_to(tmp_path / "gone.mp4")
    assert main(["mouths", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--ready"]) == 3
    said = capsys.readouterr()
    assert "a.mkv: 8 frames" in said.out and "no such file" in said.err and (tmp_path / "out" / "mouths.csv").exists()
    told = ["mouths", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--least-share", "3"]
    assert main(told) == 2 and "least_share=3.0" in capsys.readouterr().err


def test_written_crops_are_read_bit_by_bit(tmp_path):
    frames = np.random.default_rng(0).integers(16, 236, (7, 32, 32), np.uint8)
    assert len(list(write_grey(tmp_path / "a.mkv", frames, 25, 32))) == 7
    read = np.stack([f[..., 0] for f in decode((tmp_path / "a.mkv").read_bytes()).frames(25)])
    np.testing.assert_array_equal(read, frames)
    assert len(list(Film(frames).frames(25))) == 7


def test_without_the_model_its_package_is_named(tmp_path, capsys):
    pytest.importorskip("dlib", reason="needs the extra faces")
    (tmp_path / "a.mp4").write_bytes(b"")
    told = ["mouths", str(tmp_path / "a.mp4"), "--out", str(tmp_path), "--landmarks-model", str(tmp_path / "no.dat")]
    assert main(told) == 2 and "apt-get install libdlib-data" in capsys.readouterr().err
    (tmp_path / "no.dat").write_bytes(b"nothing")
    assert main(told) == 1 and "no model of landmarks" in capsys.readouterr().err
