"""Composition: does the model know which word describes what? Winoground, MMVP, SugarCrepe, ARO, What's Up.

Scores are those of the sets' authors, except that a tie is never an answer: all comparisons are strict, and ties are
counted beside the score. A model that ignores the order of words ties, and gets nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.contents import items_of_hashes, items_of_texts
from isthmus.data.images import content_hash
from isthmus.encoders.pictures import encode_each, reason
from isthmus.errors import InputError
from isthmus.evaluation.datasets.questions import NONE, Question, QuestionImage, Questions
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import Given, opened
from isthmus.metrics.bootstrap import replicates, share_interval
from isthmus.metrics.results import Result, result
from isthmus.metrics.scores import group_vector, unit_rows

CHOICES = ("accuracy", "mean_per_category_accuracy", "pair_accuracy", "set_accuracy")
MATCHES = ("text_score", "image_score", "group_score", "matching_score", "pair_accuracy")
CHOICE = (
    "accuracy = share of images whose right caption has a strictly greater cosine than every wrong one; "
    "mean_per_category_accuracy = its mean over categories; pair_accuracy, set_accuracy = share of pairs, sets of "
    "questions that are all answered. "
)
MATCHING = (
    "Two images, two captions (Thrush et al. 2022). text_score: each image's own caption has a strictly greater cosine "
    "with it than the other caption; image_score: each caption's own image has a strictly greater cosine with it than "
    "the other image; group_score: both; matching_score: the right matching has a strictly greater sum of cosines than "
    "the swapped one, which a preference for one image or one caption cannot decide. "
)
COMMON = (
    "A tie is no answer; `ties` counts the questions that one decided. chance = expectation of random scores. ci95 = "
    "95 % intervals over groups of questions that share pictures (docs/intervals.md)."
)


@dataclass
class QuestionTally:
    """One score: what each of its units (question, pair, set) got.

    right: bool [u]; tied: bool [u], wrong because of a tie; group: [u] the bootstrap's unit; chance: [u] the
    probability that random scores would be right; category: [u], `NONE` where it belongs to no category.
    """

    right: list[bool] = field(default_factory=list)
    tied: list[bool] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    category: list[str] = field(default_factory=list)

    def add(self, right: bool, tied: bool, chance: float, question: Question, *, named: bool = True) -> None:
        self.right.append(right)
        self.tied.append(tied and not right)
        self.group.append(question.group)
        self.chance.append(chance)
        self.category.append(question.category if named else NONE)


def evaluate_set(
    model: Given,
    read: Callable[[str | Path, str | Path | None], Questions],
    data: str | Path | Questions,
    images: str | Path | None,
    unseen: bool,
    bootstrap: int,
    seed: int,
) -> list[Result]:
    """One result for each data set that `read` finds in `data`: a folder, or questions already read."""
    questions = data if isinstance(data, dict) else read(data, images)
    model, called = opened(model)
    results = []
    for dataset, some in questions.items():
        exposure = Exposure(model, dataset, unseen)
        found = compositional(model, some, exposure=exposure, bootstrap=bootstrap, seed=seed)
        results.append(result(found, dataset=dataset, model=called, task="image_caption_selection"))
    return results


def compositional(
    model: Any,
    questions: Sequence[Question],
    *,
    exposure: Exposure | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model on questions of one kind: all with one image or all with two.

    exposure: which of them the model has seen, and whether those are left out.

    Returns {"metrics", "chance", "ci95", "ties", "per_category", "n", "definition", "skipped", …}. Raises
    InputError where no question's images can be read; single ones are listed in `skipped` and left out, with
    the sets they are part of.
    """
    exposure = exposure or Exposure(model, "the questions")
    scores, skipped = question_scores(model, questions, exposure)
    found = score(questions, scores, bootstrap=bootstrap, seed=seed)
    return found | exposure.report() | {"skipped": skipped}


def question_scores(
    model: Any, questions: Sequence[Question], exposure: Exposure, batch_size: int = 32
) -> tuple[list[np.ndarray | None], list[tuple[str, str]]]:
    """Cosines float32 [captions, images] of each question, None where an image cannot be read, or where `exposure`
    leaves it out; (id, why) of the former.

    Every picture and caption is encoded once, however many questions it is in. Sums in float64 and rounding make equal
    pictures or captions tie exactly, as in retrieval.
    """
    pictures = list(dict.fromkeys(picture for question in questions for picture in question.images))
    captions = list(dict.fromkeys(caption for question in questions for caption in question.captions))
    row, emb, bad, contents = _encode_pictures(model, pictures, batch_size)
    unreadable = [next((bad[p] for p in question.images if p in bad), None) for question in questions]
    skipped = [(q.id, reason) for q, reason in zip(questions, unreadable, strict=True) if reason]
    if len(skipped) == len(questions):
        why = f"; the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise InputError(f"None of the {len(questions):,} questions can be used{why}")
    asked = _asked(questions, row, exposure.pictures(items_of_hashes(contents)), exposure)
    image = unit_rows(np.concatenate(emb), "image embeddings")
    text = unit_rows(model.encode_text(captions), "text embeddings")
    line = {caption: i for i, caption in enumerate(captions)}
    scores = [
        (text[[line[c] for c in q.captions]] @ image[[row[p] for p in q.images]].T).float().numpy() if one else None
        for q, one in zip(questions, asked, strict=True)
    ]
    return scores, skipped


