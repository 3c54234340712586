"""Recognisers trained from a store of spoken lines: stages, hand-over, noise, resumption, evaluation, transcription."""

from __future__ import annotations

import io
import json
import re
import struct
import tracemalloc
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus as ist
from films import at_rate
from isthmus.cli import main
from isthmus.encoders import load_encoder
from isthmus.errors import InputError, UsageError
from isthmus.models.saved import load_encoders_of
from isthmus.models.speech_model import SpeechModel
from isthmus.speech.windows import windows
from isthmus.training.fit import Fitting
from isthmus.training.freezing import digest
from isthmus.training.recipe import load_recipe
from isthmus.training.run import Run
from isthmus.training.speech.data import split_lines
from isthmus.training.speech.objective import SpeechObjective
from isthmus.training.speech.recipe import NoiseOptions
from isthmus.training.speech.train import train as train_speech
from isthmus.training.speech.versions import with_versions
from isthmus.weights import read_tensors
from sounds import coded, tone
from speech_cases import TINY, changes, embed_lines, register, spoken, toy_recogniser, write_lines

pytest.importorskip("soxr", reason="needs the extra audio")


@pytest.fixture(autouse=True, scope="module")
def registered():
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        yield


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """Lines, their stores (of both senses and of each), and a model of all stages that the command trained in noise."""
    folder = tmp_path_factory.mktemp("speech")
    table = write_lines(folder / "data")
    for name, senses in (("store", ("ear", "eye")), ("heard", ("ear",)), ("seen", ("eye",))):
        embed_lines(table, folder / name, *senses)
    told = ["train", folder / "store", "--recipe", "avsr-small", *changes(), "--recordings", table]
    with redirect_stdout(io.StringIO()) as said:
        assert main([str(one) for one in [*told, "--noise", folder / "data" / "noise", "--out", folder / "model"]]) == 0
    end = said.getvalue()
    assert re.search(r"^validation: cer \d+\.\d %, cer clean \d+\.\d %$", end, re.M) and f"transcribe {folder}" in end
    return folder


def train(store: Path, out: Path | None, *more: str, **options: object) -> SpeechModel:
    return ist.train(store, recipe="avsr-small", overrides=[*TINY, *more], out=out, **options)  # type: ignore[return-value]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# --- stages ---------------------------------------------------------------------------------------------------


def test_the_model_of_both_has_the_very_back_ends_of_the_stages_before(here):
    """What each stage ended with, from its own checkpoint, against what the last one has after training: by hash."""
    ended = {}
    for stage in ("audio", "video", "both"):
        folder = here / "model" / "stages" / stage / "checkpoint"
        state = json.loads((folder / "state.json").read_text())
        tensors = read_tensors(folder / state["file"], state["digest"], "cpu")
        best = {name.removeprefix("best."): one for name, one in tensors.items() if name.startswith("best.")}
        ended[stage] = best or {name[6:]: one for name, one in tensors.items() if name.startswith("model.")}
    model = ist.load_model(here / "model")
    assert list(model.networks) == ["audio", "video", "av"]
    for sense in ("audio", "video"):
        wanted = digest({k: v for k, v in ended[sense].items() if k.startswith(f"back_ends.{sense}.")})
        for name in (sense, "av"):
            held = model.networks[name].state_dict()
            assert digest({k: v for k, v in held.items() if k.startswith(f"back_ends.{sense}.")}) == wanted
    assert not any(name.startswith("back_ends.") for name in ended["both"])  # frozen: no checkpoint keeps them
    stored = read_tensors(here / "model" / "model.safetensors", json.loads(
        (here / "model" / "config.json").read_text())["weights"], "cpu")  # fmt: skip
    assert not any(name.startswith("av.back_ends.") for name in stored)  # and they are written once


def test_a_gated_model_that_has_not_been_trained_on_reads_as_the_audio_model(here, tmp_path):
    model = train(here / "store", None, "optim.epochs=0")
    lines = split_lines(here / "store")["val"]
    states = {name: lines.take(name, np.arange(4)) for name in ("audio", "video")}
    assert model.texts(states, "av") == model.texts({"audio": states["audio"]}, "audio")
    joined = [model.networks[name]({k: v[0] for k, v in states.items()}, {k: v[1] for k, v in states.items()})[0]
              for name in ("av", "audio")]  # fmt: skip
    assert torch.equal(*joined)


