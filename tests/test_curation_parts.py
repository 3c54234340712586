"""The pass over a pool on Ray finds what one process finds, and goes on where it stopped."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import isthmus as ist
from isthmus.curation import parts
from isthmus.curation.parts import gaps, scan_on_ray
from isthmus.curation.prototypes import Prototypes
from isthmus.curation.scan import ConceptScorer, scan
from isthmus.curation.sources import open_pool


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pool of 3,000 captions, as arrays on disk; some rows are equal, some have no features."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 16)).astype(np.float16)
    features[::50] = features[0]
    features[7::300] = 0
    (tmp_path / "pool").mkdir()
    np.save(tmp_path / "pool/text.npy", features)
    return tmp_path / "pool"


@given(st.sets(st.integers(0, 40)))
def test_gaps_and_what_is_covered_make_the_whole(cells: set[int]) -> None:
    covered: list[tuple[int, int]] = []
    for cell in sorted(cells):
        if covered and covered[-1][1] == cell:
            covered[-1] = (covered[-1][0], cell + 1)
        else:
            covered.append((cell, cell + 1))
    missing = [row for start, stop in gaps(covered, 41) for row in range(start, stop)]
    assert missing == [row for row in range(41) if row not in cells]


@pytest.mark.slow
def test_workers_find_the_candidates_of_one_pass_and_go_on(ray, folder: Path, tmp_path: Path, monkeypatch) -> None:
    pool = open_pool(folder)
    scorer = ConceptScorer({"caption": np.random.default_rng(1).normal(size=(9, 16)).astype(np.float32)})
    scorer.tile = 64
    excluded = np.arange(3000) % 11 == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have: products of other threads are rounded in another order
    here = scan(pool, scorer, 40, excluded=excluded)
    options = {"threads": 1, "excluded": excluded, "about": {"pool": "test"}}
    there = scan_on_ray(partial(open_pool, folder), 3000, scorer, 40, **options)
    assert (there.covered, there.missing) == ([(0, 3000)], here.missing)
    half = scan(pool, scorer, 40, start=640, stop=1280, excluded=excluded)
    half.save(tmp_path / "half.topk", {"pool": "test"})
    monkeypatch.setattr(parts, "LEAST_PARTS", 5)
    rest = scan_on_ray(partial(open_pool, folder), 3000, scorer, 40, checkpoint=tmp_path / "half.topk", **options)
    for concept in range(9):
        for found in (there, rest):
            for mine, other in zip(here.best(concept), found.best(concept), strict=True):
                np.testing.assert_array_equal(mine, other)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_curate_on_ray_writes_the_selection_of_one_process(ray, folder: Path, tmp_path: Path) -> None:
    concepts = Prototypes(["one", "other", "third"], {"caption": np.eye(3, 16, dtype=np.float32)}, "test")
    for engine in ("local", "ray"):
        ist.curate(folder, concepts, out=tmp_path / engine, per_concept=30, engine=engine)
    for name in ("selected.parquet", next(iter((tmp_path / "local").glob("candidates-*"))).name):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name
