"""From pairs to a store: resumed, deduplicated, and never a caption on another's image."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.embedding import embed
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError
from store_cases import snapshot
from tiny_encoders import save_bert
from toys import picture, pixel_encoder, png, word_encoder, write_pairs


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "data", copies=2)


def test_features_are_those_of_each_caption_and_its_image(table: Path, tmp_path: Path) -> None:
    image, text = pixel_encoder(), word_encoder()
    store = ist.embed(table, image, text, out=tmp_path / "store", batch_size=7)
    pairs = store.pairs()
    rows = {row["image"]: row["caption"] for row in map(json.loads, table.read_text().splitlines())}
    for number in (0, 5, 63, 64, 127):
        caption, owner = pairs.captions[number], pairs.image_ids[pairs.image_of[number]]
        assert rows[owner] == caption
        one = ist.data.decode((table.parent / owner).read_bytes())
        np.testing.assert_allclose(pairs.image.gather(pairs.image_of[[number]]), image.encode([one]), atol=2e-3)
        np.testing.assert_allclose(pairs.text.gather(np.array([number])), text.encode([caption]), atol=1e-2)


def test_bad_images_are_listed_and_shift_nothing(table: Path, tmp_path: Path) -> None:
    good = ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "good").pairs()
    (table.parent / "0-003.png").write_bytes(b"not a picture")
    (table.parent / "0-040.png").unlink()
    truncated = (table.parent / "1-007.png").read_bytes()
    (table.parent / "1-007.png").write_bytes(truncated[: len(truncated) // 2])
    report = embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "bad", max_skip=0.1)
    assert {name for name, _ in report.skipped} == {"0-003.png", "0-040.png", "1-007.png"}
    store = ist.open_store(tmp_path / "bad")
    assert store.skipped["id"].to_pylist() == [name for name, _ in report.skipped]
    pairs = store.pairs()
    assert len(pairs) == len(good) - 3
    for row, name in enumerate(pairs.image_ids):
        same = good.image_ids.index(name)
        np.testing.assert_array_equal(pairs.image.gather(np.array([row])), good.image.gather(np.array([same])))
        assert pairs.captions[row] == good.captions[same]


def test_too_many_bad_images_fail_but_keep_the_rest(table: Path, tmp_path: Path) -> None:
    for number in range(10):
        (table.parent / f"0-{number:03d}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"10 of .* were skipped.*skipped.parquet.*0-000.png"):
        embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    assert len(ist.open_store(tmp_path / "store")) == 118


def test_equal_images_and_captions_are_encoded_once(tmp_path: Path) -> None:
    same = png(picture("red", "dark", "left"))
    rows = []
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(same if number < 4 else png(picture("blue", "pale", "top", number)))
        rows.append({"image": f"{number}.png", "captions": ["a square", f"number {number % 2}"]})
    table = tmp_path / "pairs.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    report = embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    assert report.encoded == {"image": 3, "text": 3}
    pairs = ist.open_store(tmp_path / "store").pairs()
    assert (len(pairs), len(pairs.image_of)) == (6, 12)
    assert len(set(pairs.image_group.tolist())) == 1  # all linked through "a square"


def test_a_second_run_computes_nothing_and_a_changed_image_again(table: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def count(images: list) -> np.ndarray:
        calls.append(len(images))
        return pixel_encoder().encode(images)

    image = from_callable(count, "image", "counted", width=108)
    embed(table, image, word_encoder(), out=tmp_path / "store")
    assert sum(calls) == 128
    calls.clear()
    report = embed(table, image, word_encoder(), out=tmp_path / "store")
    assert (calls, report.encoded) == ([], {"image": 0, "text": 0})
    (table.parent / "0-000.png").write_bytes(png(picture("blue", "bright", "top", 999)))
    assert embed(table, image, word_encoder(), out=tmp_path / "store").encoded["image"] == 1


def test_another_encoder_is_added_to_the_store(table: Path, tmp_path: Path) -> None:
    embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    flat = from_callable(lambda images: np.stack([np.asarray(i.resize((2, 2)), np.float32).ravel() for i in images]),
                         "image", "flat-1", name="flat")  # fmt: skip
    embed(table, flat, word_encoder(), out=tmp_path / "store")
    store = ist.open_store(tmp_path / "store")
    assert store.pairs(image=["callable:pixels", "callable:flat"]).image_parts == [108, 12]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_by_name(table: Path, tmp_path: Path, value: float) -> None:
    broken = from_callable(lambda images: np.full((len(images), 4), value, np.float32), "image", "bad", width=4)
    with pytest.raises(InputError, match=r"NaN or infinity.*0-000\.png"):
        embed(table, broken, word_encoder(), out=tmp_path / "store")


def test_one_name_that_stands_for_several_layers_embeds_all_of_them(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [pixel_encoder(f"pixels-{layer}") for layer in range(3)]  # what `layer=*` of one URI loads
    monkeypatch.setattr(
        "isthmus.embedding.networks.load_encoders", lambda some, **_: layers if isinstance(some[0], str) else some
    )
    store = ist.embed(table, "wheel:some?layer=*", [word_encoder()], out=tmp_path / "store")
    assert [r["fingerprint"] for r in store.encoders if r["modality"] == "image"] == [v.fingerprint for v in layers]


def test_only_embeds_the_ids_that_are_asked_for(table: Path, tmp_path: Path) -> None:
    report = embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store", only=["0-001.png", "1-002.png"])
    assert report.images == 2
    with pytest.raises(InputError, match=r"nothing\.png"):
        embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "other", only=["nothing.png"])


RUN = """
import sys, time
sys.path.insert(0, {tests!r})
from store_cases import snapshot
from toys import pixel_encoder, word_encoder
import isthmus.embedding.work_plan as units
from isthmus.embedding import embed
from isthmus.encoders.callables import from_callable
units.LEAST_ITEMS = 8
fast = pixel_encoder()
def slow(images):
    time.sleep(0.03)
    return fast.encode(images)
