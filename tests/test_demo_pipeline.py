"""The demo end to end on a hundred drawn shapes, with encoders that need no weights."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from isthmus.encoders import from_callable
from isthmus.errors import InputError
from isthmus.models.dual_encoder import DualEncoder
from isthmus_demo import first_look, pipeline

COLOURS = ("red", "green", "blue", "black", "orange")
SHAPES = ("ellipse", "rectangle")
WORDS = (*COLOURS, *SHAPES, "small", "large")


def draw(colour: str, shape: str, size: int) -> bytes:
    """A shape on a transparent ground, as WebP."""
    image = Image.new("RGBA", (48, 48))
    getattr(ImageDraw.Draw(image), shape)((2, 2, size, size), fill=colour)
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    return file.getvalue()


def make_pairs(path: Path) -> Path:
    rows = []
    for n in range(150):
        colour, shape, size = COLOURS[n % 5], SHAPES[n // 5 % 2], 8 + n // 4
        caption = f"{'small' if size < 24 else 'large'} {colour} {shape} {n}"
        split = ("train", "train", "train", "val", "test")[n // 10 % 5]
        rows.append(
            {
                "id": f"shape-{n}",
                "image": draw(colour, shape, size),
                "caption": caption,
                "label": None if n % 7 == 0 else colour,
                "group": f"group-{n}",
                "split": split,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def see(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(i.convert("RGB").resize((6, 6))).reshape(-1) / 255 for i in images]).astype(np.float32)


def read(texts: list[str]) -> np.ndarray:
    return np.array([[word in text for word in WORDS] + [len(text) / 30] for text in texts], np.float32)


def run(data: Path, out: Path, **options: Any) -> tuple[pipeline.Demo, list[str]]:
    lines: list[str] = []
    demo = pipeline.run_demo(
        out,
        data=data,
        image=[from_callable(see, modality="image", fingerprint="six by six pixels")],
        text=from_callable(read, modality="text", fingerprint="bag of words"),
        log=lines.append,
        **options,
    )
    return demo, lines


@pytest.fixture(scope="module", autouse=True)
def short_training() -> Iterator[None]:
    """A second or so for each recipe."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "MAX_SECONDS", 1.0)
        patch.setattr(pipeline, "LEAST_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, pipeline.Demo]:
    folder = tmp_path_factory.mktemp("demo")
    data = make_pairs(folder / "pairs.parquet")
    return data, folder / "out", run(data, folder / "out")[0]


def test_it_leaves_a_model_results_and_a_page(finished) -> None:
    _, out, demo = finished
    assert {"store", "models", "model", "results.json", "report.html"} <= {path.name for path in out.iterdir()}
    assert "data:image/webp" in (out / "report.html").read_text()
    model = DualEncoder.from_pretrained(out / "model", load=False)
    assert model.summary["recipe"]["name"] == "default"
    assert model.summary["pairs"] == demo.report.splits["train"]["images"]
    assert not demo.skipped


def test_a_first_look_comes_before_the_whole_which_embeds_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Image.Image] = []
    monkeypatch.setattr(first_look, "PICTURES", 50)
    monkeypatch.setitem(globals(), "see", lambda images, see=see: seen.extend(images) or see(images))
    out = tmp_path / "out"
    _, lines = run(make_pairs(tmp_path / "pairs.parquet"), out)
    with Image.open(out / first_look.SHEET) as sheet:
        assert sheet.width > 500
    told = next(line for line in lines if first_look.SHEET in line)
    assert lines.index(told) < next(n for n, line in enumerate(lines) if "embed 150 pictures" in line)
    assert f"isthmus search {out / 'first'} {out / 'store'}" in told
    model = DualEncoder.from_pretrained(out / "first", load=False)
    assert model.summary["pairs"] < 50 and model.summary["recipe"]["name"] == "cca"
    assert sum(picture.size == (48, 48) for picture in seen) == 150  # the others are probes of the encoder's width
    assert not any("first look" in line for line in run(tmp_path / "pairs.parquet", out)[1])


