"""Zero-shot classification: by hand, against scikit-learn, torchmetrics and CLIP_benchmark; prompts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_score
from torchmetrics.functional.classification import multiclass_accuracy

import oracles
from isthmus.errors import InputError, UsageError
from isthmus.metrics.zeroshot import class_embeddings, load_templates, zeroshot


def problem(seed: int, images: int = 300, classes: int = 12, width: int = 6):
    """Images, classes, labels; class sizes differ and one class has no image."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes - 1, size=images, p=np.arange(1, classes) / np.arange(1, classes).sum())
    class_emb = rng.standard_normal((classes, width))
    return class_emb[labels] + 1.5 * rng.standard_normal((images, width)), class_emb, labels


def cosine(image: np.ndarray, class_emb: np.ndarray) -> np.ndarray:
    return (image / np.linalg.norm(image, axis=1, keepdims=True)) @ (
        class_emb / np.linalg.norm(class_emb, axis=1, keepdims=True)
    ).T


def test_a_case_computed_by_hand():
    # Classes point along the axes; five images, the third goes wrong (class 0 taken for 1).
    image = np.array([[1, 0.2, 0], [0.9, 0, 0.3], [0.4, 0.5, 0], [0, 1, 0.5], [0.1, 0, 1]])
    result = zeroshot(image, np.eye(3), np.array([0, 0, 0, 1, 2]), classnames=["cat", "dog", "tree"])
    assert result["confusion"].tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert result["metrics"] == pytest.approx({"acc1": 4 / 5, "mean_per_class_recall": (2 / 3 + 1 + 1) / 3})
    assert result["per_class"] == [
        {"class": "cat", "n": 3, "recall": pytest.approx(2 / 3), "precision": 1.0},
        {"class": "dog", "n": 1, "recall": 1.0, "precision": 0.5},
        {"class": "tree", "n": 1, "recall": 1.0, "precision": 1.0},
    ]
    assert result["n"] == {"images": 5, "classes": 3, "groups": 5}


@pytest.mark.parametrize("seed", range(3))
def test_values_are_those_of_scikit_learn_and_torchmetrics(seed):
    image, class_emb, labels = problem(seed)
    result = zeroshot(image, class_emb, labels, bootstrap=0)
    scores = cosine(image, class_emb)
    predicted = scores.argmax(axis=1)
    assert 0.2 < result["metrics"]["acc1"] < 0.9
    assert np.array_equal(result["confusion"], confusion_matrix(labels, predicted, labels=range(12)))
    for k in (1, 5):
        top = multiclass_accuracy(torch.from_numpy(scores), torch.from_numpy(labels), 12, average="micro", top_k=k)
        assert result["metrics"][f"acc{k}"] == pytest.approx(top.item())
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = balanced_accuracy_score(labels, predicted)
    assert result["metrics"]["mean_per_class_recall"] == pytest.approx(balanced)
    precision = precision_score(labels, predicted, average=None, labels=range(12), zero_division=np.nan)
    ours = [np.nan if line["precision"] is None else line["precision"] for line in result["per_class"]]
    assert ours == pytest.approx(precision, nan_ok=True)
    assert result["per_class"][11]["recall"] is None


def test_class_vectors_are_those_of_clip_benchmark():
    peer = oracles.clip_benchmark("zeroshot_classification")
    names, table = [f"class {i}" for i in range(12)], torch.randn(4096, 6, generator=torch.manual_seed(0))

    def encode(prompts) -> torch.Tensor:
        return torch.stack([table[sum(p.encode()) * 31 % 4096] + len(p) / 20 for p in prompts])

    class Tokens(list):
        def to(self, device):
            return self

    class Model:
        encode_text = staticmethod(encode)

    templates = ["a photo of a {c}.", "{c}", "one {c}, seen from afar"]
    expected = peer.zero_shot_classifier(Model, Tokens, names, templates, "cpu", amp=False).T
    ours = class_embeddings(lambda prompts: encode(prompts).numpy(), names, templates)
    assert ours.dtype == np.float32
    assert ours == pytest.approx(expected.numpy(), abs=1e-6)


def test_prompts_are_normalised_averaged_and_normalised_again():
    table = {"a": [3.0, 0.0], "the a": [0.0, 1.0], "b": [0.0, 2.0], "the b": [0.0, 9.0]}
    asked = []

    def encode(prompts: list[str]) -> np.ndarray:
        asked.extend(prompts)
        return np.array([table[prompt] for prompt in prompts])

    vectors = class_embeddings(encode, ["a", "b"], ["{}", "the {}"])
    assert asked == ["a", "the a", "b", "the b"]
    assert vectors == pytest.approx(np.array([[np.sqrt(0.5), np.sqrt(0.5)], [0, 1]]))


