"""Torture, with random choices of a fixed seed: a few minutes among the slow tests, with counts printed at their end;
`make test-torture` takes twenty.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus as ist
import model_types
import torture
from fault_cases import model_content, store_content
from hostile import attack, mutated
from isthmus.curation.curated import SELECTED
from isthmus.curation.output import MANIFEST
from isthmus.encoders import load_encoder
from isthmus.errors import IsthmusError
from isthmus.files import read_sealed
from isthmus.store import open_store
from isthmus.store.joining import read_ids
from isthmus.training import checkpoint
from tiny_encoders import (
    pictures,
    save_bert,
    save_dinov2,
    save_processor,
    save_router,
    save_sentence_pipeline,
)
from toys import write_pairs

HERE = Path(__file__).parent
LONG = os.environ.get("TORTURE") == "long"
FAULTS, MUTATIONS, ENCODERS, SEARCHES = (420, 60, 90, 600) if LONG else (70, 15, 30, 15)  # seconds
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("preloaded") / "faults_below.so"
    source = str(HERE / "faults_below.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    return library


@pytest.mark.parametrize("case", torture.CASES)
def test_faults_below_python_and_signals_lose_nothing(tmp_path: Path, preloaded: Path, case: str) -> None:
    """Kills, short writes, a disk that fails or is full, signals: nothing or the whole, the same bytes when resumed."""
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(HERE / "torture.py"), str(tmp_path), str(FAULTS / len(torture.CASES)), case],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "LD_PRELOAD": str(preloaded)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    print(run.stdout)  # noqa: T201
    assert all(name in run.stdout for name in (*torture.STRIKES, "signal"))


# --- mutations of every kind of file ----------------------------------------------------------------------------------


def artefacts(root: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """A folder of every kind, and how it is read."""
    table = write_pairs(root / "data", copies=1)
    from toys import pixel_encoder, word_encoder

    ist.embed(table, pixel_encoder(), word_encoder(), out=root / "store")
    draws = np.random.default_rng(0).normal(size=(2, 40, 6)).astype(np.float32)
    record = {"uri": "callable:x", "fingerprint": "0" * 64, "width": 6}
    ids = [str(row) for row in range(40)]
    pairs = ist.FeaturePairs.from_arrays(*draws, ids=ids, captions=ids, image_encoder=[record], text_encoder=[record])
    ist.train(pairs, recipe="cca", overrides=["head.width=4", "loss.scale=10"], out=root / "model")
    ist.curate(pairs, "auto:3", out=root / "chosen", per_concept=6, keep=20)
    checkpoint.save(root / "checkpoint", {"step": 1, "identity": {}}, {})
    import torch

    def resumed(path: Path) -> Any:
        found = checkpoint.load(path, {}, torch.device("cpu"))
        return found and found[0]

    return {
        "store": (root / "store", store_content),
        "model": (root / "model", model_content),
        "selection": (root / "chosen", lambda path: (read_ids(path / SELECTED), read_sealed(path / MANIFEST))),
        "checkpoint": (root / "checkpoint", resumed),
    }


UNREAD = re.compile(r"\.lock|ledger\.jsonl|README\.md|history\.jsonl|report\.html|.*\.topk|.*\.svg|.*\.png|concepts.*")


def test_no_mutation_of_a_file_is_taken_for_the_file(tmp_path: Path) -> None:
    """A mutated file gives what the sound one gave, where the bytes say nothing, or an error of ours."""
    draw, told = random.Random(0), Counter()
    warnings.simplefilter("ignore")
    made = artefacts(tmp_path)
    sound = {kind: read(folder) for kind, (folder, read) in made.items()}
    files = [
        (kind, path)
        for kind, (folder, _) in made.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not UNREAD.fullmatch(path.name)
    ]
    end = time.monotonic() + MUTATIONS
    while time.monotonic() < end:
        for kind, path in files:
            data = path.read_bytes()
            changed = mutated(data, draw)
            path.write_bytes(changed)
            try:
                found = made[kind][1](made[kind][0])
                assert found == sound[kind], f"{path}: read as something else"
                told[f"{kind}: same"] += 1
            except IsthmusError as error:
                assert len(str(error)) < 3000
                told[f"{kind}: refused"] += 1
            finally:
                path.write_bytes(data)
    print(told.total(), "mutations of", len(files), "files", dict(told))  # noqa: T201
    assert all(told[f"{kind}: refused"] for kind in made)


# --- hostile encoders -------------------------------------------------------------------------------------------------

PICTURES = ("dinov2", "clip_vision_model", "convnext", "swin")


def saved(folder: Path, name: str) -> Path:
    changes = model_types.IMAGES[name][1] if name in model_types.IMAGES else model_types.TEXTS.get(name, {})
    model_types.save_type(folder, name, changes)
    return folder


def test_hostile_encoder_folders_of_every_family_end_in_a_message(tmp_path: Path) -> None:
    made = {
        "bert": ("hf", save_bert(tmp_path / "bert")),
        "dinov2": ("hf", save_processor(save_dinov2(tmp_path / "dinov2"))),
        "pipeline": ("st", save_sentence_pipeline(tmp_path / "st")),
        "router": ("st", save_router(tmp_path / "router")),
        **{
            name: ("hf", saved(tmp_path / name, name))
            for name in ("gpt2", "t5", "xlnet", "clip_vision_model", "convnext", "swin")
        },
    }
    for family, (source, folder) in made.items():
        load_encoder(f"{source}:{folder}").encode(pictures(1) if family in PICTURES else ["a cat"])
    print(attack(made, ENCODERS, tmp_path))  # noqa: T201


def test_encoding_and_searching_for_long_does_not_grow(tmp_path: Path) -> None:
    from test_suite import toy_model

    write_pairs(tmp_path / "data", copies=1)
    model = toy_model()
    ist.embed(
        tmp_path / "data" / "pairs.jsonl", model.encoders["image"], model.encoders["text"], out=tmp_path / "store"
    )

    def once() -> None:
        ist.search(model, tmp_path / "data", "red", k=3)
        ist.search(model, open_store(tmp_path / "store"), "a blue square", k=3)

    def resident() -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024  # type: ignore[index]

    for _ in range(20):
        once()
    before, rounds, end = resident(), 0, time.monotonic() + SEARCHES
    while time.monotonic() < end:
        once()
        rounds += 1
    grown = resident() - before
    print(rounds, "rounds of encode and search, grown by", grown, "MiB")  # noqa: T201
    assert rounds > 20 and grown < 64
