"""One opener for whatever holds pairs: every command takes a path for the same thing, and groups it in the same way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus as ist
from isthmus import files
from isthmus.cli import main
from isthmus.curation.cleaning import Cleaning
from isthmus.encoders import Encoder
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store.opening import holds_features, open_pairs, open_source
from isthmus.store.reader import Store
from toys import pixel_encoder, pixel_features, word_encoder, word_features, write_pairs

QUICK = {"recipe": "linear", "overrides": ["optim.epochs=1", "head.width=8"]}


def encoders() -> dict[str, list[Any]]:
    return {"image": [pixel_encoder()], "text": [word_encoder()]}


def embed(table: Path, out: Path) -> None:
    ist.embed(table, pixel_encoder(), word_encoder(), out=out)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pairs/, a finished store/ of them, one that was killed in its first commit, and one in its first run; model/."""
    home = tmp_path_factory.mktemp("opening")
    table = write_pairs(home / "pairs")
    embed(table, home / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "roll_forward", killed_after_the_commit)
        with pytest.raises(KeyboardInterrupt):
            embed(table, home / "committing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isthmus.store.writer.commit", killed)
        with pytest.raises(KeyboardInterrupt):
            embed(table, home / "unfinished")
    ist.train(home / "store", out=home / "model", **QUICK)
    return home


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def killed_after_the_commit(folder: Path) -> None:
    if (folder / files.PENDING).is_dir():
        killed()


def train(store: Path, home: Path, out: Path) -> Any:
    return ist.train(store, out=out, **QUICK).scale


def cross_validate(store: Path, home: Path, out: Path) -> Any:
    return ist.cross_validate(store, folds=2, bootstrap=0, **QUICK)["metrics"]


def evaluate(task: str) -> Callable[[Path, Path, Path], Any]:
    def run(store: Path, home: Path, out: Path) -> Any:
        model = DualEncoder.from_pretrained(home / "model", encoders=encoders())
        options = {"against": store, "near": 1.0} if task == "diagnose" else {}
        found = ist.evaluate(model, task, store, bootstrap=20, **options)
        return [one["metrics"] for one in (found if isinstance(found, list) else [found])]

    return run


def search(store: Path, home: Path, out: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        loaded = DualEncoder.from_pretrained(home / "model", encoders=encoders())
        patch.setattr(DualEncoder, "from_pretrained", classmethod(lambda cls, path, **options: loaded))
        out.mkdir()
        code = main(["search", str(home / "model"), str(store), "a dark red square", "--json", str(out / "found.json")])
    return code, json.loads((out / "found.json").read_text())["hits"] if code == 0 else None


def select(store: Path, home: Path, out: Path) -> Any:
    return ist.select(store, seeds=0, bootstrap=0).to_dict()["pairs"]


def select_plan(store: Path, home: Path, out: Path) -> Any:
    from isthmus.selection.run import plan

    return plan(store)["encoder_pairs"]


def curate(store: Path, home: Path, out: Path) -> Any:
    return ist.curate(store, store, sides="image", per_concept=3).ids


def mix(store: Path, home: Path, out: Path) -> Any:
    return ist.curate(home / "store", home / "store", sides="image", per_concept=3, mix=[f"more={store}:5"]).ids


def against(store: Path, home: Path, out: Path) -> Any:
    cleaning = Cleaning(dedup=["exact"], against=[store], near=1.0)
    return ist.curate(home / "store", cleaning=cleaning).manifest["cleaning"]["leaks"].popitem()[1]


DOORS = {
    "train": train, "cross_validate": cross_validate, "retrieval": evaluate("retrieval"),
    "diagnose": evaluate("diagnose"), "knn": evaluate("knn"), "search": search, "select": select,
    "select, plan": select_plan, "curate": curate, "curate --mix": mix, "curate --against": against,
}  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_store_killed_in_its_first_commit_is_a_store_at_every_door(data: Path, tmp_path: Path, door: str) -> None:
    assert (data / "committing/pending/store.json").is_file() and not (data / "committing/store.json").exists()
    expected = DOORS[door](data / "store", data, tmp_path / "finished")
    shutil.copytree(data / "committing", tmp_path / "store")
    assert DOORS[door](tmp_path / "store", data, tmp_path / "out") == expected


@pytest.mark.parametrize("door", DOORS)
def test_an_unfinished_store_is_called_so_at_every_door(data: Path, tmp_path: Path, door: str, capsys) -> None:
    try:
        code, _ = DOORS[door](data / "unfinished", data, tmp_path / "out")
        assert code == 1
        said = capsys.readouterr().err
    except InputError as error:
        said = str(error)
    assert "an unfinished store; run the same `isthmus embed` again to finish it" in said


def test_what_a_path_holds(data: Path, tmp_path: Path) -> None:
    assert isinstance(open_source(str(data / "store")), Store)
    assert len(open_source(data / "pairs/pairs.jsonl")) == len(open_source(data / "pairs"))
    pairs = open_pairs(data / "pairs/pairs.jsonl")
    assert open_source(pairs) is pairs and open_pairs(pairs) is pairs
    arrays = ist.FeaturePairs.from_arrays(np.eye(3), np.eye(3))
    assert open_source(arrays) is arrays
    assert [holds_features(one) for one in (arrays, pairs, data / "store", data / "pairs", None)] == [1, 0, 1, 0, 0]
    (tmp_path / "journal").mkdir()  # a folder of pictures may be called so
    assert not holds_features(tmp_path)
    for features in (data / "store", open_source(data / "store"), arrays):
        with pytest.raises(InputError, match="holds features, and no pictures"):
            open_pairs(features)
    with pytest.raises(UsageError, match="not a dict"):
        open_source({})


# --- intervals


def halved() -> tuple[Encoder, Encoder]:
    """Encoders whose features are numbers of float16: a store holds what pairs give, and no rank turns by rounding."""
    image, text = (
        from_callable(lambda items, of=of: of(items).astype(np.float16).astype(np.float32), kind, f"{kind}-half")
        for of, kind in ((pixel_features, "image"), (word_features, "text"))
    )
    return image, text


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs with names of groups, equal pictures, a picture that cannot be read, and groups that straddle a split."""
    home = tmp_path_factory.mktemp("grouped")
    table = write_pairs(home / "pairs", copies=2)
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["split"] = "test" if number % 5 else "train"
        row["group"] = f"g{number * 7 % 11}" if number % 3 else None
        if number % 4 == 1:
            shutil.copy(home / "pairs" / rows[number - 1]["image"], home / "pairs" / row["image"])
    (home / "pairs" / rows[7]["image"]).write_bytes(b"no picture")
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ist.embed(table, *halved(), out=home / "store", max_skip=0.5, precision="float32")
    ist.train(home / "store", out=home / "model", **QUICK)
    return home


@pytest.mark.parametrize("task", ["retrieval", "zeroshot"])
@pytest.mark.parametrize("split", ["test", None])
def test_intervals_of_pairs_and_of_their_store_are_the_same(grouped: Path, task: str, split: str | None) -> None:
    image, text = halved()
    model = DualEncoder.from_pretrained(grouped / "model", encoders={"image": [image], "text": [text]})
    found = [
        ist.evaluate(model, task, grouped / source, split=split, bootstrap=200)
        for source in ("pairs/pairs.jsonl", "store")
    ]
    assert found[0]["n"] == found[1]["n"]
    assert found[0]["metrics"] == pytest.approx(found[1]["metrics"])
    assert found[0]["ci95"] == found[1]["ci95"]
    assert any(low < high for low, high in found[0]["ci95"].values())