def test_stages_follow_what_the_store_holds(here):
    assert list(train(here / "heard", None).networks) == ["audio"]
    seen = train(here / "seen", None)
    assert list(seen.networks) == ["video"]
    assert [one["stage"] for one in seen.summary["stages"]] == ["words", "video"]
    with pytest.raises(UsageError, match="no audio"):
        seen.states("audio", ["x.wav"])
    with pytest.raises(UsageError, match="reads video, not audio"):
        seen.read({"video": split_lines(here / "seen")["val"].take("video", np.arange(1))}, "audio")


def test_a_run_in_stages_resumes_bit_for_bit(here, tmp_path, monkeypatch):
    options = {"recordings": here / "data" / "lines.jsonl", "noise": here / "data" / "noise"}
    masks = ["masks.spans=1", "masks.channels=1", "speech.dropout=0.1"]
    train(here / "store", tmp_path / "whole", *masks, **options)
    step, taken = Run.step, []

    def mortal(self: Run) -> int:
        taken.append(1)
        if len(taken) == 8:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Run, "step", mortal)
    with pytest.raises(KeyboardInterrupt):
        train(here / "store", tmp_path / "cut", *masks, checkpoint_seconds=0, **options)
    monkeypatch.undo()
    assert (tmp_path / "cut" / "stages").is_dir() and not (tmp_path / "cut" / "config.json").exists()
    train(here / "store", tmp_path / "cut", *masks, **options)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_saved_model_reads_as_before(here, tmp_path):
    model = ist.load_model(here / "model")
    again = ist.load_model(model.save_pretrained(tmp_path / "copy"))
    lines = split_lines(here / "store")["test"]
    states = {name: lines.take(name, np.arange(3)) for name in ("audio", "video")}
    assert again.texts(states) == model.texts(states) and again.describe() == model.describe()
    live = model.states("audio", [here / "data" / lines.ids[0]])
    np.testing.assert_allclose(live[0][0], states["audio"][0][0, : int(live[1])], rtol=2e-3, atol=2e-3)
    assert "What it has seen" in (here / "model" / "README.md").read_text()
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    assert config["kind"] == "speech" and main(["doctor", str(tmp_path / "copy")]) == 0


def test_layers_can_be_mixed_and_words_cut_in_pieces(here, tmp_path):
    table = here / "data" / "lines.jsonl"
    assert (
        main(["embed", str(table), "--encoder", "letters:ear?layer=*&pool=states", "--out", str(tmp_path / "s")]) == 0
    )
    model = train(tmp_path / "s", tmp_path / "m", "speech.front=saum", "speech.layers=0", "speech.subwords=12")
    loaded = ist.load_model(tmp_path / "m")
    assert len(loaded.records["audio"]) == 2 and loaded.networks["audio"].shape.layers == 2
    assert loaded.symbols.to_dict() == model.symbols.to_dict()
    assert loaded.symbols.decode(loaded.symbols.encode(["cab ab"])[0].tolist()) == "cab ab"
    assert loaded.states("audio", [here / "data" / "0.wav"])[0].shape[-1] == 24


# --- noise ----------------------------------------------------------------------------------------------------


def test_lines_are_heard_through_noise_that_is_none_of_them(here):
    assert sorted(one.name for one in (here / "model" / "heard").iterdir()) == ["5dB"]
    table, noise = here / "data" / "lines.jsonl", here / "data" / "noise"
    with pytest.raises(UsageError, match="--recordings"):
        train(here / "heard", None, noise=noise)
    with pytest.raises(InputError, match="recordings of the noise are in the lines as well"):
        train(here / "heard", None, recordings=table, noise=here / "data" / "3.wav")
    other = here / "other" / "lines.jsonl"
    if not other.exists():
        write_lines(here / "other", 47)
        for number in range(47):
            (here / "other" / f"{number}.wav").write_bytes(coded(spoken("abc", 100 + number)))
    with pytest.raises(InputError, match="1 lines of the store have no recording there"):
        train(here / "heard", None, recordings=other, noise=noise)


def test_a_line_at_which_the_noise_is_silent_is_left_out_of_that_noise(here, tmp_path):
    lines, table = split_lines(here / "heard"), here / "data" / "lines.jsonl"
    (tmp_path / "bell.wav").write_bytes(coded(np.concatenate([tone(0.3), np.zeros(160_000, np.float32)])))
    how = Fitting(out=tmp_path, progress=False)
    heard = with_versions(
        lines, NoiseOptions(snr=(5.0,)), how, recordings=table, noise=tmp_path / "bell.wav", folder=tmp_path / "heard"
    )
    rows = heard["train"].versions[0].rows
    assert 0 < (rows < 0).sum() < len(rows)
    skipped = ist.open_store(tmp_path / "heard" / "5dB").skipped
    assert "the noise is silent" in skipped["reason"][0].as_py()


