"""What a user does wrong ends in one clear message, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.errors import InputError
from toys import pixel_encoder, word_encoder, write_pairs

ENCODERS = ["--image-encoder", "wheel:efficientnet-lite0", "--text-encoder", "wheel:minilm-l6"]


def empty(folder: Path) -> Path:
    pq.write_table(pa.table({"image": pa.array([], pa.string()), "caption": []}), folder / "t.parquet")
    return folder / "t.parquet"


def without_captions(folder: Path) -> Path:
    pq.write_table(pa.table({"image": ["a.png"], "captoin": ["a"]}), folder / "t.parquet")
    return folder / "t.parquet"


def blank_captions(folder: Path) -> Path:
    pq.write_table(pa.table({"image": ["a.png", "b.png"], "caption": [" ", None]}), folder / "t.parquet")
    return folder / "t.parquet"


def repeated_ids(folder: Path) -> Path:
    pq.write_table(
        pa.table({"id": ["x", "y", "x"], "image": ["a", "b", "c"], "caption": ["a", "b", "c"]}), folder / "t.parquet"
    )
    return folder / "t.parquet"


def damaged_parquet(folder: Path) -> Path:
    data = repeated_ids(folder).read_bytes()
    (folder / "t.parquet").write_bytes(data[: len(data) // 2])
    return folder / "t.parquet"


def damaged_jsonl(folder: Path) -> Path:
    (folder / "t.jsonl").write_text('{"image": "a.png", "caption": "a"}\n{"image": \n')
    return folder / "t.jsonl"


def folder_without_images(folder: Path) -> Path:
    (folder / "notes.txt").write_text("hello")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (empty, r"t.parquet"),
        (without_captions, r"t.parquet: .*caption"),
        (blank_captions, r"t.parquet: .*no caption"),
        (repeated_ids, r"t.parquet.*'x'.*(row|rows) "),
        (damaged_parquet, r"t.parquet"),
        (damaged_jsonl, r"t.jsonl.*(line|row) "),
        (folder_without_images, r"no images"),
    ],
)
def test_pairs_that_cannot_be_used(
    make: Callable[[Path], Path], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    code = main(["embed", str(make(tmp_path / "data")), *ENCODERS, "--out", str(tmp_path / "store")])
    error = capsys.readouterr().err
    assert code == 1 and "Traceback" not in error
    assert re.search(message, error), error
    assert not (tmp_path / "store" / "store.json").exists()


@pytest.mark.parametrize(
    ("rows", "damage", "message"),
    [
        ((20, 19), None, r"19.*20|20.*19"),
        ((20, 20), np.nan, r"NaN or infinity"),
        ((20, 20), np.inf, r"NaN or infinity"),
    ],
)
def test_arrays_that_cannot_be_used(
    rows: tuple[int, int], damage: float | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    image, text = (rng.standard_normal((n, 4)).astype(np.float32) for n in rows)
    if damage is not None:
        image[7, 2] = damage
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "text.npy", text)
    code = main(["import", str(tmp_path), "--out", str(tmp_path / "store")])
    error = capsys.readouterr().err
    assert code == 1 and re.search(message, error), error


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bad")
    store = ist.embed(write_pairs(folder / "data"), pixel_encoder(), word_encoder(), out=folder / "store")
    ist.train(store, recipe="cca", out=folder / "model")
    return folder / "store", folder / "model"


@pytest.mark.parametrize("changed", ["image", "text"])
def test_a_store_of_another_encoder(
    trained: tuple[Path, Path], changed: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Another version of the encoder under the same name: its features must not be taken for the model's."""
    store, model = trained
    image = pixel_encoder("pixels-2") if changed == "image" else pixel_encoder()
    text = word_encoder("words-2") if changed == "text" else word_encoder()
    ist.embed(store.parent / "data" / "pairs.jsonl", image, text, out=tmp_path / "other")
    code = main(["eval", str(model), "retrieval", str(tmp_path / "other")])
    error = capsys.readouterr().err
    assert code == 2 and f"holds no {changed} encoder" in error


def test_fewer_pairs_than_the_closed_form_needs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write_pairs(tmp_path / "data")
    lines = table.read_text().splitlines()[:6]
    table.write_text("\n".join(json.dumps(json.loads(line) | {"split": "train"}) for line in lines))
    ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    code = main(["train", str(tmp_path / "store"), "--recipe", "cca", "--out", str(tmp_path / "model")])
    error = capsys.readouterr().err
    assert code == 1 and "10" in error and "Traceback" not in error
    assert not (tmp_path / "model" / "config.json").exists()


def test_features_of_another_width(trained: tuple[Path, Path]) -> None:
    model = ist.DualEncoder.from_pretrained(trained[1], load=False)
    pairs = ist.FeaturePairs.from_arrays(np.ones((3, 5), np.float32), np.ones((3, 64), np.float32))
    with pytest.raises(InputError, match="5 wide, this model takes 108"):
        ist.evaluate(model, "retrieval", pairs)


def test_no_network_for_a_hub_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("ISTHMUS_OFFLINE", "1")
    table = write_pairs(tmp_path / "data")
    wanted = ["--image-encoder", "hf:nobody/has-this", "--text-encoder", "wheel:minilm-l6"]
    code = main(["embed", str(table), *wanted, "--out", str(tmp_path / "store")])
    error = capsys.readouterr().err
    assert code == 1 and "hf:nobody/has-this" in error and "Traceback" not in error


def test_ctrl_c_exits_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Slow training on purpose: interrupted in the middle, then finished by the same command."""
    store, model = tmp_path / "store", tmp_path / "model"
    ist.embed(write_pairs(tmp_path / "data"), pixel_encoder(), word_encoder(), out=store)
    settings = ["--set", "optim.epochs=300", "--set", "optim.batch=16", "--set", "stop.patience=0"]
    command = [
        sys.executable,
        "-m",
        "isthmus",
        "train",
        str(store),
        "--recipe",
        "linear",
        *settings,
        "--out",
        str(model),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    history = model / "history.jsonl"
    deadline = time.monotonic() + 60
    while (not history.exists() or len(history.read_text().splitlines()) < 3) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in error, error.decode()
    assert not (model / "config.json").exists()
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    epochs = [json.loads(line)["epoch"] for line in history.read_text().splitlines()]
    assert epochs == sorted(epochs) and epochs[-1] == 300
