"""A flipped byte is found and its file named, or harmless; read-only folders, odd paths, any number of workers."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import isthmus as ist
from fault_cases import model_content, selection_content
from isthmus.curation.topk import TopK
from isthmus.data.pairs import Pairs
from isthmus.embedding import encode
from isthmus.errors import InputError
from isthmus.store import doctor, open_store
from isthmus.store.joining import read_ids
from isthmus.training import checkpoint, load_recipe
from isthmus.training.contrastive.batches import Batches
from isthmus.training.contrastive.objective import ContrastiveObjective
from isthmus.training.run import Run
from store_cases import snapshot, write
from toys import pixel_encoder, word_encoder, write_pairs

RECORD = {"uri": "callable:normal", "fingerprint": "0" * 64, "width": 6}


def features(rows: int = 40, seed: int = 0) -> ist.FeaturePairs:
    draws = np.random.default_rng(seed).normal(size=(2, rows, 6)).astype(np.float32)
    ids = [f"image {row}" for row in range(rows)]
    return ist.FeaturePairs.from_arrays(*draws, ids=ids, captions=ids, image_encoder=[RECORD], text_encoder=[RECORD])


def train(out: Path, **options: Any) -> ist.DualEncoder:
    settings = ["head.width=4", "optim.batch=8", "optim.epochs=2"]
    return ist.train(features(), recipe="linear", overrides=settings, out=out, **options)


def check_flips(path: Path, read: Callable[[], Any], step: int) -> None:
    """Flip a bit in each `step`-th byte of `path`: `read` raises InputError naming the file, or gives the same."""
    whole, expected = path.read_bytes(), read()
    found = 0
    for place in range(0, len(whole), step):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert read() == expected, f"byte {place} of {path.name} changed what was read, and nobody noticed"
        except InputError as error:
            found += 1
            assert path.name in str(error), error
    path.write_bytes(whole)
    assert read() == expected and found > len(range(0, len(whole), step)) // 2


@pytest.mark.parametrize("name", ["store.json", "images.parquet", "captions.parquet", "skipped.parquet"])
def test_a_flipped_byte_in_a_small_file_of_a_store(tmp_path: Path, name: str) -> None:
    write(tmp_path, ["a", "b"], skipped=[("z", "no image")])

    def read() -> Any:
        store = open_store(tmp_path)
        return store.encoders, [table.to_pylist() for table in (store.images, store.captions, store.skipped)]

    check_flips(tmp_path / name, read, 29)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_flipped_byte_in_a_model(tmp_path: Path, name: str) -> None:
    train(tmp_path)
    check_flips(tmp_path / name, lambda: model_content(tmp_path), 37)


def test_a_flipped_byte_in_a_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, max_seconds=0)
    recipe = load_recipe("linear", ["head.width=4", "optim.batch=8", "optim.epochs=2"])
    objective = ContrastiveObjective(features(), None)
    identity = Run(objective, recipe, out=tmp_path, seed=0, device="cpu").identity
    folder = tmp_path / "checkpoint"

    def read() -> Any:
        state, tensors = checkpoint.load(folder, identity, torch.device("cpu")) or ({}, {})
        return state, {name: tensor.tolist() for name, tensor in tensors.items()}

    for path in (path for path in sorted(folder.iterdir()) if path.name != ".lock"):
        check_flips(path, read, 37)


def test_a_flipped_byte_in_a_selection_and_its_candidates(tmp_path: Path) -> None:
    def select() -> Any:
        ist.curate(features(), "auto:3", out=tmp_path / "out", per_concept=3, keep=9)
        return selection_content(tmp_path / "out")

    select()
    (candidates,) = (tmp_path / "out").glob("candidates-*.topk")
    about = json.loads(candidates.read_bytes().partition(b"\n")[0])["about"]

    def best() -> Any:
        top = TopK.load(candidates, about)
        return top.covered, [[part.tolist() for part in top.best(concept)] for concept in range(top.concepts)]

    check_flips(candidates, best, 7)
    check_flips(tmp_path / "out" / "manifest.json", lambda: selection_content(tmp_path / "out"), 41)
    selected = tmp_path / "out" / "selected.parquet"
    ids = read_ids(selected)
    whole = selected.read_bytes()
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for place in range(4, pages, 5):
        selected.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert read_ids(selected) == ids
        except InputError as error:
            assert "selected.parquet" in str(error)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Makes a folder read-only, for root by a mount."""
    mounted: list[Path] = []

    def close(folder: Path) -> None:
        if os.geteuid():
            folder.chmod(0o555)
            return
        for options in (["--bind", str(folder), str(folder)], ["-o", "remount,ro,bind", str(folder)]):
            if subprocess.run(["mount", *options], capture_output=True).returncode:
                pytest.skip("mounting is not allowed here")
            if folder not in mounted:
                mounted.append(folder)

    yield close
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_read_only_store_and_model_are_used_and_not_written_to(tmp_path: Path, read_only) -> None:
    table = write_pairs(tmp_path / "data", copies=2)
    ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "in" / "store")
    train(tmp_path / "in" / "model")
    read_only(tmp_path / "in")
    store = open_store(tmp_path / "in" / "store", verify=True)
    assert all(finding["ok"] for finding in doctor(store.path))
    ist.train(store, recipe="linear", overrides=["optim.epochs=1"], out=tmp_path / "elsewhere")
    ist.DualEncoder.from_pretrained(tmp_path / "in" / "model", load=False)
    for work in (
        lambda: ist.embed(table, pixel_encoder("2"), word_encoder(), out=store.path),
        lambda: ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "in" / "new"),
        lambda: train(tmp_path / "in" / "model", seed=1, resume=False),
        lambda: train(tmp_path / "in" / "another"),
        lambda: ist.curate(features(), "auto:3", out=tmp_path / "in" / "chosen", per_concept=3),
    ):
        with pytest.raises(
            InputError, match=r"/in/.*(Read-only file system|Permission denied)\. Choose another folder"
        ):
            work()