def test_a_checkpoint_tells_other_noise_apart(here, tmp_path):
    lines, table = split_lines(here / "heard"), here / "data" / "lines.jsonl"
    (tmp_path / "noise").mkdir()
    for number in range(2):
        (tmp_path / "noise" / f"{number}.wav").write_bytes(coded(tone(1.0, pitch=300 + number)))
    told = []
    for noise in (here / "data" / "noise", tmp_path / "noise"):
        options, how = NoiseOptions(snr=(5.0,), voices=2), Fitting(out=tmp_path, progress=False)
        heard = with_versions(lines, options, how, recordings=table, noise=noise, folder=tmp_path / "heard")
        told.append(heard["train"].identity())
    assert told[0] != told[1]


def test_other_speeds_are_for_sound_alone_and_take_other_states(here, tmp_path):
    table = here / "data" / "lines.jsonl"
    model = train(here / "store", tmp_path, "noise.speeds=[0.8]", "noise.fast=1.0", recordings=table)
    assert [one.name for one in (tmp_path / "heard").iterdir()] == ["clean-0.8x"]
    lines = split_lines(here / "heard")["train"]
    assert (
        ist.open_store(tmp_path / "heard" / "clean-0.8x").states("audio").lengths([0])[0] > lines.lengths("audio").min()
    )
    assert list(model.networks) == ["audio", "video", "av"]


# --- evaluation -----------------------------------------------------------------------------------------------


