"""Recordings are decoded to mono 16 kHz, and what cannot be is named; pairs of audio and captions go the whole way."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.data import audio
from isthmus.data.audio import BadAudio, decode
from isthmus.data.pairs import read_pairs
from isthmus.errors import InputError, UsageError
from isthmus.store import open_store
from sounds import coded, save_speech, tone
from tiny_encoders import save_bert

pytest.importorskip("soundfile", reason="needs the extra audio")
pytest.importorskip("soxr", reason="needs the extra audio")


def peak_of(wave: np.ndarray) -> float:
    """The strongest frequency in Hz."""
    return float(np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_any_rate_and_width_gives_the_same_tone_at_16_khz(rate, subtype):
    found = decode(coded(tone(1.0, rate), rate, subtype=subtype))
    assert found.dtype == np.float32 and abs(len(found) - 16_000) <= 2
    assert peak_of(found) == pytest.approx(440, abs=1.5)
    assert np.abs(found[500:-500]).max() == pytest.approx(0.43, abs=0.03)


@pytest.mark.parametrize("form", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
                                  ("AIFF", "PCM_16"), ("AU", "PCM_16")])  # fmt: skip
def test_usual_formats_are_read(form):
    found = decode(coded(tone(1.0, 48_000), 48_000, format=form[0], subtype=form[1]))
    assert len(found) / 16_000 == pytest.approx(1.0, abs=0.06) and peak_of(found) == pytest.approx(440, abs=2)


def test_channels_are_averaged_and_16_khz_is_left_as_it_is():
    left, right = tone(0.5, seed=1), tone(0.5, pitch=700, seed=2)
    both = decode(coded(np.stack([left, right], axis=1), subtype="FLOAT"))
    np.testing.assert_allclose(both, (left + right) / 2, atol=1e-6)


def test_blocks_resample_as_the_whole_does(monkeypatch):
    import soxr

    wave = tone(2.0, 44_100)
    monkeypatch.setattr(audio, "BLOCK", 1_000)
    found = decode(coded(wave, 44_100, subtype="FLOAT"))
    np.testing.assert_allclose(found, soxr.resample(wave, 44_100, 16_000), atol=1e-4)


def test_a_part_is_the_samples_between_its_times():
    wave = tone(3.0)
    data = coded(wave, subtype="FLOAT")
    np.testing.assert_array_equal(decode(data, 0.5, "2.25"), wave[8_000:36_000])
    np.testing.assert_array_equal(decode(data, start="1"), wave[16_000:])
    for start, end, why in ((2, 1, "ends after it begins"), (-1, None, "begins at 0 s"), ("a", 1, "times in seconds"),
                            (4, None, "before the start of its part"), (1, 9, "before the end of its part"),
                            (0, "nan", "ends after it begins"), (0, 9e9, "longer than")):  # fmt: skip
        with pytest.raises(BadAudio, match=why):
            decode(data, start, end)


def with_header(data: bytes, at: int, format: str, value: int) -> bytes:
    return data[:at] + struct.pack(format, value) + data[at + struct.calcsize(format) :]


def test_what_is_no_recording_says_what_is_wrong():
    good = coded(tone(0.5))
    flac = coded(tone(4.0), format="FLAC")
    endless = bytearray(flac)
    endless[21:26] = bytes([endless[21] | 0x0F]) + b"\xff" * 4  # 2^36 samples
    bad = {
        "no sound that can be read": b"no recording",
        "silence": coded(np.zeros(16_000, np.float32)),
        "silence: nothing": coded(np.full(16_000, 1 / 128, np.float32), subtype="PCM_U8"),
        "0 ms of sound": coded(np.zeros(0, np.float32)),
        "10 ms of sound": coded(tone(0.01)),
        "not finite": coded(np.array([np.nan] * 1_000, np.float32), subtype="FLOAT"),
        "1 samples a second": with_header(good, 24, "<I", 1),
        "4,000,000,000 samples a second|no sound": with_header(good, 24, "<I", 4_000_000_000),
        "channels|no sound": with_header(good, 22, "<H", 65_000),
        "truncated|damaged": flac[: len(flac) // 2],
        "truncated: 4.00 s of|damaged": bytes(endless),
    }
    for why, data in bad.items():
        with pytest.raises(BadAudio, match=why):
            decode(data)


def test_a_header_that_claims_hours_takes_no_memory():
    flac = bytearray(coded(tone(1.0), format="FLAC"))
    flac[21:26] = bytes([flac[21] | 0x0F]) + b"\xff" * 4
    tracemalloc.start()
    with pytest.raises(BadAudio):
        decode(bytes(flac))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_no_item_is_longer_than_the_limit_but_parts_of_longer_files_are_read(monkeypatch):
    data = coded(tone(3.0))
    monkeypatch.setattr(audio, "LONGEST", 2.0)
    with pytest.raises(BadAudio, match="longer than 2 s: name parts"):
        decode(data)
    assert len(decode(data, 1.5)) == 24_000


def test_the_sound_of_a_film_is_read_and_one_without_is_named():
    av = pytest.importorskip("av", reason="needs the extra video")
    import io

    def film(sound: bool) -> bytes:
        file = io.BytesIO()
        with av.open(file, "w", format="mp4") as container:
            picture = container.add_stream("mpeg4", rate=25)
            picture.width = picture.height = 32
            track = container.add_stream("aac", rate=48_000) if sound else None
            for _ in range(25):
                container.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
            container.mux(picture.encode())
            if track:
                frame = av.AudioFrame.from_ndarray(tone(1.0, 48_000)[None], "fltp", "mono")
                frame.sample_rate = 48_000
                container.mux(track.encode(frame))
                container.mux(track.encode())
        return file.getvalue()

    found = decode(film(True))
    assert len(found) / 16_000 == pytest.approx(1.0, abs=0.1) and peak_of(found) == pytest.approx(440, abs=5)
    assert len(decode(film(True), 0.25, 0.75)) == 8_000
    with pytest.raises(BadAudio, match="without a sound track"):
        decode(film(False))


def test_without_its_packages_the_extra_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.wav").write_bytes(coded(tone(0.5)))
    (tmp_path / "a.txt").write_text("one")
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    pairs = read_pairs(tmp_path)
    with pytest.raises(UsageError, match=r"pip install 'isthmus\[audio\]'"):
        pairs.decode(0)


WORDS = ("zero", "one", "two", "three")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory) -> Path:
    """Forty recordings of four pitches, their captions in a table, and encoders of both."""
    folder = tmp_path_factory.mktemp("spoken")
    save_speech(folder / "wav2vec2", "wav2vec2")
    save_bert(folder / "bert")
    rows = []
    for k in range(40):
        wave = tone(0.4 + 0.01 * (k % 7), pitch=300 * 1.7 ** (k % 4), seed=k)
        (folder / f"{k:02d}.wav").write_bytes(coded(wave))
        split = "test" if k >= 32 else "val" if k >= 24 else "train"
        rows.append({"audio": f"{k:02d}.wav", "caption": f"{WORDS[k % 4]} said {k}", "split": split, "lang": "en",
                     "speaker": f"s{k % 3}"})  # fmt: skip
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(*arguments: object, code: int = 0) -> None:
    assert main([str(one) for one in arguments]) == code


def test_audio_and_captions_go_the_whole_way_by_the_commands(spoken, tmp_path, capsys):

    rows = (spoken / "pairs.jsonl").read_text().splitlines()
    rows.append(json.dumps({"audio": "quiet.wav", "caption": "nothing", "split": "train"}))
    table = spoken / "with_silence.jsonl"
    table.write_text("\n".join(rows))
    (spoken / "quiet.wav").write_bytes(coded(np.zeros(8_000, np.float32)))
    store, model = tmp_path / "store", tmp_path / "model"
    named = ["--encoder", f"hf:{spoken / 'wav2vec2'}?pool=mean", f"hf:{spoken / 'bert'}"]
    run("embed", table, *named, "--out", store, "--max-skip", "0.1", code=3)
    opened = open_store(store, verify=True)
    assert opened.table("audio").num_rows == 40
    assert "silence" in opened.skipped["reason"].to_pylist()[0]
    pair = ["--modalities", "audio", "text"]
    run("train", store, *pair, "--recipe", "cca", "--set", "head.width=8", "--out", model)
    run("eval", model, "retrieval", table, "--split", "test", "--json", tmp_path / "files.json")
    run("eval", model, "retrieval", store, "--split", "test", "--json", tmp_path / "store.json")
    files, stored = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("files", "store"))
    assert files["metrics"] == pytest.approx(stored["metrics"]) and "image_retrieval_recall@1" in files["metrics"]
    run("search", model, spoken / "pairs.jsonl", "two said 2", "--k", 3)
    assert ".wav" in capsys.readouterr().out
    loaded = ist.load_model(model)
    one = loaded.encode("audio", [str(spoken / "03.wav")])
    np.testing.assert_allclose(one, loaded.encode("audio", decode((spoken / "03.wav").read_bytes())), atol=1e-5)


def test_a_folder_of_recordings_with_texts_beside_them_is_pairs(spoken, tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.wav").write_bytes((spoken / f"0{k}.wav").read_bytes())
        (tmp_path / f"{k}.txt").write_text(f"number {k}\n")
    pairs = read_pairs(tmp_path)
    assert pairs.modality == "audio" and pairs.captions["caption"].to_pylist() == ["number 0", "number 1", "number 2"]
    assert len(pairs.decode(1)) == len(decode((spoken / "01.wav").read_bytes()))


def test_a_recording_longer_than_the_encoder_takes_is_listed_and_shifts_nothing(spoken, tmp_path):
    rows = [{"audio": str(spoken / "00.wav"), "caption": "a"}, {"audio": "long.wav", "caption": "b"},
            {"audio": str(spoken / "01.wav"), "caption": "c"}]  # fmt: skip
    (tmp_path / "long.wav").write_bytes(coded(tone(2.5)))
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    encoders = [f"hf:{spoken / 'wav2vec2'}?seconds=2", f"hf:{spoken / 'bert'}"]
    with pytest.raises(InputError, match="skipped"):
        ist.embed(tmp_path / "pairs.jsonl", encoders=encoders, out=tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert "longer than the 2 s" in store.skipped["reason"].to_pylist()[0]
    assert store.pairs(modalities=("audio", "text")).captions == ["a", "c"]


def lrs(folder: Path, sound: Path, *names: str) -> None:
    """Clips as LRS2 and LRS3 have them, with their sound beside."""
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.wav").write_bytes(sound.read_bytes())
        (folder / f"{name}.mp4").write_bytes(b"")
        (folder / f"{name}.txt").write_text(f"Text:  IT'S LINE {k}\nConf:  4\n\nWORD START END ASDSCORE\n")


def rows_of(pairs) -> list[tuple]:
    caption = dict(zip(pairs.captions["id"].to_pylist(), pairs.captions["caption"].to_pylist(), strict=True))
    return [(row["id"], caption[row["id"]], row["split"], row.get("speaker")) for row in pairs.images.to_pylist()]


def test_lrs2_lrs3_and_lrw_are_read_as_they_are_published(spoken, tmp_path):
    two, three, words = tmp_path / "lrs2", tmp_path / "lrs3", tmp_path / "lrw"
    sound = spoken / "00.wav"
    lrs(two, sound, "main/535/00001", "main/535/00002", "main/6/00001", "pretrain/7/00001")
    (two / "train.txt").write_text("535/00001\n535/00002\n")
    (two / "test.txt").write_text("6/00001 NF\n")
    assert rows_of(read_pairs(two)) == [
        ("main/535/00001.wav", "IT'S LINE 0", "train", None),
        ("main/535/00002.wav", "IT'S LINE 1", "train", None),
        ("main/6/00001.wav", "IT'S LINE 2", "test", None),
        ("pretrain/7/00001.wav", "IT'S LINE 3", "train", None),
    ]
    lrs(three, sound, "test/ab/00001", "trainval/cd/50001")
    (three / "trainval/cd/50002.mp4").write_bytes(b"")
    read = read_pairs(three)
    assert rows_of(read) == [
        ("test/ab/00001.wav", "IT'S LINE 0", "test", None),
        ("trainval/cd/50001.wav", "IT'S LINE 1", "train", "cd"),
    ]
    assert any("1 clips without a transcript, as trainval/cd/50002.mp4" in note for note in read.notes)
    for name in ("ABOUT/train/ABOUT_00001", "ABOUT/test/ABOUT_00001", "YEARS/val/YEARS_00012"):
        (words / name).parent.mkdir(parents=True)
        (words / f"{name}.wav").write_bytes(sound.read_bytes())
        (words / f"{name}.txt").write_text("Duration: 0.53 seconds\n")
    read = read_pairs(words)
    assert read.images["label"].to_pylist() == ["ABOUT", "ABOUT", "YEARS"] == read.captions["caption"].to_pylist()
    assert read.images["split"].to_pylist() == ["test", "train", "val"] and len(read.decode(0)) > 0


def test_parts_speakers_and_languages_of_a_table_are_kept(spoken, tmp_path):
    (tmp_path / "a.wav").write_bytes(coded(tone(3.0)))
    (tmp_path / "pairs.csv").write_text(
        "audio,start,end,caption,speaker,lang\na.wav,0,1.0,one,ann,en\na.wav,1.0,2.5,twee,bob,nl\n"
    )
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert [len(pairs.decode(row)) for row in (0, 1)] == [16_000, 24_000] and not pairs.notes
    assert pairs.images["speaker"].to_pylist() == ["ann", "bob"] and pairs.captions["lang"].to_pylist() == ["en", "nl"]