def test_paths_with_spaces_and_other_letters(tmp_path: Path) -> None:
    home = tmp_path / "Mes données – 图片 №1 ‘quoted’ %20#?"
    store = ist.embed(write_pairs(home / "data ü", copies=2), pixel_encoder(), word_encoder(), out=home / "store é")
    assert all(finding["ok"] for finding in doctor(store.path))
    ist.train(store, recipe="linear", overrides=["optim.epochs=1"], out=home / "modèle")
    model = ist.DualEncoder.from_pretrained(home / "modèle", load=False)
    assert model.width == 512
    assert ist.evaluate(home / "modèle", "retrieval", home / "store é")["n"]
    ist.curate(home / "store é", "auto:3", out=home / "choix", per_concept=5)
    ist.train(store, recipe="linear", overrides=["optim.epochs=1"], only=home / "choix" / "selected.parquet")


def test_the_store_does_not_depend_on_the_number_of_workers(tmp_path: Path, monkeypatch) -> None:
    """One thread, or seven that finish in any order."""
    table = write_pairs(tmp_path / "data", copies=1)
    read = Pairs.read_bytes

    def late(pairs: Pairs, row: int) -> bytes:
        time.sleep(hash((row, "late")) % 7 / 1000)
        return read(pairs, row)

    stores = []
    for threads in (1, 7):
        monkeypatch.setattr(encode, "THREADS", threads)
        monkeypatch.setattr(Pairs, "read_bytes", read if threads == 1 else late)
        ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / str(threads), batch_size=8)
        stores.append(snapshot(tmp_path / str(threads)))
    assert stores[0] == stores[1]


def test_the_order_of_training_does_not_depend_on_threads(tmp_path: Path, monkeypatch) -> None:
    take, orders = Batches.take, []
    before = torch.get_num_threads()
    for threads in (1, 3):
        seen: list[list[int]] = []

        def noted(self: Batches, rows: np.ndarray, seen: list = seen) -> Any:
            seen.append(rows.tolist())
            return take(self, rows)

        monkeypatch.setattr(Batches, "take", noted)
        torch.set_num_threads(threads)
        train(tmp_path / str(threads))
        orders.append(seen)
    torch.set_num_threads(before)
    assert orders[0] == orders[1] and sorted(row for batch in orders[0][:5] for row in batch) == list(range(40))
