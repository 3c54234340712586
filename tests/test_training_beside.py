"""A closed form beside the trained head: two embeddings side by side, in the proportion held-out pairs ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import isthmus as ist
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import UsageError
from isthmus.projectors import ConcatEnsemble, build_projector, from_config
from isthmus.projectors.closed_form import choose
from isthmus.projectors.projector import project
from isthmus.training import load_recipe, train_projectors
from isthmus.training.contrastive.ensemble import SHARES, best_share, join
from isthmus.training.contrastive.validation import recalls

CPU = torch.device("cpu")


def made_pairs(n: int, seed: int) -> FeaturePairs:
    """Pairs that share a curved factor, which a linear map finds in part."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((n, 6)).astype(np.float32)
    to_image, to_text = (np.random.default_rng(key).standard_normal((6, 16)) for key in (1, 2))
    noise = [0.3 * rng.standard_normal((n, 16)) for _ in range(2)]
    image = (np.tanh(factor @ to_image) + noise[0]).astype(np.float32)
    return FeaturePairs.from_arrays(image, (factor @ to_text + noise[1]).astype(np.float32))


def made_recipe(*overrides: str) -> ist.training.Recipe:
    return load_recipe("default", ["optim.epochs=3", "optim.batch=64", "head.width=24", "stop.refit=false", *overrides])


def test_the_cosine_of_two_concats_is_the_mean_of_the_cosines_by_share() -> None:
    torch.manual_seed(0)
    sides = [[build_projector("linear", [8], width) for width in (4, 6)] for _ in range(2)]
    image, text = (ConcatEnsemble(members, [0.3, 0.7]) for members in sides)
    x, y = torch.randn(5, 8), torch.randn(7, 8)

    cosines = [F.normalize(a(x), dim=-1) @ F.normalize(b(y), dim=-1).T for a, b in zip(*sides, strict=True)]
    torch.testing.assert_close(image(x) @ text(y).T, 0.3 * cosines[0] + 0.7 * cosines[1])
    torch.testing.assert_close(image(x).norm(dim=-1), torch.ones(5))


@pytest.mark.parametrize("shares", [[0.5], [0.5, 0.6], [-0.5, 1.5]])
def test_shares_that_do_not_add_up_are_refused(shares: list[float]) -> None:
    with pytest.raises(UsageError, match="add up to 1"):
        ConcatEnsemble([build_projector("linear", [8], 4) for _ in range(2)], shares)


def test_members_of_other_features_are_refused() -> None:
    with pytest.raises(UsageError, match="different features"):
        ConcatEnsemble([build_projector("linear", [8], 4), build_projector("linear", [4, 4], 4)], [0.5, 0.5])


def test_a_concat_is_made_again_from_its_config() -> None:
    torch.manual_seed(0)
    made = ConcatEnsemble(
        [build_projector("linear", [8], 4), build_projector("parallel+residual", [8], 6)], [0.25, 0.75]
    ).eval()
    again = from_config(made.config()).eval()
    again.load_state_dict(made.state_dict())
    x = torch.randn(3, 8)
    assert torch.equal(again(x), made(x)) and again.width == 10 and again.parts == [8]


def test_the_share_is_the_best_of_all_shares_on_validation() -> None:
    train, val = made_pairs(300, 0), made_pairs(120, 1)
    closed = choose("cca", train, val).to_projectors()
    trained = train_projectors(train, None, made_recipe('head.beside="none"'))
    heads = trained.image_projector, trained.text_projector
    share, metrics = best_share(closed, heads, val)

    by_hand = {}
    for tried in SHARES:
        image, text = (join(*members, tried) for members in zip(closed, heads, strict=True))
        by_hand[tried] = recalls(project(image, val.image, CPU), project(text, val.text, CPU), val)["val_recall"]
    assert metrics["val_recall"] == pytest.approx(by_hand[share]) == pytest.approx(max(by_hand.values()))


def test_training_returns_both_and_says_so() -> None:
    train, val = made_pairs(300, 0), made_pairs(120, 1)
    result = train_projectors(train, val, made_recipe())
    beside = result.summary["beside"]
    assert beside["form"] == "cca" and 0 <= beside["share"] <= 1
    measured = recalls(
        project(result.image_projector, val.image, CPU), project(result.text_projector, val.text, CPU), val
    )
    assert result.summary["validation"] == pytest.approx(measured)
    assert result.history[-1]["val_recall"] == pytest.approx(measured["val_recall"])
    # Shares of 0 and 1 are among those tried, so that neither of the two alone is better on validation.
    assert measured["val_recall"] >= max(record.get("val_recall", 0.0) for record in result.history)


def test_without_validation_pairs_both_count_half() -> None:
    result = train_projectors(made_pairs(300, 0), None, made_recipe())
    assert result.summary["beside"]["share"] == 0.5
    assert isinstance(result.image_projector, ConcatEnsemble) and result.summary["validation"] == {}


def test_a_model_with_both_is_saved_and_loaded(tmp_path: Path) -> None:
    pairs = made_pairs(300, 0)
    model = ist.train(pairs, overrides=["optim.epochs=2", "head.width=24"], out=tmp_path / "model")
    again = ist.DualEncoder.from_pretrained(tmp_path / "model", load=False)
    assert isinstance(again.image_projector, ConcatEnsemble)
    np.testing.assert_array_equal(again.project("image", pairs.image), model.project("image", pairs.image))
    assert again.scale == pytest.approx(model.scale)


def test_a_finished_run_called_again_gives_the_same(tmp_path: Path) -> None:
    train, val = made_pairs(300, 0), made_pairs(120, 1)
    first, second = (train_projectors(train, val, made_recipe(), out=tmp_path) for _ in range(2))
    assert second.history == first.history
    assert second.summary["beside"] == first.summary["beside"] and second.scale == first.scale


def test_a_closed_form_beside_the_sigmoid_loss_is_refused() -> None:
    with pytest.raises(UsageError, match=r"head\.beside needs"):
        load_recipe("sail", ["head.beside=cca"])