def test_many_prompts_are_encoded_in_bounded_batches():
    sizes = []

    def encode(prompts: list[str]) -> np.ndarray:
        sizes.append(len(prompts))
        return np.array([[len(prompt), sum(prompt.encode()) % 97 + 1.0] for prompt in prompts])

    names = [f"class {i}" for i in range(700)]
    whole = class_embeddings(encode, names, ["{}", "a {}", "the {}"])
    assert whole.shape == (700, 2)
    assert max(sizes) <= 1024
    assert whole[650] == pytest.approx(class_embeddings(encode, names[650:651], ["{}", "a {}", "the {}"])[0])


def test_of_equal_classes_the_first_is_taken():
    result = zeroshot(np.ones((4, 3)), np.ones((6, 3)), np.array([0, 1, 2, 5]), bootstrap=0)
    assert result["metrics"]["acc1"] == 0.25
    assert result["metrics"]["acc5"] == 0.75
    assert result["confusion"][:, 0].tolist() == [1, 1, 1, 0, 0, 1]


def test_top_5_needs_five_classes():
    assert "acc5" not in zeroshot(np.eye(4), np.eye(4), np.arange(4), bootstrap=0)["metrics"]
    assert zeroshot(np.eye(5), np.eye(5), np.arange(5), bootstrap=0)["metrics"]["acc5"] == 1


def test_tile_changes_nothing_and_intervals_hold_the_value():
    image, class_emb, labels = problem(1)
    whole = zeroshot(image, class_emb, labels, groups=np.arange(300) // 3)
    tiled = zeroshot(image, class_emb, labels, groups=np.arange(300) // 3, tile=2)
    assert np.array_equal(whole.pop("confusion"), tiled.pop("confusion"))
    assert whole == tiled
    assert whole["n"]["groups"] == 100
    for name, value in whole["metrics"].items():
        low, high = whole["ci95"][name]
        assert low < value < high


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 3])}, "labels, row 2: 3 is not within 0 … 2"),
        ({"labels": np.array(["cat", "dog", "cat"])}, "expected 3 integers"),
        ({"image_emb": np.array([[1, 0, 0], [0, 0, 0], [1, 1, 1.0]])}, "row 1"),
        ({"class_emb": np.ones((3, 4))}, "3 wide"),
        ({"classnames": ["cat"]}, "1 names for 3"),
        ({"groups": np.arange(2)}, "expected 3 ids"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"image_emb": np.eye(3), "class_emb": np.eye(3), "labels": np.arange(3)}
    with pytest.raises(InputError, match=message):
        zeroshot(**(good | change))


@pytest.mark.parametrize("names", [[], ["cat", ""]])
def test_class_names_are_there(names):
    with pytest.raises(InputError, match="class"):
        class_embeddings(lambda prompts: np.ones((len(prompts), 2)), names, ["{}"])


@pytest.mark.parametrize("name", ["default", "clipart", "simple"])
def test_bundled_templates_have_a_slot_and_no_repeats(name):
    templates = load_templates(name)
    assert templates
    assert all(template.count("{}") == 1 for template in templates)
    assert len(set(templates)) == len(templates)


def test_templates_from_text_and_json_files(tmp_path):
    text, listed = tmp_path / "own.txt", tmp_path / "own.json"
    text.write_text("# ours\n\na photo of a {c}.\n  {}  \n", encoding="utf-8")
    listed.write_text(json.dumps(["ein Bild: {}", "{c}!"]), encoding="utf-8")
    assert load_templates(text) == ["a photo of a {}.", "{}"]
    assert load_templates(listed) == ["ein Bild: {}", "{}!"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "{}\n\na photo\n", "line 3: 'a photo' has no {}"),
        ("b.txt", "# nothing\n", "holds no template"),
        ("c.json", '{"a": 1}', "expected a JSON list"),
        ("d.json", '["{}", "{0.__class__}"]', "entry 1"),
    ],
)
def test_a_template_file_that_cannot_serve_is_named_with_its_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_templates(path)
    assert name in str(caught.value)


def test_a_template_is_never_formatted():
    seen = []

    def encode(prompts: list[str]) -> np.ndarray:
        seen.extend(prompts)
        return np.ones((len(prompts), 2))

    class_embeddings(encode, ["c{0}at"], ["{} {0.__class__} {missing}"])
    assert seen == ["c{0}at {0.__class__} {missing}"]


def test_an_unknown_list_of_templates_suggests_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'clipart'"):
        load_templates("clip-art")
