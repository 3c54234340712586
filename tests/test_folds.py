"""Cross-validation: whole groups, every pair once, by a model that has not seen it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import isthmus as ist
from isthmus.cli import main
from isthmus.errors import InputError, UsageError
from isthmus.metrics.retrieval import ranks
from isthmus.training import load_recipe
from isthmus.training.contrastive import folds
from toys import pixel_encoder, word_encoder, write_pairs


def pairs(n: int = 200, seed: int = 0, order: np.ndarray | None = None) -> ist.FeaturePairs:
    """Images and captions of one latent, in groups of one to four."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 6))
    maps = [rng.standard_normal((6, width)) for width in (20, 14)]
    image, text = (latent @ m + 1.5 * rng.standard_normal((n, m.shape[1])) for m in maps)
    groups = np.repeat(np.arange(n), rng.integers(1, 5, n))[:n]
    order = np.arange(n) if order is None else order
    return ist.FeaturePairs.from_arrays(
        image[order].astype(np.float32),
        text[order].astype(np.float32),
        ids=[f"id{i:03d}" for i in order],
        groups=groups[order].tolist(),
    )


def test_folds_hold_whole_groups_are_even_and_do_not_follow_the_order_of_rows() -> None:
    data = pairs()
    place = folds.assign_folds(data, 5)
    for group in np.unique(data.bootstrap_group):
        assert len(set(place[data.bootstrap_group == group])) == 1
    assert np.bincount(place).max() - np.bincount(place).min() <= 4
    order = np.random.default_rng(1).permutation(200)
    assert np.array_equal(folds.assign_folds(pairs(order=order), 5), place[order])
    assert not np.array_equal(folds.assign_folds(data, 5, seed=1), place)


def test_every_pair_is_tested_once_by_a_model_that_never_saw_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on, tested = [], []
    train, rank = folds.train_projectors, folds.ranks

    def watched(one, val, recipe, **options):
        trained_on.append({*one.image_ids, *(val.image_ids if val else [])})
        return train(one, val, recipe, **options)

    def ranked(image, text, image_of):
        tested.append(len(image))
        return rank(image, text, image_of)

    monkeypatch.setattr(folds, "train_projectors", watched)
    monkeypatch.setattr(folds, "ranks", ranked)
    data = pairs()
    found = folds.cross_validate(data, load_recipe("cca"), folds=4, bootstrap=50)
    place = folds.assign_folds(data, 4)
    assert sum(tested) == 200
    for fold, seen in enumerate(trained_on):
        assert seen == {id for id, at in zip(data.image_ids, place, strict=True) if at != fold}
    assert found["n"] | {"groups": 0} == {
        **{"images": 200, "image_queries": 200, "texts": 200, "groups": 0, "folds": 4, "candidates": 50.0}
    }
    sizes = np.bincount(place)
    assert found["metrics"]["mean_recall@10"] == pytest.approx(np.average(found["folds"], weights=sizes))
    low, high = found["ci95"]["mean_recall@10"]
    assert low < found["metrics"]["mean_recall@10"] < high
    assert found["metrics"]["mean_recall@10"] > 0.3


def test_a_fold_s_ranks_are_those_among_its_own_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pooled medians are those of the folds' ranks put one after the other."""
    gathered = []
    monkeypatch.setattr(folds, "ranks", lambda *given: gathered.append(ranks(*given)) or gathered[-1])
    found = folds.cross_validate(pairs(), load_recipe("cca"), folds=3, bootstrap=0)
    by_hand = np.concatenate([one.image for one in gathered])
    assert found["metrics"]["image_retrieval_median_rank"] == np.median(by_hand)
    assert found["metrics"]["image_retrieval_recall@5"] == pytest.approx(np.mean(by_hand <= 5))


def test_the_command_estimates_first_and_trains_then(tmp_path: Path, capsys) -> None:
    table = write_pairs(tmp_path / "data", copies=3)
    ist.embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store")
    command = ["train", str(tmp_path / "store"), "--recipe", "cca", "--folds", "4", "--out", str(tmp_path / "model")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "4 folds, every pair tested once, among 32 images of its fold on average." in printed
    found = json.loads((tmp_path / "model" / "folds.json").read_text())
    assert found["n"]["images"] == 128, "the test split takes no part"
    assert ist.DualEncoder.from_pretrained(tmp_path / "model", load=False).width > 0


def test_impossible_folds_are_refused() -> None:
    with pytest.raises(UsageError, match="folds=1"):
        ist.cross_validate(pairs(), folds=1)
    few = ist.FeaturePairs.from_arrays(
        np.eye(6, dtype=np.float32), np.eye(6, dtype=np.float32), groups=[0, 0, 0, 1, 1, 1]
    )
    with pytest.raises(InputError, match="2 groups of images are too few for 5 folds"):
        ist.cross_validate(few)
