"""Films are read at any rate by the time of their frames, and what cannot be is named; pairs of films are embedded."""

from __future__ import annotations

import json
import tracemalloc
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch

import isthmus as ist
from films import at_rate, film, place_of
from isthmus.cli import main
from isthmus.data import audio, video
from isthmus.data.video import BadVideo, Film, decode
from isthmus.errors import InputError, UsageError
from isthmus.store.opening import open_store
from sounds import coded, tone
from tiny_encoders import save_bert, save_dinov2, save_processor

pytest.importorskip("av", reason="needs the extra video")


def varying() -> list[float]:
    """A second of frames at irregular times."""
    return [0, 0.02, 0.1, 0.13, 0.21, 0.3, 0.33, 0.36, 0.5, 0.55, 0.61, 0.7, 0.72, 0.83, 0.9, 0.95]


@pytest.mark.parametrize("form", ["mp4", "matroska", "avi"])
def test_films_of_any_rate_give_the_same_frames(form):
    found = {fps: [place_of(f) for f in decode(at_rate(fps, format=form)).frames(25)] for fps in (12, 25, 30, 50)}
    if form != "avi":  # which has one rate
        found[0] = [place_of(f) for f in decode(film(varying(), last=0.05, format=form)).frames(25)]
    for fps, places in found.items():
        assert len(places) == 25, fps
        assert np.abs(np.array(places) - found[25]).max() <= (3.5 if fps in (0, 12) else 1.2)
        assert all(a <= b + 0.3 for a, b in pairwise(places))


def test_a_part_is_the_frames_between_its_times_whether_it_is_sought_or_not():
    data = at_rate(30, 1.9)
    whole = list(decode(data).frames(20))
    part = list(decode(data, 1.2, "1.6").frames(20))
    assert len(part) == 8 and all(np.array_equal(a, b) for a, b in zip(whole[24:32], part, strict=True))
    for start, end, why in ((2, 1, "ends after it begins"), (-1, None, "begins at 0 s"), ("a", 1, "times in seconds"),
                            (4, None, "before the start of its part"), (0, 9e9, "longer than")):  # fmt: skip
        with pytest.raises(BadVideo, match=why):
            decode(data, start, end)
    with pytest.raises(BadVideo, match="before the end of its part"):
        list(decode(data, 1, 9).frames(25))


def test_arrays_of_frames_are_films(tmp_path):
    grey = np.arange(10 * 6 * 4, dtype=np.uint8).reshape(10, 6, 4)
    np.save(tmp_path / "a.npy", grey)
    frames = list(decode((tmp_path / "a.npy").read_bytes()).frames(25))
    assert len(frames) == 10 and frames[3].shape == (6, 4, 3) and np.array_equal(frames[3][..., 1], grey[3])
    assert len(list(Film(grey, rate=50).frames(25))) == 5
    with pytest.raises(BadVideo, match=r"uint8 \[T, H, W\]"):
        video.read([grey.astype(np.float32)])


