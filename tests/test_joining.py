"""A new encoder joins the space of a trained model, one side of which stays as it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import isthmus as ist
from isthmus.cli import main
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.metrics.retrieval import retrieval
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import SumEnsemble, build_projector, from_config
from isthmus.projectors.closed_form import normalized
from isthmus.projectors.ridge import ridge_onto

RECORDS = {
    name: {"modality": side, "uri": f"array:{name}", "fingerprint": letter * 64, "width": width}
    for name, side, letter, width in (
        ("old", "image", "a", 24),
        ("new", "image", "b", 20),
        ("words", "text", "c", 16),
        ("other words", "text", "d", 16),
    )
}


def made(image: str = "old", text: str = "words", n: int = 240, seed: int = 0) -> FeaturePairs:
    """Pairs of one set of things, as different encoders see them."""
    shared = np.random.default_rng(seed).standard_normal((n, 6))
    sides = []
    for name in (image, text):
        record = RECORDS[name]
        rng = np.random.default_rng(ord(record["fingerprint"][0]))
        noise = np.random.default_rng((seed, ord(record["fingerprint"][0]))).standard_normal((n, record["width"]))
        sides.append((np.tanh(shared @ rng.standard_normal((6, record["width"]))) + 0.2 * noise).astype(np.float32))
    records = {"image_encoder": [RECORDS[image]], "text_encoder": [RECORDS[text]]}
    return FeaturePairs.from_arrays(*sides, **records)


OPTIONS = {"val": made(seed=1), "overrides": ["optim.epochs=4", "optim.batch=64", "head.width=12"]}


@pytest.fixture(scope="module")
def old() -> DualEncoder:
    return ist.train(made(), **OPTIONS)


def joined(old: DualEncoder, recipe: str = "default", *overrides: str, **options: object) -> DualEncoder:
    chosen = ["optim.epochs=4", "optim.batch=64", *overrides] if recipe != "cca" else list(overrides)
    val = made("new", seed=1)
    return ist.train(
        made("new"),
        val=val,
        recipe=recipe,
        overrides=chosen,
        init=old,
        freeze="text",
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("recipe", ["default", "linear", "cca", "freeze-align-pooled"])
def test_text_embeddings_stay_bit_for_bit_and_images_of_both_encoders_meet(old: DualEncoder, recipe: str) -> None:
    overrides = ["optim.lr=3e-3", "optim.epochs=40"] if recipe in ("linear", "freeze-align-pooled") else []
    new = joined(old, recipe, *overrides)
    test = {name: made(name, seed=2) for name in ("old", "new")}
    text = old.project("text", test["old"].text)
    assert np.array_equal(text, new.project("text", test["new"].text))
    images = {"old": old.project("image", test["old"].image), "new": new.project("image", test["new"].image)}
    owner = np.arange(len(text))
    between = retrieval(images["old"], images["new"], owner, bootstrap=0)["metrics"]["mean_recall@10"]
    to_text = retrieval(images["new"], text, owner, bootstrap=0)["metrics"]["mean_recall@10"]
    assert min(between, to_text) > 0.35  # chance: 10 in 240, 4 %
    assert new.width == old.width


def test_a_frozen_image_side_takes_a_new_text_encoder(old: DualEncoder) -> None:
    pairs, val, test = (made("old", "other words", seed=seed) for seed in range(3))
    new = ist.train(pairs, val=val, overrides=["optim.epochs=4", "optim.batch=64"], init=old, freeze="image")
    image = old.project("image", test.image)
    assert np.array_equal(image, new.project("image", test.image))
    found = retrieval(image, new.project("text", test.text), test.image_of, bootstrap=0)
    assert found["metrics"]["mean_recall@10"] > 0.35


def test_the_card_says_what_was_changed_and_what_it_joined(old: DualEncoder, tmp_path: Path) -> None:
    old.save_pretrained(tmp_path / "old")
    new = joined(tmp_path / "old", out=tmp_path / "new")  # type: ignore[arg-type]
    assert new.summary["joined"]["frozen"] == "text"
    assert new.summary["joined"]["init"] == str(tmp_path / "old")
    assert any("beside cca → ridge" in one for one in new.summary["deviations"])
    again = DualEncoder.from_pretrained(tmp_path / "new", load=False)
    features = made("new", seed=3).image
    assert np.array_equal(again.project("image", features), new.project("image", features))


def test_a_run_that_was_stopped_ends_in_the_same_bits(old: DualEncoder, tmp_path: Path) -> None:
    whole = joined(old, "default", out=tmp_path / "whole")
    joined(old, "default", out=tmp_path / "parts", max_seconds=0)
    parts = joined(old, "default", out=tmp_path / "parts")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_ridge_onto_a_side_equals_its_naive_twin() -> None:
    pairs = made("new")
    y = F.normalize(torch.from_numpy(np.asarray(pairs.text)), dim=-1).double()
    given = FeaturePairs.from_arrays(pairs.image, y.float().numpy())
    weight, bias = ridge_onto(given, None, "text").map
    x = normalized(pairs.image, np.arange(len(pairs)), [20]).double()
    centred = x - x.mean(0)
    covariance = centred.T @ centred / len(x)
    penalty = 0.1 * covariance.trace() / 20 * torch.eye(20)
    naive = torch.linalg.solve(covariance + penalty, centred.T @ (y - y.mean(0)) / len(x))
    expected = F.normalize(centred @ naive + y.mean(0), dim=-1).float()
    torch.testing.assert_close(F.normalize(x.float() @ weight + bias, dim=-1), expected, atol=1e-5, rtol=0)


def test_a_blend_averages_directions_and_is_made_again_from_its_config() -> None:
    torch.manual_seed(0)
    members = [build_projector("linear", [8], 4) for _ in range(2)]
    blend, x = SumEnsemble(members, [0.25, 0.75]), torch.randn(5, 8)
    expected = 0.25 * F.normalize(members[0](x), dim=-1) + 0.75 * F.normalize(members[1](x), dim=-1)
    torch.testing.assert_close(blend(x), expected)
    again = from_config(blend.config())
    again.load_state_dict(blend.state_dict())
    assert torch.equal(again(x), blend(x))
    with pytest.raises(UsageError, match="different spaces"):
        SumEnsemble([build_projector("linear", [8], width) for width in (4, 6)], [0.5, 0.5])


def test_what_cannot_join_is_told(old: DualEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="belong together"):
        ist.train(made("new"), init=old)
    with pytest.raises(UsageError, match="Did you mean 'text'"):
        ist.train(made("new"), init=old, freeze="texts")
    with pytest.raises(InputError, match="array:other words"):
        ist.train(made("new", "other words"), val=made("new", "other words", seed=1), init=old, freeze="text")
    with pytest.raises(UsageError, match="mlp"):
        joined(old, "default", "head.image=mlp", "head.init=ridge")
    code = main(["train", str(tmp_path), "--init", str(tmp_path), "--freeze", "text", "--out", str(tmp_path / "out")])
    assert code == 1
    assert "not an isthmus model" in capsys.readouterr().err
