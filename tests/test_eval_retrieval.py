"""Retrieval: hand-computed ranks, ties, CLIP_benchmark's own functions, uneven captions, memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import oracles
from isthmus.errors import InputError, UsageError
from isthmus.metrics import counting
from isthmus.metrics.retrieval import ranks, retrieval


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    x = rng.standard_normal((rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def problem(rng: np.random.Generator, images: int = 57, texts: int = 160, width: int = 16):
    """Images, captions not far from their image, one to several each, and which image each describes."""
    image = unit(rng, images, width)
    image_of = np.concatenate([np.arange(images), rng.integers(images, size=texts - images)])
    rng.shuffle(image_of)
    text = image[image_of] + 1.2 * unit(rng, texts, width)
    return image, text / np.linalg.norm(text, axis=1, keepdims=True), image_of


def from_scores(scores: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Image and text embeddings whose cosines are `scores` [texts, images], up to one factor.

    Images are unit vectors e_j; each text holds its scores, filled up to one length in a column of its own.
    """
    wanted = np.array(scores, dtype=np.float64)
    texts, images = wanted.shape
    rest = np.diag(np.sqrt(4.0 - (wanted**2).sum(axis=1)))
    return np.eye(images, images + texts), np.hstack([wanted, rest])


def test_ranks_and_metrics_of_a_case_computed_by_hand():
    # Captions 0 and 1 are of image 0, caption 2 of image 1, captions 3, 4 and 5 of image 2.
    image, text = from_scores(
        [
            [0.9, 0.1, 0.2],  # image 0 first
            [0.3, 0.5, 0.8],  # image 0 last
            [0.7, 0.6, 0.1],  # image 1 second
            [0.2, 0.1, 0.4],  # image 2 first
            [0.8, 0.0, 0.5],  # image 2 second
            [0.6, 0.4, 0.3],  # image 2 last
        ]
    )
    image_of = np.array([0, 0, 1, 2, 2, 2])
    found = ranks(image, text, image_of)
    assert found.image.tolist() == [1, 3, 2, 1, 2, 3]
    assert found.text.tolist() == [1, 5, 1, 3, 2, 4]
    assert found.best.tolist() == [1, 1, 2]
    result = retrieval(image, text, image_of, k=(1, 2, 3), bootstrap=0)
    assert result["metrics"] == pytest.approx(
        {
            "image_retrieval_recall@1": 2 / 6,
            "image_retrieval_recall@2": 4 / 6,
            "image_retrieval_recall@3": 1.0,
            "text_retrieval_recall@1": 2 / 3,
            "text_retrieval_recall@2": 1.0,
            "text_retrieval_recall@3": 1.0,
            "text_retrieval_fraction_recall@1": (1 / 2 + 1 + 0) / 3,
            "text_retrieval_fraction_recall@2": (1 / 2 + 1 + 1 / 3) / 3,
            "text_retrieval_fraction_recall@3": (1 / 2 + 1 + 2 / 3) / 3,
            "mean_recall@1": 1 / 2,
            "mean_recall@2": 5 / 6,
            "mean_recall@3": 1.0,
            "image_retrieval_median_rank": 2.0,
            "text_retrieval_median_rank": 1.0,
        }
    )
    assert result["n"] == {"images": 3, "image_queries": 3, "texts": 6, "groups": 3}
    assert result["ci95"] == {}


def test_the_right_answer_stands_in_the_middle_of_those_it_ties_with():
    image, text = from_scores([[0.5, 0.5, 0.5, 0.1], [0.2, 0.5, 0.9, 0.5]])
    assert ranks(image, text, np.array([0, 3])).image.tolist() == [2.0, 2.5]


@pytest.mark.parametrize("width", [8, 64, 257])
@pytest.mark.parametrize("images", [7, 33, 1001])
def test_equal_embeddings_tie_exactly_wherever_they_stand(images, width):
    """A float32 matrix product gives equal columns unequal scores, depending on their place."""
    rng = np.random.default_rng(0)
    image = np.repeat(unit(rng, 1, width), images, axis=0)
    found = ranks(image, unit(rng, images, width), np.arange(images))
    assert set(found.image) == {(images + 1) / 2}


def test_a_model_that_scores_everything_alike_gets_no_credit():
    same = np.ones((30, 4))
    metrics = retrieval(same, same, np.arange(30), bootstrap=0)["metrics"]
    assert metrics["image_retrieval_recall@10"] == metrics["text_retrieval_recall@10"] == 0
    assert metrics["image_retrieval_median_rank"] == metrics["text_retrieval_median_rank"] == 15.5


def test_an_image_is_not_hurt_by_captions_of_its_own_that_tie():
    image, text = from_scores([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.3, 0.8]])
    image_of = np.array([0, 0, 0, 1])
    found = ranks(image, text, image_of)
    assert found.text.tolist() == [2, 2, 2, 1]
    assert found.best.tolist() == [1, 1]
    assert found.fraction(1).tolist() == [0, 1]
    assert found.fraction(3).tolist() == [1, 1]
    rivals = ranks(image, text, np.array([0, 0, 1, 1]))
    assert rivals.best.tolist() == [1.5, 1]  # another image's caption that ties does count