embed({table!r}, from_callable(slow, "image", "slow-1", width=108), word_encoder(), out={out!r}, batch_size=4)
"""


def run_embed(table: Path, out: Path) -> subprocess.Popen:
    code = RUN.format(tests=str(Path(__file__).parent), table=str(table), out=str(out))
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_finished_by_the_same_command(table: Path, tmp_path: Path, stop: signal.Signals) -> None:
    """Killed after some shards are on disk; what they hold is not computed again, and nothing is lost."""
    out = tmp_path / "store"
    process = run_embed(table, out)
    deadline = time.monotonic() + 60
    while len(list(out.glob("features/image/*/shard-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, stop)
    process.wait(timeout=30)
    with pytest.raises(InputError, match="unfinished"):
        ist.open_store(out)
    finish = run_embed(table, out)
    assert finish.wait(timeout=60) == 0, finish.stderr.read().decode()
    ist.open_store(out, verify=True)
    whole = tmp_path / "whole"
    assert run_embed(table, whole).wait(timeout=60) == 0
    assert snapshot(out) == snapshot(whole)


def long_captions(folder: Path) -> Path:
    """Four captions of three texts, of which the one that stands twice is longer than 16 tokens."""
    captions = ["a red dog " * 8, "a cat", "a blue photo of two dogs", "a red dog " * 8]
    for number in range(4):
        (folder / f"{number}.png").write_bytes(png(picture("red", "pale", "top", number)))
    rows = [{"image": f"{number}.png", "caption": caption} for number, caption in enumerate(captions)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "pairs.jsonl"


def test_captions_that_an_encoder_cuts_are_counted(tmp_path: Path) -> None:
    table, bert = long_captions(tmp_path), save_bert(tmp_path / "bert")
    encoders = [f"hf:{bert}?pool=cls", f"hf:{bert}?pool=mean", f"hf:{bert}?max_tokens=6"]
    said = [
        f"2 of 4 captions are longer than the 16 tokens that hf:{bert} reads; they are cut.",
        f"3 of 4 captions are longer than the 6 tokens that hf:{bert}?max_tokens=6 reads; they are cut.",
    ]
    for _ in range(2):  # also where nothing is left to encode
        report = embed(table, pixel_encoder(), encoders, out=tmp_path / "store")
        assert report.notes == said
    assert embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "words").notes == []
    assert embed(table, pixel_encoder(), out=tmp_path / "images").notes == []


def test_the_command_says_which_captions_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, bert = long_captions(tmp_path), save_bert(tmp_path / "bert")
    told = tmp_path / "report.json"
    arguments = ["embed", str(table), "--text-encoder", f"hf:{bert}", "--out", str(tmp_path / "store")]
    assert main([*arguments, "--json", str(told)]) == 0
    said = f"2 of 4 captions are longer than the 16 tokens that hf:{bert} reads; they are cut."
    assert f"  note: {said}" in capsys.readouterr().err.splitlines()
    assert json.loads(told.read_text())["notes"] == [said]


def test_a_dry_run_says_which_captions_would_be_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, bert = long_captions(tmp_path), save_bert(tmp_path / "bert")
    arguments = ["embed", str(table), "--text-encoder", f"hf:{bert}", "--out", str(tmp_path / "store"), "--dry-run"]
    assert main([*arguments, "--json", str(tmp_path / "plan.json")]) == 0
    said = f"2 of 4 captions are longer than the 16 tokens that hf:{bert} reads; they are cut."
    assert f"  note: {said}" in capsys.readouterr().err.splitlines()
    assert json.loads((tmp_path / "plan.json").read_text())["notes"] == [said]
    assert not (tmp_path / "store").exists()
