"""What trained a model is remembered, counted, warned of and left out, by content: in stores, tables and arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import isthmus as ist
from isthmus.cli import main
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.datasets.questions import Files, Question
from isthmus.evaluation.exposure import SeenWarning
from isthmus.models import seen
from isthmus.models.bloom import BloomFilter
from isthmus.models.dual_encoder import DualEncoder
from toys import pixel_encoder, png, word_encoder, write_pairs

FAST = ["optim.epochs=2", "head.width=8"]
pytestmark = pytest.mark.filterwarnings("ignore::isthmus.evaluation.exposure.SeenWarning")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A table without splits, its store with a test split that `--test` made, and a model trained on the rest."""
    folder = tmp_path_factory.mktemp("seen")
    table = write_pairs(folder / "pairs")
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for row in rows:
        row.pop("split")
    table.write_text("\n".join(map(json.dumps, rows)))
    ist.embed(table, pixel_encoder(), word_encoder(), out=folder / "store", test=0.25)
    ist.train(folder / "store", recipe="linear", overrides=FAST, out=folder / "model")
    return table, folder / "store", folder / "model"


def loaded(path: Path) -> DualEncoder:
    return DualEncoder.from_pretrained(path, encoders={"image": [pixel_encoder()], "text": [word_encoder()]})


def splits(store: Path) -> dict[str, str]:
    images = ist.open_store(store).images
    return dict(zip(images["id"].to_pylist(), images["split"].to_pylist(), strict=True))


def random_items(count: int, seed: int = 0) -> np.ndarray:
    return np.unique(np.random.default_rng(seed).integers(0, 2**64 - 1, count, dtype=np.uint64))


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 40_000])
def test_a_bloom_filter_forgets_nothing_and_is_wrong_three_times_in_100_000(count: int) -> None:
    items, others = random_items(count), random_items(400_000, seed=1)
    found = BloomFilter.of(items)
    assert found.holds(items).all()
    assert len(found) == len(items) and found.bits.nbytes == 3 * len(items)
    assert found.holds(others).mean() < 1e-4  # 2.5e-5 by theory


def test_a_bloom_filter_is_filled_in_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    items = random_items(1000)
    whole = BloomFilter.of(items)
    monkeypatch.setattr("isthmus.models.bloom.REGION", 1000)
    np.testing.assert_array_equal(BloomFilter.of(items).bits, whole.bits)