def test_results_are_what_clip_benchmark_writes_two_for_each_recipe(finished) -> None:
    records = json.loads((finished[1] / "results.json").read_text())
    assert [r["pretrained"] for r in records[::2]] == [pipeline.NAMES.get(one, one) for one in pipeline.RECIPES]
    assert {r["task"] for r in records} == {"zeroshot_retrieval", "zeroshot_classification"}
    for r in records:
        assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= r.keys()
        assert r["ci95"].keys() == r["metrics"].keys()


def test_it_learns(finished) -> None:
    report = finished[2].report
    assert report.splits["test"] == {"images": 30, "groups": 30}
    for result in report.results:
        assert result.metrics["image_retrieval_recall@10"] > report.chance["image_retrieval_recall@10"]
    assert report.results[-1].metrics["acc1"] > 0.5
    assert report.captions_with_class == 1.0


def test_a_closed_form_says_so(finished) -> None:
    cca = finished[2].report.results[0]
    assert (cca.training, cca.planned) == ("closed form", 0)
    assert len(cca.curve.recall) == 1


def test_published_recipes_have_a_schedule_for_the_data_and_are_named_so(finished) -> None:
    _, out, demo = finished
    rows = {row.recipe: row for row in demo.report.results}
    sail = rows["SAIL, schedule scaled to the data"]
    assert "freeze-align, schedule scaled to the data" in rows
    summary = DualEncoder.from_pretrained(out / "models" / "sail", load=False).summary
    assert summary["recipe"]["optim"]["lr"] == 1e-4 and sail.planned == 30
    assert max(json.loads(line).get("lr", 0) for line in history(out, "sail")) > 5e-5
    assert "SAIL, schedule scaled to the data" in (out / "report.html").read_text()


def history(out: Path, recipe: str) -> list[str]:
    return (out / "models" / recipe / "history.jsonl").read_text().splitlines()


def stamps(out: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("models/*/model.safetensors")}


def test_a_second_run_trains_nothing_and_finds_the_same(finished) -> None:
    data, out, first = finished
    before, results = stamps(out), json.loads((out / "results.json").read_text())
    second, lines = run(data, out)
    assert stamps(out) == before
    assert sum("as before" in line for line in lines) == len(pipeline.RECIPES)
    assert json.loads((out / "results.json").read_text()) == results
    assert [r.seconds for r in second.report.results] == [r.seconds for r in first.report.results]


def test_changed_captions_are_trained_on_anew(finished, tmp_path) -> None:
    data, out, _ = finished
    table = pq.read_table(data)
    captions = [f"{text}, drawn" for text in table["caption"].to_pylist()]
    changed = table.set_column(table.column_names.index("caption"), "caption", pa.array(captions))
    pq.write_table(changed, tmp_path / "changed.parquet")
    before = stamps(out)
    _, lines = run(tmp_path / "changed.parquet", out)
    assert not any("as before" in line for line in lines)
    assert all(stamps(out)[recipe] > stamp for recipe, stamp in before.items())


def test_a_recipe_that_had_no_time_is_not_judged() -> None:
    summary = {
        "epochs_planned": 30,
        "epochs": 0.2,
        "returned_epoch": 0.2,
        "stopped": "stopped at epoch 0.2 of 30 (time limit)",
    }
    assert pipeline.in_words(summary).endswith("(time limit): too early to judge it by")
    assert pipeline.in_words(summary | {"epochs": 20, "returned_epoch": 20}).endswith("(time limit)")
    assert pipeline.in_words(summary | {"stopped": None, "epochs": 30, "returned_epoch": 30}) == "all 30 epochs"


def test_a_limit_makes_a_smaller_run(finished, tmp_path) -> None:
    demo, _ = run(finished[0], tmp_path / "small", limit=60)
    assert {name: split["images"] for name, split in demo.report.splits.items()} == {"train": 36, "val": 12, "test": 12}
    assert demo.report.max_seconds == pytest.approx(60 / 150)


def test_data_without_labels_are_refused(finished, tmp_path) -> None:
    table = pq.read_table(finished[0]).drop_columns("label")
    pq.write_table(table, tmp_path / "plain.parquet")
    with pytest.raises(InputError, match="no image has a label"):
        run(tmp_path / "plain.parquet", tmp_path / "out")
