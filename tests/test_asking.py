"""Asking a model that fuses: vqa, entailment, matching, re-ranked retrieval, layers, `isthmus ask`; exact on toys."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import isthmus as ist
from isthmus.cli import main
from isthmus.data.asked import Asked
from isthmus.data.pairs import read_pairs
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.asking import answered, majority
from isthmus.evaluation.datasets.asked_sets import read_asked
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.layer_findings import look_at
from isthmus.evaluation.matching import matched
from isthmus.evaluation.reranking import Reranking
from isthmus.metrics.retrieval import ranks
from isthmus.models.fusion_model import FusionModel
from tiny_encoders import WORDS, pictures
from toy_fusion import toy_model

QUESTIONS = ("a cat", "two dogs", "red", "blue in the park")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FusionModel:
    return toy_model(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def saved(model: FusionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.save_pretrained(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def scenes(tmp_path: Path, model: FusionModel) -> Path:
    """Twenty pictures with two questions each, whose answer is what the model says; one picture is no picture."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(20):
        path = tmp_path / "images" / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (50 + number, 60, 3), dtype=np.uint8)).save(path)
        asked = [QUESTIONS[number % 4], QUESTIONS[(number + 1) % 4]]
        told = model.answer(path, asked).argmax(1).tolist()
        rows += [
            (f"images/{number}.png", question, model.answers[k], ("what", "how many")[at])
            for at, (question, k) in enumerate(zip(asked, told, strict=True))
        ]
    (tmp_path / "images" / "bad.png").write_text("no picture")
    rows.append(("images/bad.png", "a cat", "yes", "what"))
    return write(tmp_path / "questions.csv", rows)


def write(table: Path, rows: list[tuple[str, ...]]) -> Path:
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "question", "answer", "kind"), *rows])
    return table