def score(
    questions: Sequence[Question], scores: Sequence[np.ndarray | None], *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Scores from the cosines [captions, images] of each question; None stands for a question that was left out."""
    kinds = {len(question.images) for question in questions}
    if len(kinds) != 1 or not kinds <= {1, 2}:
        raise InputError(
            f"Questions of one kind are expected, all with one image or all with two, not {sorted(kinds)}."
        )
    matching = kinds == {2}
    tallies = _match(questions, scores) if matching else _choose(questions, scores)
    units = [unit for tally in tallies.values() for unit in tally.group]
    groups = group_vector(np.array(units), len(units), "groups")
    parts = np.split(groups, np.cumsum([len(tally.right) for tally in tallies.values()])[:-1])
    found = _summary(tallies, parts, int(groups.max()) + 1, bootstrap, seed)
    pictures = {picture for question in questions for picture in question.images}
    first = next(iter(tallies.values()))
    return {
        **found,
        "n": {"questions": len(first.right), "images": len(pictures), "groups": int(groups.max()) + 1},
        "definition": (MATCHING if matching else CHOICE) + COMMON,
        "bootstrap": bootstrap,
        "seed": seed,
    }


def _asked(
    questions: Sequence[Question], row: dict[QuestionImage, int], seen: np.ndarray, exposure: Exposure
) -> list[bool]:
    """Which questions are evaluated: those whose pictures could be read, but for what `exposure` leaves out.

    row: of each picture that could be read; seen: bool by row. Of captions, those that are right are looked at.
    """
    right = [question.captions[: len(question.images)] for question in questions]
    captions = list(dict.fromkeys(caption for some in right for caption in some))
    known = dict(zip(captions, exposure.captions(items_of_texts(captions), captions).tolist(), strict=True))
    asked = np.array([all(picture in row for picture in question.images) for question in questions])
    by_picture = np.array([any(p in row and seen[row[p]] for p in question.images) for question in questions])
    by_caption = np.array([any(known[caption] for caption in some) for some in right])
    asked[asked] = exposure.keep(by_picture[asked], by_caption[asked])
    exposure.check(int(asked.sum()))
    return asked.tolist()


def _encode_pictures(
    model: Any, pictures: Sequence[QuestionImage], batch_size: int
) -> tuple[dict[QuestionImage, int], list[np.ndarray], dict[QuestionImage, str], list[str]]:
    """The row of each picture, their embeddings, why the others could not be read, and content hashes by row."""
    hashes: dict[int, str] = {}
    bad: dict[QuestionImage, str] = {}

    def read(number: int) -> Any:
        data = pictures[number].read()
        hashes[number] = content_hash(data)
        return pictures[number].load(data)

    some = encode_each(
        len(pictures),
        read,
        lambda loaded: model.encode_image(loaded, batch_size=batch_size),
        lambda number, error: bad.__setitem__(pictures[number], reason(error)),
        batch_size,
    )
    found = list(some)
    kept = [number for numbers, _ in found for number in numbers]
    rows = {pictures[number]: row for row, number in enumerate(kept)}
    return rows, [embedded for _, embedded in found], bad, [hashes[number] for number in kept]


def _choose(questions: Sequence[Question], scores: Sequence[np.ndarray | None]) -> dict[str, QuestionTally]:
    """Accuracy over questions, and over the sets that they form."""
    tallies = {"accuracy": QuestionTally()}
    sets: dict[tuple[str, str], list[tuple[bool, bool, float, Question] | None]] = {}
    for question, cosines in zip(questions, scores, strict=True):
        answer = None
        if cosines is not None:
            own, best = cosines[0, 0], cosines[1:, 0].max()
            answer = (bool(own > best), bool(own == best), 1 / len(cosines), question)
            tallies["accuracy"].add(*answer)
        for part in question.within:
            sets.setdefault(part, []).append(answer)
    for (kind, _), members in sets.items():
        answers = [answer for answer in members if answer is not None]
        if len(answers) == len(members):  # a set with a missing image cannot be answered
            right, tied = all(a[0] for a in answers), all(a[0] or a[1] for a in answers)
            chance = float(np.prod([a[2] for a in answers]))
            tallies.setdefault(f"{kind}_accuracy", QuestionTally()).add(right, tied, chance, answers[0][3], named=False)
    return tallies


def _match(questions: Sequence[Question], scores: Sequence[np.ndarray | None]) -> dict[str, QuestionTally]:
    """Winoground's three scores and the score of the whole matching; `s[caption, image]`."""
    tallies = {name: QuestionTally() for name in ("text_score", "image_score", "group_score", "matching_score")}
    for question, s in zip(questions, scores, strict=True):
        if s is None:
            continue
        text = np.array([s[0, 0] - s[1, 0], s[1, 1] - s[0, 1]])
        image = np.array([s[0, 0] - s[0, 1], s[1, 1] - s[1, 0]])
        whole = np.array([s[0, 0].astype(float) + s[1, 1] - s[0, 1].astype(float) - s[1, 0]])
        for name, gaps, chance in (
            ("text_score", text, 1 / 4),
            ("image_score", image, 1 / 4),
            ("group_score", np.concatenate([text, image]), 1 / 6),
            ("matching_score", whole, 1 / 2),
        ):
            tallies[name].add(bool((gaps > 0).all()), bool((gaps >= 0).all()), chance, question)
    return tallies


def _summary(
    tallies: dict[str, QuestionTally], groups: Sequence[np.ndarray], count: int, bootstrap: int, seed: int
) -> dict[str, Any]:
    """Metrics with chance, intervals and ties, in total and for every category."""
    categories = sorted({category for tally in tallies.values() for category in tally.category} - {NONE})
    shares = [_Shares(tally, group, categories) for tally, group in zip(tallies.values(), groups, strict=True)]

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.concatenate([share(weights) for share in shares])

    width = 2 + len(categories)  # all, mean over categories, each category
    values = statistic(np.ones(count))
    drawn = replicates(statistic, count, bootstrap, seed) if bootstrap > 0 and count > 1 else np.empty((0, len(values)))
    drawn, values = drawn.reshape(len(drawn), len(tallies), width), values.reshape(-1, width)
    found: dict[str, Any] = {part: {} for part in ("metrics", "ci95", "chance", "ties")}
    rows: list[dict[str, Any]] = [{"category": category} for category in categories]
    for k, (name, tally) in enumerate(tallies.items()):
        many = len(categories) > 1 and name == "accuracy"  # for the others, no paper reports a mean over categories
        _enter(found, name, 0, values[k], drawn[:, k], shares[k])
        if many:
            _enter(found, f"mean_per_category_{name}", 1, values[k], drawn[:, k], shares[k])
        found["ties"][name] = sum(tally.tied)
        for i, row in enumerate(rows):
            if not np.isnan(values[k, 2 + i]):
                row.setdefault("n", int((shares[k].number == i).sum()))
                line: dict[str, Any] = row.setdefault("scores", {part: {} for part in ("metrics", "ci95", "chance")})
                _enter(line, name, 2 + i, values[k], drawn[:, k], shares[k])
    return {**found, "per_category": [{"category": r["category"], "n": r["n"], **r["scores"]} for r in rows]}


class _Shares:
    """The share of right units, as a function of the groups' weights: of all, mean over categories, of each."""

    def __init__(self, tally: QuestionTally, group: np.ndarray, categories: Sequence[str]) -> None:
        index = {category: i for i, category in enumerate(categories)}
        self.right, self.chance, self.group = np.array(tally.right, float), np.array(tally.chance), group
        self.number = np.array([index.get(category, len(index)) for category in tally.category])
        self.size = len(index)

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return self._of(self.right, weights[self.group])

    def expected(self) -> np.ndarray:
        return self._of(self.chance, np.ones(len(self.group)))

    def units(self) -> np.ndarray:
        """The number of groups that each share is computed from."""
        own = [len(np.unique(self.group[self.number == i])) for i in range(self.size)]
        return np.array([len(np.unique(self.group))] * 2 + own)

    def _of(self, values: np.ndarray, weight: np.ndarray) -> np.ndarray:
        mass = np.bincount(self.number, weight, self.size + 1)[: self.size]
        total = np.bincount(self.number, weight * values, self.size + 1)[: self.size]
        each = np.divide(
            total, mass, out=np.full(self.size, np.nan), where=mass > 0
        )  # a resample may contain none of a category
        mean = each[mass > 0].mean() if (mass > 0).any() else np.nan
        all_of_them = (weight * values).sum() / weight.sum() if weight.any() else np.nan
        return np.array([all_of_them, mean, *each])


def _enter(
    found: dict[str, Any], name: str, column: int, values: np.ndarray, drawn: np.ndarray, share: _Shares
) -> None:
    """Add value, chance and interval of one column of shares."""
    found["metrics"][name] = value = float(values[column])
    found["chance"][name] = float(share.expected()[column])
    bounds = share_interval(value, drawn[:, column], int(share.units()[column])) if len(drawn) else None
    if bounds:
        found["ci95"][name] = bounds
