"""Fewer dimensions, bytes and bits: codes against naive twins, prefixes that are trained, models that are cut."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import isthmus as ist
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import InputError, UsageError
from isthmus.losses import infonce
from isthmus.metrics.nearest import top_k
from isthmus.metrics.retrieval import retrieval
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.outputs import Decoded, quantize, shorten
from isthmus.training.contrastive.joint import Joint
from isthmus.training.contrastive.recipe import LossOptions
from isthmus.training.recipe import load_recipe
from toys import pixel_encoder, word_encoder, write_pairs


def unit(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    rows = rng.standard_normal((n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_bits_compare_by_hamming_distance() -> None:
    rng = np.random.default_rng(0)
    x, y = unit(rng, 5, 20), unit(rng, 7, 20)
    a, b = quantize(x, "binary"), quantize(y, "binary")
    assert a.shape == (5, 3)
    assert a.dtype == np.uint8
    distance = ((x > 0)[:, None] != (y > 0)[None]).sum(axis=2)
    left, right = Decoded(a, 20), Decoded(b, 20)
    assert np.asarray(left) @ np.asarray(right).T == pytest.approx(20 - 2 * distance)
    scores, index = top_k(left, right, 7)
    assert np.sort(scores, axis=1) == pytest.approx(np.sort(1 - 2 * distance / 20, axis=1))
    assert (np.take_along_axis(distance, index, axis=1)[:, 0] == distance.min(axis=1)).all()


def test_bytes_keep_cosines_and_forget_lengths() -> None:
    rng = np.random.default_rng(1)
    x, y = unit(rng, 50, 64), unit(rng, 60, 64)
    codes = quantize(x, "int8")
    assert codes.dtype == np.int8
    assert np.abs(codes).max(axis=1).tolist() == [127] * 50
    assert np.array_equal(codes, quantize(7 * x, "int8"))
    approximate = F.normalize(torch.from_numpy(np.asarray(Decoded(codes)))).numpy()
    assert np.abs(approximate @ y.T - x @ y.T).max() < 0.01
    owner = np.arange(50)
    found = [retrieval(one, x, owner, bootstrap=0)["metrics"] for one in (x, Decoded(codes))]
    assert found[0] == found[1]


def test_a_prefix_is_normalised_again() -> None:
    x = np.array([[3.0, 4.0, 12.0]], np.float32) / 13
    assert shorten(x, 2) == pytest.approx(np.array([[0.6, 0.8]]))
    assert shorten(x, None) is x
    for width in (0, 4):
        with pytest.raises(UsageError, match="1 to 3 dimensions"):
            shorten(x, width)


def test_what_is_no_code_is_told() -> None:
    with pytest.raises(UsageError, match="Did you mean 'binary'"):
        quantize(np.eye(2), "binry")
    with pytest.raises(InputError, match="packed bits"):
        Decoded(np.eye(2))
    with pytest.raises(InputError, match="hold 16 dimensions"):
        Decoded(np.zeros((2, 2), np.uint8), 20)


def test_the_matryoshka_loss_is_the_sum_over_prefixes() -> None:
    torch.manual_seed(0)
    joint = Joint(torch.nn.Linear(6, 8), torch.nn.Linear(5, 8), LossOptions(matryoshka=(2, 4)), scale=10.0, batch=9)
    image, text = joint(torch.randn(9, 6), torch.randn(9, 5))
    expected = sum(
        infonce(F.normalize(image[:, :width], dim=-1), F.normalize(text[:, :width], dim=-1), joint.scale())
        for width in (2, 4, 8)
    )
    torch.testing.assert_close(joint.loss(image, text, None), expected)


def made(seed: int, n: int = 400) -> FeaturePairs:
    shared = np.random.default_rng(seed).standard_normal((n, 12))
    noise = np.random.default_rng((seed, 1)).standard_normal((n, 32)) * 0.3
    to_image, to_text = (np.random.default_rng(key).standard_normal((12, 32)) for key in (7, 8))
    return FeaturePairs.from_arrays(
        (shared @ to_image + noise).astype(np.float32), (shared @ to_text).astype(np.float32)
    )


def test_trained_prefixes_are_better_than_cut_ones() -> None:
    test, found = made(2), {}
    for name, widths in (("plain", "[]"), ("matryoshka", "[4, 8]")):
        overrides = [
            "head.width=64",
            "optim.epochs=15",
            "optim.batch=100",
            "optim.lr=3e-3",
            f"loss.matryoshka={widths}",
        ]
        model = ist.train(made(0), val=made(1), recipe="linear", overrides=overrides)
        short = model.truncate(4)
        image, text = short.project("image", test.image), short.project("text", test.text)
        found[name] = retrieval(image, text, test.image_of, bootstrap=0)["metrics"]["mean_recall@10"]
    assert found["matryoshka"] > found["plain"] + 0.1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.matryoshka=[64, 32]"], "must rise"),
        (["loss.matryoshka=[64, 512]"], "stay below head.width = 512"),
        (["loss.matryoshka=[0]"], "at least 1"),
        (["loss.matryoshka=32"], "a list of whole numbers"),
        (["loss.matryoshka=[1.5]"], "a list of whole numbers"),
        (["loss.matryoshka=[32]", "head.beside=cca"], "prefixes of one head"),
    ],
)
def test_widths_that_make_no_sense_are_told(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe("linear", overrides)


def test_a_model_gives_short_and_coarse_embeddings_and_stays_cut_when_saved(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", copies=2)
    encoders = {"image": [pixel_encoder()], "text": [word_encoder()]}
    store = ist.embed(pairs, *encoders["image"], *encoders["text"], out=tmp_path / "store")
    model = ist.train(store, recipe="linear", overrides=["optim.epochs=1", "head.width=16"])
    model.encoders = encoders
    texts = ["a dark red square", "a pale blue square"]
    whole = model.encode_text(texts)
    assert np.array_equal(model.encode_text(texts, width=6), shorten(whole, 6))
    assert np.array_equal(model.encode_text(texts, precision="int8"), quantize(whole, "int8"))
    assert model.encode_text(texts, width=8, precision="binary").shape == (2, 1)
    assert model.encode_text(texts, as_tensor=True, precision="int8").dtype == torch.int8

    short = model.truncate(6)
    assert short.width == 6
    assert short.encode_text(texts) == pytest.approx(shorten(whole, 6), abs=1e-6)
    short.save_pretrained(tmp_path / "short")
    again = DualEncoder.from_pretrained(tmp_path / "short", encoders=encoders)
    assert np.array_equal(again.encode_text(texts), short.encode_text(texts))
    assert "6 dimensions" in (tmp_path / "short" / "README.md").read_text()
    with pytest.raises(UsageError, match="1 to 6 dimensions"):
        again.truncate(7)