def test_answers_of_the_model_itself_are_all_right_and_a_bad_picture_is_listed(
    saved: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = scenes.parent / "result.json"
    assert main(["eval", str(saved), "vqa", str(scenes), "--json", str(out), "--bootstrap", "100"]) == 3
    found = json.loads(out.read_text())
    assert found["metrics"]["accuracy"] == 1.0 and found["n"] == {"questions": 40, "images": 20, "answers": 3}
    assert {row["category"]: row["n"] for row in found["per_category"]} == {"how many": 20, "what": 20}
    assert [id for id, _ in found["skipped"]] == ["images/bad.png"]
    low, high = found["ci95"]["shuffled_accuracy"]
    assert low <= found["metrics"]["shuffled_accuracy"] <= high
    printed = capsys.readouterr().out
    assert "shuffled_accuracy" in printed and "does not remember what trained it" in printed


def test_shuffled_asks_of_the_picture_before_and_blind_of_grey(model: FusionModel, scenes: Path) -> None:
    """Batches of sixteen do not matter: the first of the second batch follows the last of the first."""
    data = read_asked(scenes)
    found = answered(model, data, Exposure(None, "toy"))
    own, shuffled, blind = (np.concatenate(some) for some in (found.own, found.shuffled, found.blind))
    paths = [scenes.parent / "images" / f"{number}.png" for number in range(20)]
    grey = Image.new("RGB", (224, 224), (128, 128, 128))
    for place in range(1, 20):
        asked = [one.question for one in found.asked[2 * place : 2 * place + 2]]
        for values, picture in ((own, paths[place]), (shuffled, paths[place - 1]), (blind, grey)):
            expected = model.answer(picture, asked).argmax(1)
            np.testing.assert_array_equal(values[2 * place : 2 * place + 2], expected)
    assert (own != shuffled).any() and (own != blind).any()


def test_chance_is_the_most_frequent_answer_of_its_kind() -> None:
    asked = [Asked("a", "q", {answer: 1.0}, kind) for kind, answer in zip("xxxyy", "ababb", strict=True)]
    assert majority(asked).tolist() == [1, 0, 1, 1, 1]
    assert majority(asked, by_kind=False).tolist() == [0, 1, 0, 1, 1]


def test_answers_that_the_model_cannot_give_count_as_wrong_and_are_told(model: FusionModel, scenes: Path) -> None:
    rows = list(csv.reader(scenes.open()))[1:41]
    some = [
        (image, question, "purple" if number < 4 else answer, kind)
        for number, (image, question, answer, kind) in enumerate(rows)
    ]
    found = ist.evaluate(model, "vqa", write(scenes, some), bootstrap=0)
    assert found["metrics"]["accuracy"] == pytest.approx(0.9)
    assert found["notes"][0].startswith("4 of 40 questions have no answer among the 3 that the model can give")
    with pytest.raises(InputError, match=r"none of its answers \(purple, …\) is among the 3 that the model can give"):
        ist.evaluate(model, "vqa", write(scenes, some[:4]))


def test_entailment_has_three_classes(tmp_path: Path, scenes: Path) -> None:
    classes = ("entailment", "neutral", "contradiction")
    model = toy_model(tmp_path / "encoders", classes)
    rows = [(f"images/{n}.png", QUESTIONS[n % 4], classes[n % 3], "") for n in range(12)]
    found = ist.evaluate(model, "entailment", write(scenes, rows), bootstrap=0)
    assert [row["category"] for row in found["per_category"]] == sorted(classes)
    assert found["chance"]["accuracy"] == pytest.approx(1 / 3)
    mean = np.mean([row["metrics"]["accuracy"] for row in found["per_category"]])
    assert found["metrics"]["accuracy"] == pytest.approx(mean)
    with pytest.raises(InputError, match="'yes' is none of entailment, neutral, contradiction"):
        ist.evaluate(model, "entailment", write(scenes, [("images/1.png", "red", "yes", "")]))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty-one pictures, more than are encoded at a time; two of one group."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(21):
        name = f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(tmp_path / name)
        group = "same" if number in (3, 4) else f"g{number}"
        captions = [" ".join(WORDS[k] for k in rng.permutation(len(WORDS))[:4]) for _ in range(2)]
        rows.append({"image": name, "captions": captions, "group": group})
    table = tmp_path / "pairs.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    return table


def test_matching_compares_every_caption_with_a_picture_of_another_group(model: FusionModel, pairs: Path) -> None:
    found = matched(model, read_pairs(pairs), Exposure(None, "toy"))
    assert len(found["own"]) == len(found["other"]) == 42
    fifth = [pairs.parent / f"{number}.png" for number in (4, 2)]  # the picture before it is of its group
    text = read_pairs(pairs).captions["caption"][8].as_py()
    expected = [model.match(path, [text])[0] for path in fifth]
    np.testing.assert_allclose([found["own"][8], found["other"][8]], expected, rtol=1e-4)
    result = ist.evaluate(model, "matching", pairs, bootstrap=0)
    sides = ((found["own"] > 0.5).mean() + (found["other"] <= 0.5).mean()) / 2
    assert result["metrics"]["accuracy"] == pytest.approx(sides)


def naive_reranked(model: FusionModel, pairs: Path, top: int) -> tuple[list[float], list[float]]:
    """Ranks of both directions with loops over every picture and caption."""
    read = read_pairs(pairs)
    images = [read.decode(row) for row in range(len(read))]
    texts = [row["caption"] for row in read.captions.to_pylist()]
    ids = read.images["id"].to_pylist()
    owner = [ids.index(row["id"]) for row in read.captions.to_pylist()]
    cosine = model.encode_text(texts) @ model.encode_image(images).T
    chance = np.stack([model.match(image, texts) for image in images], axis=1)  # [m, n]

    def rank(scores: np.ndarray, chances: np.ndarray, right: int) -> float:
        best = np.argsort(-scores, kind="stable")[:top]
        if right not in best:
            return 1 + (scores > scores[right]).sum() + ((scores == scores[right]).sum() - 1) / 2
        others = [chances[k] for k in best if k != right]
        return 1 + sum(x > chances[right] for x in others) + sum(x == chances[right] for x in others) / 2

    by_text = [rank(cosine[t], chance[t], owner[t]) for t in range(len(texts))]
    by_image = [rank(cosine[:, owner[t]], chance[:, owner[t]], t) for t in range(len(texts))]
    return by_text, by_image


def test_reranking_is_the_naive_one(model: FusionModel, pairs: Path) -> None:
    found = Reranking(model, read_pairs(pairs), Exposure(None, "toy"))
    after = found.reordered(ranks(found.ends["image"], found.ends["text"], found.image_of), 6)
    by_text, by_image = naive_reranked(model, pairs, 6)
    same = np.isclose(after.image, by_text).mean(), np.isclose(after.text, by_image).mean()
    assert min(same) > 0.9  # near ties may be cut off in another order


def test_retrieval_of_a_model_that_fuses_is_reranked(saved: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = ["eval", str(saved), "retrieval", str(pairs), "--rerank", "4", "--json", str(out), "--bootstrap", "20"]
    assert main(command) == 0
    found = json.loads(out.read_text())
    assert {"mean_recall@1", "contrastive_mean_recall@1"} <= found["metrics"].keys() & found["ci95"].keys()
    assert "The 4 candidates" in found["definition"]


@pytest.mark.parametrize("aggregator", ["saum", "aaum", "last"])
def test_layers_tells_weights_that_are_the_models(aggregator: str, scenes: Path, tmp_path: Path) -> None:
    model = toy_model(tmp_path / "encoders", aggregator=aggregator)
    found = look_at(model, read_asked(scenes), 5)
    assert found.numbers == {"image": [1, 2, 3], "text": [1, 2, 3]} and found.asked == 10
    states = model.states(scenes.parent / "images" / "0.png", [QUESTIONS[0]])
    weights = model.fuse(states).weights["image"]
    assert [one.adaptive for one in found.mixing["image"]] == [weight.ndim == 3 for weight in weights]
    last = weights[1].mean(-1)[0] if aggregator == "aaum" else weights[1]
    np.testing.assert_allclose(found.mixing["image"][1].samples[0], last, rtol=1e-4, atol=1e-6)
    assert (found.mixing["image"][1].sample_spread.max() > 0) == (aggregator == "aaum")
    entropy = found.mixing["image"][0].entropy
    assert entropy == pytest.approx(0, abs=1e-6) if aggregator == "last" else 0 < entropy <= 1.0001
    assert len(found.looks) == 5 and found.looks[0].map.shape == (3, 3)
    assert 0 < found.looks[0].map.sum() < 1


def test_the_page_on_layers_shows_every_part(saved: Path, scenes: Path, tmp_path: Path) -> None:
    page, out = tmp_path / "page.html", tmp_path / "result.json"
    command = ["eval", str(saved), "layers", str(scenes), "--limit", "6", "--report", str(page), "--json", str(out)]
    assert main(command) == 0
    text = page.read_text()
    for part in ("Which layers it reads", "Does it choose by question?", "Where a question looks", "a cat"):
        assert part in text
    assert text.count("data:image/webp") == 12 and 'src="http' not in text
    assert json.loads(out.read_text())["layer_numbers"] == {"image": [1, 2, 3], "text": [1, 2, 3]}


def test_ask_prints_answers_with_probabilities(
    saved: Path, scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture, out = str(scenes.parent / "images" / "0.png"), tmp_path / "reply.json"
    assert main(["ask", str(saved), picture, "a cat", "--json", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    reply = json.loads(out.read_text())
    assert [line.split()[0] for line in printed] == list(reply["probabilities"])
    assert sum(reply["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert reply["answer"] == printed[0].split()[0] and printed[0].endswith("%")
    first, second = ist.ask(str(saved), picture, ["a cat", "red"], k=1)
    assert first.answer == reply["answer"] and len(second.ranked) == 1


def test_what_cannot_be_asked_is_said(
    saved: Path, scenes: Path, model: FusionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(scenes.parent / "images" / "0.png")
    assert main(["ask", str(saved), picture, " "]) == 2
    assert "The question is empty" in capsys.readouterr().err
    assert main(["ask", str(saved), str(scenes.parent / "images" / "bad.png"), "a cat"]) == 1
    assert "bad.png" in capsys.readouterr().err
    assert main(["ask", str(saved), str(tmp_path / "none.png"), "a cat"]) == 1
    assert "no such file" in capsys.readouterr().err
    silent = toy_model(tmp_path / "encoders", ())
    with pytest.raises(UsageError, match="answers no questions: it was trained without answers"):
        ist.ask(silent, picture, "a cat")
    with pytest.raises(UsageError, match="answers no questions"):
        ist.evaluate(silent, "vqa", scenes)


def test_a_dual_encoder_is_told_apart(tmp_path: Path, scenes: Path) -> None:
    from isthmus.models.dual_encoder import DualEncoder
    from isthmus.projectors import build_projector

    projectors = [build_projector("linear", [4], 2) for _ in range(2)]
    dual = DualEncoder(*projectors, scale=1.0, records={"image": [], "text": []})
    with pytest.raises(InputError, match="joins two encoders at their ends; answering questions needs one that reads"):
        ist.ask(dual, pictures(1)[0], "a cat")