@pytest.mark.parametrize("most", [None, 20])
def test_a_saved_model_knows_what_trained_it(
    toy: tuple[Path, Path, Path], tmp_path: Path, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hashes, and beyond a limit by a Bloom filter."""
    _, store, _ = toy
    if most is not None:
        monkeypatch.setattr(seen, "MOST", most)
    ist.train(store, recipe="linear", overrides=FAST, out=tmp_path)
    model = DualEncoder.from_pretrained(tmp_path, load=False)
    assert model.seen is not None
    kinds = {name.rpartition("/")[2] for name in model.seen.tensors() if "train" in name}
    assert kinds == {"hashes" if most is None else "bloom"}
    for role, split in enumerate(("train", "val", "test"), 1):
        pairs = ist.open_store(store).pairs(split=split)
        for side in ("image", "text"):
            assert set(model.seen.roles(side, pairs.items(side)).tolist()) == {role % 3}
        if role < 3:
            assert model.seen.counts()[split] == {"image": len(pairs), "text": len(pairs.image_of)}
    assert (
        model.seen.identity
        == DualEncoder.from_pretrained(model.save_pretrained(tmp_path / "again"), load=False).seen.identity
    )  # type: ignore[union-attr]
    assert f"| image | trained it | {model.seen.counts()['train']['image']} |" in (tmp_path / "README.md").read_text()


def test_ids_chosen_to_train_on_are_all_that_is_remembered(toy: tuple[Path, Path, Path]) -> None:
    pairs = ist.open_store(toy[1]).pairs(split="train")
    model = ist.train(toy[1], recipe="linear", overrides=FAST, only=pairs.image_ids[:40])
    assert model.seen is not None
    assert model.seen.roles("image", pairs.items("image")).tolist() == [1] * 40 + [0] * (len(pairs) - 40)


def test_a_model_that_joins_another_remembers_for_both(toy: tuple[Path, Path, Path]) -> None:
    pairs = ist.open_store(toy[1]).pairs(split="train")
    first, second = pairs.image_ids[:40], pairs.image_ids[40:80]
    base = ist.train(toy[1], recipe="linear", overrides=FAST, only=first)
    joined = ist.train(toy[1], recipe="linear", overrides=FAST[:1], only=second, init=base, freeze="text")
    assert joined.seen is not None
    assert (joined.seen.roles("image", pairs.items("image")) == 1).tolist() == [row < 80 for row in range(len(pairs))]


def test_items_are_forgotten_on_request(
    toy: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(toy[1]), "--recipe", "linear", "--out", str(tmp_path)]
    for setting in FAST:
        command += ["--set", setting]
    assert main(command) == 0
    assert "fewer than 1,000" in (told := " ".join(capsys.readouterr().err.split())) and "--folds 5" in told
    assert (tmp_path / "seen.safetensors").is_file()
    assert main([*command, "--forget-items"]) == 0
    assert not (tmp_path / "seen.safetensors").exists()
    assert "does not remember" in (tmp_path / "README.md").read_text()
    assert main(["eval", str(tmp_path), "retrieval", str(toy[1]), "--bootstrap", "0"]) == 0
    assert "does not remember what trained it" in " ".join(capsys.readouterr().out.split())
    assert main(["eval", str(tmp_path), "retrieval", str(toy[1]), "--unseen"]) == 1
    assert "is not known" in capsys.readouterr().err


def test_a_damaged_memory_is_found(toy: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model = loaded(toy[2])
    model.save_pretrained(tmp_path)
    assert all(finding["ok"] for finding in ist.doctor(tmp_path) if "callable" not in finding["what"])
    data = (tmp_path / "seen.safetensors").read_bytes()
    (tmp_path / "seen.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert any("seen.safetensors" in finding["what"] for finding in ist.doctor(tmp_path) if not finding["ok"])
    with pytest.raises(InputError, match=r"seen\.safetensors.*model\.seen = None"):
        ist.evaluate(loaded(tmp_path), "retrieval", toy[1], bootstrap=0)


# --- evaluation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["table", "store"])
def test_unseen_is_the_test_split(toy: tuple[Path, Path, Path], source: str) -> None:
    """In the very table that the store was made of, whose files say nothing of a split."""
    model, data = loaded(toy[2]), toy[0] if source == "table" else toy[1]
    test = ist.evaluate(model, "retrieval", toy[1], split="test", bootstrap=50)
    with pytest.warns(SeenWarning, match=r"144 of 192 pictures trained \(\d+\) or validated \(\d+\) this model"):
        every = ist.evaluate(model, "retrieval", data, bootstrap=0)
    rest = ist.evaluate(model, "retrieval", data, unseen=True, bootstrap=50)
    assert every["n"]["images"] == 192 and rest["n"] == test["n"]
    assert every["seen_items"] is not None and rest["seen_items"] is not None and test["seen_items"] is not None
    counted = every["seen_items"]["pictures"]
    assert counted["n"] == 192 and counted["train"] + counted["val"] == 144 and counted["val"] > 0
    assert rest["seen_items"] == every["seen_items"] | {"left_out": 144}
    assert test["seen_items"]["pictures"] == {"n": 48, "train": 0, "val": 0}
    assert rest["warnings"] == test["warnings"] == []
    for name, value in test["metrics"].items():
        assert rest["metrics"][name] == pytest.approx(value, abs=1e-6)


def test_the_command_says_it_warns_and_leaves_out(
    toy: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(toy[2]), "retrieval", str(toy[1]), "--bootstrap", "0", "--json", str(tmp_path / "r.json")]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "192 pictures (" in " ".join(said.out.split())
    assert "WARNING: " in said.err and "144 of 192 pictures" in " ".join(said.err.split()) and "--unseen" in said.err
    assert "SeenWarning" not in said.err
    assert json.loads((tmp_path / "r.json").read_text())["warnings"]
    assert main([*command, "--unseen"]) == 0
    said = capsys.readouterr()
    assert "left out: 144" in " ".join(said.out.split()) and "WARNING" not in said.err
    assert main([*command, "--split", "test"]) == 0
    assert "all new to the model" in " ".join(capsys.readouterr().out.split())
    assert main([*command, "--split", "val", "--unseen"]) == 1
    assert "nothing of it is unseen" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["zeroshot", "knn", "fewshot", "diagnose", "suite"])
def test_every_task_counts_and_leaves_out(toy: tuple[Path, Path, Path], tmp_path: Path, task: str) -> None:
    """Of 96 labelled pictures 72 trained or validated the model; half of them are there to probe with."""
    lines = [json.loads(line) for line in toy[0].read_text().splitlines()]
    held = {name for name, split in splits(toy[1]).items() if split == "test"}
    new, old = ([line for line in lines if (line["image"] in held) is wanted] for wanted in (True, False))
    asked = [line | {"split": "test"} for line in new[:24] + old[:72]]
    others = [line | {"split": "train"} for line in old[72:]]
    table = toy[0].parent / f"{task}.jsonl"
    table.write_text("\n".join(map(json.dumps, asked + others)))
    data: Any = table
    options: dict[str, Any] = {"split": "test", "bootstrap": 0}
    if task == "suite":
        data = tmp_path
        for line in asked:
            (tmp_path / "set" / "test" / line["label"]).mkdir(parents=True, exist_ok=True)
            picture = (toy[0].parent / line["image"]).read_bytes()
            (tmp_path / "set" / "test" / line["label"] / line["image"]).write_bytes(picture)
        (tmp_path / "set" / "classnames.txt").write_text("blue\ngreen\nred\nyellow\n")
    every, rest = (
        found[0] if isinstance(found, list) else found
        for found in (ist.evaluate(loaded(toy[2]), task, data, unseen=unseen, **options) for unseen in (False, True))
    )
    for found in (every, rest):
        assert found["seen_items"] is not None
        counted = found["seen_items"]["pictures"]
        assert (counted["n"], counted["train"] + counted["val"]) == (96, 72)
    assert "72 of 96 pictures" in every["warnings"][0] and rest["seen_items"]["left_out"] == 72
    n = {name: found["n"].get("test", found["n"].get("images")) for name, found in (("all", every), ("rest", rest))}
    assert n == {"all": 96, "rest": 24}


def test_questions_about_seen_pictures_are_left_out(toy: tuple[Path, Path, Path]) -> None:
    files, named = Files(toy[0].parent), splits(toy[1])
    asked = [
        Question(name, (files.picture(name),), ("a square", f"no square {row}"), "all", name)
        for row, name in enumerate(named)
    ]
    for unseen, count in ((False, 192), (True, 48)):
        (found,) = ist.evaluate(loaded(toy[2]), "sugarcrepe", {"toy": asked}, unseen=unseen, bootstrap=0)
        assert found["n"]["questions"] == count and found["seen_items"]["pictures"]["n"] == 192
        assert bool(found["warnings"]) is not unseen


def test_a_seen_picture_is_seen_whatever_its_caption_and_a_long_caption_without_it(
    toy: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    named, lines = splits(toy[1]), [json.loads(line) for line in toy[0].read_text().splitlines()]
    old, new = (next(line for line in lines if (named[line["image"]] == "test") is held) for held in (False, True))
    rows = [
        ("renamed.png", (toy[0].parent / old["image"]).read_bytes(), "something else altogether"),  # seen: its picture
        ("new.png", (toy[0].parent / new["image"]).read_bytes(), new["caption"]),
        ("other.png", png(Image.new("RGB", (9, 9), "teal")), old["caption"]),  # seen: its caption
    ]
    for name, data, _ in rows:
        (tmp_path / name).write_bytes(data)
    table = tmp_path / "few.csv"
    table.write_text("image,caption\n" + "".join(f'{name},"{caption}"\n' for name, _, caption in rows))
    found = ist.evaluate(loaded(toy[2]), "retrieval", table, bootstrap=0)
    assert found["seen_items"] is not None and found["seen_items"]["by_caption"] == 1
    assert "1 of 3 pictures trained" in found["warnings"][0] or "1 of 3 pictures validated" in found["warnings"][0]
    rest = ist.evaluate(loaded(toy[2]), "retrieval", table, unseen=True, bootstrap=0)
    assert rest["n"]["images"] == 1


def test_short_captions_are_equal_by_chance_and_seen_features_are_known() -> None:
    draws = np.random.default_rng(0).normal(size=(3, 40, 6)).astype(np.float32)
    train = FeaturePairs.from_arrays(draws[0], draws[1], captions=["a red dog"] * 40)
    model = ist.train(train, recipe="linear", overrides=FAST)
    other = FeaturePairs.from_arrays(draws[2], draws[1], captions=["a red dog"] * 40)
    found = ist.evaluate(model, "retrieval", other, bootstrap=0)
    assert found["warnings"] == [] and found["seen_items"]["captions"]["train"] == 40  # type: ignore[index]
    again = FeaturePairs.from_arrays(draws[0].astype(np.float64), draws[1])
    assert "40 of 40 pictures trained" in ist.evaluate(model, "retrieval", again, bootstrap=0)["warnings"][0]


# --- a test split -----------------------------------------------------------------------------------------------------


def test_no_picture_caption_or_group_is_on_both_sides_of_a_test_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["image,caption,group"]
    for row in range(120):
        (tmp_path / f"{row}.png").write_bytes(png(Image.fromarray(np.full((8, 8, 3), row % 90, np.uint8))))
        group = f"g{row // 3}" if row < 12 else ""
        lines.append(f"{row}.png,caption number {rng.integers(100)},{group}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    store = ist.embed(tmp_path / "pairs.csv", pixel_encoder(), word_encoder(), out=tmp_path / "store", test=0.3)
    images = store.images.to_pylist()
    caption = dict(zip(store.captions["id"].to_pylist(), store.captions["caption"].to_pylist(), strict=True))
    for key in (lambda one: one["content_hash"], lambda one: one["group"] or one["id"], lambda one: caption[one["id"]]):
        sides = [{key(one) for one in images if (one["split"] == "test") is side} for side in (True, False)]
        assert not sides[0] & sides[1]
    count = sum(one["split"] == "test" for one in images)
    assert 24 <= count <= 36
    again = ist.embed(tmp_path / "pairs.csv", pixel_encoder(), word_encoder(), out=tmp_path / "other", test=0.3)
    assert again.images["split"].to_pylist() == store.images["split"].to_pylist()
    kept = ist.embed(tmp_path / "pairs.csv", pixel_encoder(), word_encoder(), out=tmp_path / "store")  # without it
    assert kept.images["split"].to_pylist() == store.images["split"].to_pylist()


def test_pairs_that_are_added_do_not_cross_an_earlier_test_split(tmp_path: Path) -> None:
    table = write_pairs(tmp_path / "pairs", copies=1)
    lines = [{**json.loads(line), "split": None} for line in table.read_text().splitlines()]
    for name, part in (("first", lines[:40]), ("second", lines[40:])):
        (table.parent / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    encoders = pixel_encoder(), word_encoder()
    ist.embed(table.parent / "first.jsonl", *encoders, out=tmp_path / "store", test=0.3)
    before = splits(tmp_path / "store")
    copies = [{**line, "id": f"copy of {line['image']}"} for line in lines[:40]]
    (table.parent / "copies.jsonl").write_text("\n".join(map(json.dumps, copies + lines[40:])))
    ist.embed(table.parent / "copies.jsonl", *encoders, out=tmp_path / "store", test=0.3)
    after = splits(tmp_path / "store")
    assert {name: after[name] for name in before} == before
    assert all((after[f"copy of {name}"] == "test") is (split == "test") for name, split in before.items())
    assert "test" in {after[line["image"]] for line in lines[40:]}


def test_what_splits_there_are_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_pairs(tmp_path / "pairs")
    ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store", split="train")
    ist.train(tmp_path / "store", recipe="linear", overrides=FAST, out=tmp_path / "model")
    assert main(["eval", str(tmp_path / "model"), "retrieval", str(tmp_path / "store"), "--split", "test"]) == 1
    said = capsys.readouterr().err
    assert "there is train (103 images) and val (25 images)" in said and "--test 0.2" in said and "--folds" in said
    with pytest.raises(InputError, match="names a test split itself, of 64 images"):
        ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "other", test=0.2)
    with pytest.raises(UsageError, match="between 0 and 1"):
        ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "other", test=20)
    with pytest.raises(InputError, match="too large to hold out"):
        (tmp_path / "one.csv").write_text(
            "image,caption\n" + "".join(f"pairs/0-00{i}.png,the same\n" for i in range(9))
        )
        ist.embed(tmp_path / "one.csv", pixel_encoder(), word_encoder(), out=tmp_path / "one", test=0.2)


# --- copies -----------------------------------------------------------------------------------------------------------


def test_only_what_trained_the_model_counts_as_training(toy: tuple[Path, Path, Path]) -> None:
    """The held-out pictures against the whole store that they are part of: no picture is a copy of itself."""
    model = loaded(toy[2])
    assert model.seen is not None
    found = ist.evaluate(model, "diagnose", toy[1], against=toy[1], split="test", near=1.0, bootstrap=0)
    assert found["seen"]["n"]["train_images"] == model.seen.counts()["train"]["image"] < 144
    assert found["seen"]["n"].get("exact", 0) == 0 and found["metrics"]["seen_share"] < 0.5
    assert "did not train this model" in found["seen"]["notes"][0]
    model.seen = None
    found = ist.evaluate(model, "diagnose", toy[1], against=toy[1], split="test", near=1.0, bootstrap=0)
    assert "does not remember" in found["seen"]["notes"][0] and found["seen"]["n"]["images"] == 48


@pytest.mark.slow
def test_copies_are_pairs_of_pictures_on_the_page(toy: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Also where the evaluated side is a store, which has no pictures: of equal bytes, one is both."""
    model, page = loaded(toy[2]), tmp_path / "page.html"
    assert model.seen is not None
    found = ist.evaluate(model, "diagnose", toy[1], against=toy[0], near=1.0, bootstrap=0, report=page)
    assert found["seen"]["n"]["exact"] == model.seen.counts()["train"]["image"]
    text = page.read_text()
    assert 'class="warning"' in text and "144 of 192 pictures" in text
    assert text.count("data:image/webp") == 24