@pytest.mark.parametrize("seed", range(4))
def test_recall_is_that_of_clip_benchmark(seed):
    image, text, image_of = problem(np.random.default_rng(seed))
    peer = oracles.clip_benchmark("zeroshot_retrieval")
    scores = torch.from_numpy(text) @ torch.from_numpy(image).T
    positive = torch.zeros_like(scores, dtype=torch.bool)
    positive[torch.arange(len(text)), torch.from_numpy(image_of)] = True
    metrics = retrieval(image, text, image_of, bootstrap=0)["metrics"]
    assert 0.1 < metrics["image_retrieval_recall@1"] < 0.9
    for k in (1, 5, 10):
        to_image = peer.recall_at_k(scores, positive, k)
        to_text = peer.recall_at_k(scores.T, positive.T, k)
        expected = {
            f"image_retrieval_recall@{k}": (to_image > 0).float().mean().item(),
            f"text_retrieval_recall@{k}": (to_text > 0).float().mean().item(),
            f"text_retrieval_fraction_recall@{k}": to_text.mean().item(),
        }
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_ranks_are_positions_in_the_sorted_scores():
    image, text, image_of = problem(np.random.default_rng(9))
    scores = text.astype(np.float64) @ image.T.astype(np.float64)
    found = ranks(image, text, image_of)
    for j, i in enumerate(image_of):
        assert found.image[j] == 1 + np.argsort(-scores[j]).tolist().index(i)
        assert found.text[j] == 1 + np.argsort(-scores[:, i]).tolist().index(j)


def test_the_tile_changes_nothing():
    rng = np.random.default_rng(1)
    image, text, image_of = problem(rng)
    image[10:20] = image[:10]  # ties too
    whole = ranks(image, text, image_of, tile=10_000)
    for tile in (17, 64, None):
        part = ranks(image, text, image_of, tile=tile)
        assert np.array_equal(part.image, whole.image)
        assert np.array_equal(part.text, whole.text)