def test_what_is_no_film_says_what_is_wrong(monkeypatch):
    good = at_rate(25)
    bad = {
        "no film that can be read": b"#EXTM3U\nfile:///etc/passwd",
        "a film that cannot be read": good[:200],
        "no film that can be read: MP4": coded(tone(0.5)),
        "without a picture track": sound_alone(),
    }
    for why, data in bad.items():
        with pytest.raises(BadVideo, match=why):
            decode(data)
    torn = at_rate(25, 1.9, format="matroska")
    assert len(list(decode(torn[: len(torn) // 2]).frames(25))) < 47  # what is there is read
    monkeypatch.setattr(video, "MAX_PIXELS", 1_000)
    with pytest.raises(BadVideo, match="48 × 48 pixels; up to 1,000"):
        decode(good)
    monkeypatch.undo()
    monkeypatch.setattr(video, "LONGEST", 0.5)
    with pytest.raises(BadVideo, match="longer than 0 s: name parts"):
        list(decode(good).frames(25))
    monkeypatch.undo()
    monkeypatch.setattr(video, "MAX_RATE", 10)
    with pytest.raises(BadVideo, match="more than 10 frames a second"):
        list(decode(at_rate(500)).frames(25))


def sound_alone() -> bytes:
    import io

    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        track = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(tone(0.5)[None], "fltp", "mono")
        frame.sample_rate = 16_000
        container.mux(track.encode(frame))
        container.mux(track.encode())
    return file.getvalue()


def test_the_hour_of_a_film_is_never_held():
    frame, count = np.zeros((64, 64), np.uint8), 25 * 60
    long = Film(np.broadcast_to(frame, (count, 64, 64)))
    tracemalloc.start()
    assert sum(1 for _ in long.frames(25)) == count
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_sound_that_begins_later_than_the_film_keeps_its_time():
    data = at_rate(25, 1.5, sound=(tone(1.0), 0.5), format="matroska")
    wave = audio.decode(data)
    assert np.abs(wave[:6_000]).max() < 1e-3 < 0.2 < np.abs(wave[10_000:14_000]).max()
    assert len(audio.decode(data, 0.25, 1.25)) == 16_000


def test_an_image_encoder_takes_films_frame_by_frame(tmp_path):
    save_dinov2(tmp_path / "vit")
    pictures = ist.load_encoder(f"hf:{tmp_path / 'vit'}?pool=mean")
    films = ist.load_encoder(f"hf:{tmp_path / 'vit'}?fps=10&pool=states")
    assert (films.modality, films.rate_hz, films.depth) == ("video", 10.0, pictures.depth)
    short, long = Film(np.random.default_rng(0).integers(0, 256, (8, 20, 20), np.uint8), rate=10), video.probe()
    states = films.states([short, long], layers=[1, None])
    assert states.rate_hz == 10.0 and states.mask.sum(1).tolist() == [8, 2]
    alone = pictures.at(layer=1, pool=pictures.default_pool)
    own = alone.encode([next(f for k, f in enumerate(short.frames(10)) if k == 5).copy()])
    np.testing.assert_allclose(states.values[0, 0, 5].numpy(), own[0], atol=1e-4)


def test_pairs_of_sound_and_film_are_embedded_and_a_broken_film_is_listed(tmp_path, capsys):
    save_dinov2(tmp_path / "vit")
    rows = []
    for k in range(5):
        data = at_rate(25, 1.0, sound=(tone(1.0, pitch=300 + 100 * k), 0.0))
        (tmp_path / f"{k}.mp4").write_bytes(data if k != 3 else data[: len(data) // 3])
        rows.append({"video": f"{k}.mp4", "start": 0.2, "end": 0.8, "speaker": "s", "caption": f"line {k}"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    told = ["--encoder", f"hf:{tmp_path / 'vit'}?fps=25&pool=states", f"hf:{save_bert(tmp_path / 'bert')}"]
    command = ["embed", str(tmp_path / "pairs.jsonl"), *told, "--out", str(tmp_path / "store"), "--max-skip", "0.5"]
    assert main(command) == 3
    store = open_store(tmp_path / "store", verify=True)
    assert store.table("video").num_rows == 4 and store.skipped["id"].to_pylist() == ['3.mp4{"end": 0.8, "start": 0.2}']
    assert "3.mp4" in capsys.readouterr().err


def test_few_films_wait_for_the_network_since_each_holds_its_file(tmp_path, monkeypatch):
    save_dinov2(tmp_path / "vit")
    for k in range(40):
        np.save(tmp_path / f"{k}.npy", np.full((5, 16, 16), k, np.uint8))
    table = "\n".join(json.dumps({"video": f"{k}.npy", "caption": "x"}) for k in range(40))
    (tmp_path / "films.jsonl").write_text(table)
    encoder = ist.load_encoder(f"hf:{tmp_path / 'vit'}?fps=5")
    made, most, start, frames = list[weakref.ref](), [0], Film.__init__, Film.frames

    def begin(self, *given, **named):
        made.append(weakref.ref(self))
        start(self, *given, **named)

    def counted(self, rate):
        most.append(sum(one() is not None for one in made))
        return frames(self, rate)

    monkeypatch.setattr(Film, "__init__", begin)
    monkeypatch.setattr(Film, "frames", counted)
    ist.embed(tmp_path / "films.jsonl", encoders=encoder, out=tmp_path / "store")
    assert len(made) >= 40 and max(most) <= 16


def test_the_front_end_gives_what_its_stages_give_whatever_the_length_of_a_film(tmp_path, monkeypatch):
    from transformers import ResNetConfig, ResNetModel

    from isthmus.encoders import front_end

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic")
    folder = save_processor(tmp_path / "resnet")
    ResNetModel(config).eval().save_pretrained(folder)
    pictures = ist.load_encoder(f"hf:{folder}")
    module = front_end.MouthFrontEnd(pictures.network)
    clip = torch.randn(2, 5, 112, 112)
    assert module.stem(clip[:, None]).shape == (2, 8, 5, 28, 28) and module(clip).shape == (2, 5, 32)
    trained = module.train_stem()
    module(clip).sum().backward()
    assert all(p.grad is not None for p in trained) and all(p.grad is None for p in module.stages.parameters())
    module.save_stem(tmp_path / "stem.safetensors")
    named = f"hf:{folder}?fps=25&pool=states&stem={tmp_path / 'stem.safetensors'}"
    film = Film(np.random.default_rng(0).integers(0, 256, (23, 30, 40), np.uint8))
    whole = ist.load_encoder(named).states([film, video.probe()], layers=[None])
    assert whole.values.shape == (2, 1, 23, 32) and whole.mask.sum(1).tolist() == [23, 5]
    monkeypatch.setattr(front_end, "FRAMES", 6)
    pieces = ist.load_encoder(named).states([film], layers=[None])
    np.testing.assert_allclose(pieces.values[0].numpy(), whole.values[0].numpy(), atol=1e-4)
    with pytest.raises(UsageError, match="made of a ResNet"):
        save_dinov2(tmp_path / "vit")
        ist.load_encoder(f"hf:{tmp_path / 'vit'}?fps=25&stem={tmp_path / 'stem.safetensors'}")
    (tmp_path / "bad").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no stem of this front-end"):
        ist.load_encoder(f"hf:{folder}?fps=25&stem={tmp_path / 'bad'}")