def test_the_command_evaluates_every_sense_at_every_ratio(here, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table, noise = here / "data" / "lines.jsonl", here / "data" / "noise"
    told = ["eval", here / "model", "speech", table, "--split", "test", "--snr", "clean,5,-5", "--noise", noise]
    more = ["--beam", 0, "--json", tmp_path / "r.json", "--report", tmp_path / "r.html"]
    assert main([str(one) for one in [*told, *more]]) == 0
    assert "-5 dB" in capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    levels = ["clean", "5 dB", "-5 dB"]
    asked = [("av", one) for one in levels] + [("audio", one) for one in levels] + [("video", "any")]
    assert [(one["modality"], one["snr"]) for one in found] == asked
    jiwer = pytest.importorskip("jiwer")
    for one in found:
        right, read = ([line[key] for line in one["transcripts"]] for key in ("reference", "found"))
        assert len({line["id"] for line in one["transcripts"]}) == len(right)
        assert one["metrics"]["cer"] == pytest.approx(jiwer.cer(right, read))
        assert one["metrics"]["wer"] == pytest.approx(jiwer.wer(right, read))
        assert one["n"]["lines"] == 8 and one["ci95"]["cer"][0] <= one["metrics"]["cer"] <= one["ci95"]["cer"][1]
    both, heard = found[0], found[3]
    assert both["metrics"]["cer_minus_audio"] == pytest.approx(both["metrics"]["cer"] - heard["metrics"]["cer"])
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 2 and all(line["reference"] in page for line in both["transcripts"])
    assert found[0]["seen_items"]["audio items"]["train"] == 0


def test_evaluation_says_what_it_cannot_do(here, tmp_path):
    table = here / "data" / "lines.jsonl"
    with pytest.raises(UsageError, match="--noise PATH"):
        ist.evaluate(here / "model", "speech", table, snr=["0"])
    with pytest.raises(UsageError, match="--snr loud"):
        ist.evaluate(here / "model", "speech", table, snr=["loud"])
    with pytest.raises(UsageError, match="--snr nan: clean, or a number of dB from -100 to 100"):
        ist.evaluate(here / "model", "speech", table, snr=["nan"], noise=here / "data" / "noise")
    with pytest.raises(UsageError, match="this model has av, a, v"):
        ist.evaluate(here / "model", "speech", table, modality=["x"])
    with pytest.raises(InputError, match="holds features"):
        ist.evaluate(here / "model", "speech", here / "heard")
    rows = [json.loads(line) for line in table.read_text().splitlines()[:3]]
    rows[1] |= {"audio": str(here / "data" / "lines.jsonl")}
    rows[2] |= {"caption": "…", "id": "empty"}
    for row in rows:
        row["video"] = str(here / "data" / row["video"])
        row["audio"] = str(here / "data" / row["audio"])
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = ist.load_model(here / "model")
    model.symbols = type(model.symbols)(model.symbols.characters, "spoken")
    (found,) = ist.evaluate(model, "speech", tmp_path / "t.jsonl", modality=["a"], bootstrap=0)
    reasons = dict(found["skipped"])
    assert found["n"]["lines"] == 1 and len(reasons) == 2
    assert "empty" in reasons["empty"] and any("no sound" in one for one in reasons.values())


def test_a_line_that_is_too_long_for_the_encoder_is_listed_and_spoils_no_other(tmp_path):
    model = toy_recogniser(tmp_path / "whisper")
    model = model.with_encoders(audio=[load_encoder(model.records["audio"][0]["uri"])])
    rows = []
    for name, seconds in (("one", 1.0), ("long", 3.0), ("two", 1.5)):  # the toy hears two seconds
        (tmp_path / f"{name}.wav").write_bytes(coded(tone(seconds)))
        rows.append(json.dumps({"audio": f"{name}.wav", "caption": "ab", "id": name}))
    (tmp_path / "lines.jsonl").write_text("\n".join(rows))
    (found,) = ist.evaluate(model, "speech", tmp_path / "lines.jsonl", bootstrap=0)
    assert found["n"]["lines"] == 2
    ((line, why),) = found["skipped"]
    assert line == "long" and "3.0 s are longer" in why
    with pytest.raises(InputError, match="recordings of the noise are in the lines as well"):
        ist.evaluate(model, "speech", tmp_path / "lines.jsonl", snr=["0"], noise=tmp_path / "one.wav")


def test_other_commands_say_what_a_model_of_speech_is_for(here, capsys):
    model, page = str(here / "model"), str(here / "data" / "0.npy")
    for command, why in (
        (["serve", model, "--port", "0"], "a model of kind 'speech' (for isthmus transcribe) is not served"),
        (["ask", model, page, "what?"], "answering questions needs one that reads the layers"),
        (["index", model, str(here / "data"), "--out", str(here / "index")], "not 'dual_encoder', which is needed"),
    ):
        assert main(command) in (1, 2)
        assert why in capsys.readouterr().err


# --- transcription --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "kind"), [(8_000, "PCM_U8"), (96_000, "PCM_24"), (44_100, "FLOAT")])
def test_the_command_transcribes_any_width_and_rate(here, tmp_path, capsys, rate, kind):
    time = np.arange(round(len(wave := spoken("abc ab")) * rate / 16_000)) * 16_000 / rate
    resampled = np.interp(time, np.arange(len(wave)), wave).astype(np.float32)
    (tmp_path / "one.wav").write_bytes(coded(resampled, rate, subtype=kind))
    told = ["transcribe", str(here / "model"), str(tmp_path / "one.wav"), "--srt", "--json", str(tmp_path / "one.json")]
    assert main(told) == 0
    found = json.loads((tmp_path / "one.json").read_text())
    assert " ".join(word["word"] for word in found["words"]) == found["text"]
    assert all(0 <= word["start"] < word["end"] <= 1.2 for word in found["words"])
    assert (tmp_path / "one.wav.srt").exists() and "subtitles" in capsys.readouterr().out


def test_what_cannot_be_transcribed_is_said_and_spoils_no_other(here, tmp_path, capsys):
    (tmp_path / "good.wav").write_bytes(coded(spoken("abc")))
    (tmp_path / "still.wav").write_bytes(coded(np.zeros(8_000, np.float32)))
    (tmp_path / "note.wav").write_text("hello")
    files = [str(tmp_path / name) for name in ("good.wav", "still.wav", "note.wav")]
    assert main(["transcribe", str(here / "model"), *files]) == 3
    said = capsys.readouterr()
    assert "good.wav:" in said.out and "silence" in said.err and "no sound that can be read" in said.err
    (tmp_path / "mute.mp4").write_bytes(at_rate(25))
    (tmp_path / "film.mp4").write_bytes(at_rate(25, sound=(spoken("abc cab"), 0.0)))
    whys = {"still.wav": "silence", "mute.mp4": "a film without a sound track", "note.wav": "note.wav: no sound"}
    for name, why in {**whys, "": "a folder, not a recording"}.items():
        assert main(["transcribe", str(here / "model"), str(tmp_path / name)]) == 1
        assert why in capsys.readouterr().err
    assert main(["transcribe", str(here / "model"), files[0], "--beam", "-1"]) == 2
    assert "decoding.beam must be from 0 to 100, not -1" in capsys.readouterr().err
    assert ist.transcribe(here / "model", tmp_path / "film.mp4").seconds == pytest.approx(1.0, abs=0.2)
    with pytest.raises(InputError, match="reads no speech"):
        toy = tmp_path / "dual"
        toy.mkdir()
        (toy / "config.json").write_text('{"format": 1}')
        ist.transcribe(toy, files[0])


def test_subtitles_break_at_pauses_and_full_lines(here):
    from isthmus.inference.transcribe import Transcript
    from isthmus.speech.times import SpokenWord

    words = [SpokenWord("hold", 0.5, 0.9), SpokenWord("on", 1.0, 1.2), SpokenWord("please", 3_725.25, 3_726)]
    assert Transcript("x", "hold on please", words).srt() == (
        "1\n00:00:00,500 --> 00:00:01,200\nhold on\n\n2\n01:02:05,250 --> 01:02:06,000\nplease\n"
    )
    many = [SpokenWord("word", k / 4, k / 4 + 0.2) for k in range(40)]
    cues = re.findall(r"\n((?:word ?)+)\n", Transcript("x", "", many).srt())
    assert sum(one.count("word") for one in cues) == 40 and max(map(len, cues)) <= 42


def test_long_recordings_are_cut_where_it_is_quiet_in_bounded_memory(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    word = np.concatenate([spoken("abc"), np.zeros(3_200, np.float32)])
    with soundfile.SoundFile(tmp_path / "long.wav", "w", 16_000, 1) as file:
        for _ in range(600):
            file.write(word)  # seven minutes
    tracemalloc.start()
    total, most = 0, 0
    for start, window in windows(tmp_path / "long.wav", 4.0):
        assert round(start * 16_000) == total  # nothing is lost between windows
        total += len(window)
        most = max(most, len(window))
        assert np.abs(window[-160:]).max() < 0.05  # cut in a pause
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 600 * len(word) and most <= 64_000
    assert held < 12e6 < 4 * total  # the whole would be 27 MB


def test_the_sound_of_a_film_is_read_in_bounded_memory_however_large_and_late(tmp_path):
    bulk = struct.pack(">I4s", 30_000_000, b"free")
    large = at_rate(25, sound=(spoken("abc cab"), 0.0)) + bulk + bytes(30_000_000 - len(bulk))
    late = at_rate(25, sound=(spoken("abc cab"), 1200.0), format="matroska")
    (tmp_path / "large.mp4").write_bytes(large)
    (tmp_path / "late.mkv").write_bytes(late)
    del large
    for name, begins in (("large.mp4", 0.0), ("late.mkv", 1200.0)):
        tracemalloc.start()
        heard = list(windows(tmp_path / name, 4.0))
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert held < 8e6  # the file is 30 MB, twenty minutes of silence 77
        start, wave = heard[-1]
        assert start + len(wave) / 16_000 == pytest.approx(begins + 1.04, abs=0.2)


def test_a_permission_to_run_code_is_for_the_encoders_of_this_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_recogniser(tmp_path / "whisper").save_pretrained(tmp_path / "model")
    given: list[dict] = []

    def noted(records: dict, **options: object) -> dict:
        given.append(options)
        return load_encoders_of(records, **options)

    monkeypatch.setattr("isthmus.models.speech_model.load_encoders_of", noted)
    SpeechModel.from_pretrained(tmp_path / "model")
    assert given == []  # loaded when it is first needed, without a permission
    SpeechModel.from_pretrained(tmp_path / "model", trust_remote_code=True)
    assert [one["trust_remote_code"] for one in given] == [True]


# --- slow -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_learns_to_read_what_it_hears_and_sees(here, tmp_path):
    more = ["optim.epochs=40", "speech.width=32", "optim.lr=3e-3", "losses.ctc=0.7"]
    train(here / "store", tmp_path, *more)
    table = here / "data" / "lines.jsonl"
    found = ist.evaluate(tmp_path, "speech", table, split="test", bootstrap=0)
    assert {one["modality"]: one["metrics"]["cer"] < 0.25 for one in found} == dict.fromkeys(
        ("av", "audio", "video"), True
    )


@pytest.mark.slow
def test_the_published_recipe_is_built_at_full_size_and_steps(here):
    recipe = load_recipe("avsr", ["optim.batch=2"])
    lines = split_lines(here / "store", layers=1)
    from isthmus.speech.vocabulary import Characters
    from isthmus.training.fit import Fitting, fit

    symbols = Characters.of(lines["train"].texts)
    for senses, least in (("audio", 38e6), ("av", 75e6)):
        stage = next(one for one in recipe.stages if recipe.at(one).speech.senses == senses)
        objective = SpeechObjective(lines["train"], None, symbols, senses)
        run = fit(objective, recipe.at(stage), Fitting(max_epochs=0.05))
        assert run.state.step >= 1 and sum(one.numel() for one in run.module.parameters()) > least
    assert train_speech is not None