@pytest.mark.parametrize("dense", [0.0, 1.0])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-5, 1.0])
def test_scores_nearer_than_a_float32_product_can_tell_are_told_apart(noise, dense, monkeypatch):
    """Against all scores at once in float64, where a right answer has many rivals within 1e-5 and exact copies."""
    monkeypatch.setattr(counting, "DENSE", dense)
    monkeypatch.setattr(counting, "STRIP", 10)
    rng = np.random.default_rng(4)
    centres = rng.standard_normal((6, 48))
    image = centres[rng.integers(0, 6, 70)] + noise * rng.standard_normal((70, 48))
    image[60:] = image[:10]
    image_of = rng.integers(0, 70, 150)
    text = image[image_of] + 0.3 * centres[rng.integers(0, 6, 150)] + noise * rng.standard_normal((150, 48))
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text))
    scores = np.array([[np.float32(np.einsum("i,i", t, i)) for i in images] for t in texts])
    own = scores[np.arange(150), image_of, None]
    of_image = scores.T[image_of]
    by_text = 1 + (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
    by_image = 1 + (of_image > own).sum(1) + ((of_image == own).sum(1) - 1) / 2
    found = ranks(image, text, image_of, tile=32)
    assert noise > 0.5 or (np.abs(scores - own) < 1e-4).sum() > 1000
    np.testing.assert_array_equal(found.image, by_text)
    np.testing.assert_array_equal(found.text, by_image)


def test_order_of_images_and_captions_changes_nothing():
    rng = np.random.default_rng(2)
    image, text, image_of = problem(rng)
    groups = np.arange(len(image)) // 2
    shuffled, place = rng.permutation(len(image)), rng.permutation(len(text))
    moved = np.argsort(shuffled)[image_of][place]
    a = retrieval(image, text, image_of, groups=groups, bootstrap=0)
    b = retrieval(image[shuffled], text[place], moved, groups=groups[shuffled], bootstrap=0)
    assert a["metrics"] == pytest.approx(b["metrics"])
    assert a["n"] == b["n"]


def test_length_and_dtype_of_embeddings_do_not_matter():
    rng = np.random.default_rng(3)
    image, text, image_of = problem(rng)
    scaled = image * rng.uniform(0.1, 9, size=(len(image), 1))
    tensors = retrieval(torch.from_numpy(scaled), torch.from_numpy(text).double(), image_of, bootstrap=0)
    assert tensors["metrics"] == retrieval(image, text, image_of, bootstrap=0)["metrics"]
    assert retrieval(image.astype(np.float16), text, image_of, bootstrap=0)["n"] == tensors["n"]


def test_an_image_without_caption_is_a_candidate_but_no_query():
    image, text = from_scores([[0.5, 0.1, 0.9], [0.1, 0.5, 0.2]])
    result = retrieval(image, text, np.array([0, 1]), k=(1,), bootstrap=0)
    assert result["metrics"]["image_retrieval_recall@1"] == 0.5  # the image without caption came first
    assert result["metrics"]["text_retrieval_recall@1"] == 1.0
    assert result["n"] == {"images": 3, "image_queries": 2, "texts": 2, "groups": 2}


def test_equal_images_are_one_item_when_their_key_says_so():
    image, text = from_scores([[0.9, 0.9, 0.1], [0.8, 0.8, 0.3], [0.1, 0.1, 0.9]])
    image_of, key = np.array([0, 1, 2]), np.array(["b", "b", "a"])
    assert ranks(image, text, image_of).image.tolist() == [1.5, 1.5, 1]
    found = ranks(image, text, image_of, image_key=key)
    assert found.image.tolist() == [1, 1, 1]
    assert found.best.tolist() == [1, 1]
    assert found.image_of.tolist() == [0, 0, 2]
    assert found.queries.tolist() == [0, 2]
    result = retrieval(image, text, image_of, image_key=key, groups=np.array([5, 6, 7]), k=(1,))
    assert result["n"] == {"images": 2, "image_queries": 2, "texts": 3, "groups": 2}
    assert result["metrics"]["mean_recall@1"] == 1


def test_the_interval_holds_the_value_and_widens_when_near_duplicates_are_grouped():
    image, text, image_of = _fourfold()
    alone = retrieval(image, text, image_of)
    grouped = retrieval(image, text, image_of, groups=np.arange(len(image)) // 4)
    assert alone["metrics"] == grouped["metrics"]
    assert set(alone["ci95"]) == set(alone["metrics"])

    def width(result):
        low, high = result["ci95"]["mean_recall@5"]
        assert low <= result["metrics"]["mean_recall@5"] <= high
        return high - low

    assert width(grouped) == pytest.approx(2 * width(alone), rel=0.2)  # 4 copies: √4 wider


def _fourfold():
    """200 pairs, 4 almost equal copies of each of 50, which succeed or fail together."""
    rng = np.random.default_rng(6)
    image, text = unit(rng, 50, 8), unit(rng, 50, 8)
    text[:25] = image[:25]
    copies = np.repeat(np.arange(50), 4)
    noise = 1e-3 * rng.standard_normal((2, 200, 8))
    return image[copies] + noise[0], text[copies] + noise[1], np.arange(200)


def test_seed_and_resamples_are_recorded_and_repeat():
    image, text, image_of = problem(np.random.default_rng(7))
    a, b = (retrieval(image, text, image_of, seed=3, bootstrap=50) for _ in range(2))
    assert a == b
    assert (a["seed"], a["bootstrap"]) == (3, 50)
    assert a["ci95"] != retrieval(image, text, image_of, seed=4, bootstrap=50)["ci95"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_of": np.array([0, 1, 9])}, "row 2: 9 is not within 0 … 2"),
        ({"image_of": np.array([0, -1, 1])}, "row 1: -1"),
        ({"image_of": np.array([0, 1])}, "expected 3 integers"),
        ({"image_of": np.array([0.0, 1.0, 2.0])}, "float64"),
        ({"image_emb": np.array([[1, 0], [0, np.nan], [1, 1.0]])}, "image embeddings, row 1"),
        ({"text_emb": np.array([[1, 0], [0, 1], [0, 0.0]])}, "text embeddings, row 2"),
        ({"text_emb": np.array([[1, 0], [np.inf, 1], [1, 0.0]])}, "text embeddings, row 1"),
        ({"text_emb": np.ones((3, 5))}, "2 wide, text embeddings 5"),
        ({"text_emb": np.ones((0, 2)), "image_of": np.zeros(0, int)}, "got shape"),
        ({"groups": np.arange(4)}, "groups: expected 3 ids"),
        ({"image_key": np.arange(2)}, "image_key: expected 3 ids"),
    ],
)
def test_bad_input_names_the_row(change, message):
    good = {"image_emb": np.eye(3, 2) + 0.1, "text_emb": np.eye(3, 2) + 0.1, "image_of": np.arange(3)}
    with pytest.raises(InputError, match=message):
        retrieval(**(good | change))


@pytest.mark.parametrize("options", [{"k": ()}, {"k": (0, 1)}, {"tile": 0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UsageError):
        retrieval(np.eye(3), np.eye(3), np.arange(3), **options)


MEMORY = """
import threading
import numpy as np
from isthmus.metrics.retrieval import retrieval

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

peak, done = 0.0, threading.Event()
def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())

rng = np.random.default_rng(0)
image = rng.standard_normal((5_000, 64), dtype=np.float32)
text = np.repeat(image, 5, axis=0) + 2 * rng.standard_normal((25_000, 64), dtype=np.float32)
before = anonymous()
watcher = threading.Thread(target=watch); watcher.start()
result = retrieval(image, text, np.arange(25_000) // 5, bootstrap=100)
done.set(); watcher.join()
print(peak - before, result["metrics"]["image_retrieval_recall@1"])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_25_000_captions_of_5_000_images_take_120_mb_more():
    """The scores alone would take 500 MB in float32, a one-hot of the top k far more."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    peak, recall = map(float, run.stdout.split())
    assert peak < 120
    assert 0.1 < recall < 0.9
