"""What a model that fuses answers to questions, beside what it answers without their pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from isthmus.data.asked import Asked, AskedQuestions
from isthmus.encoders.pictures import encode_each, reason
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import Saved
from isthmus.fusion import SideStates
from isthmus.fusion.sides import joined
from isthmus.metrics.bootstrap import estimate
from isthmus.models.fusion_model import FusionModel
from isthmus.models.language_model import VisionLanguageModel
from isthmus.models.pretrained import is_uri
from isthmus.models.saved import DUAL, kind_of, told_kind
from isthmus.progress import progress_bar, watched

GivenFusion = FusionModel | Saved | str | Path
GivenAsker = FusionModel | VisionLanguageModel | Saved | str | Path
PICTURES = 16  # encoded at a time
GREY = Image.new("RGB", (224, 224), (128, 128, 128))
SCORES = ("accuracy", "shuffled_accuracy", "blind_accuracy")
SAID = "generated_accuracy"  # of what a language model says by itself


def opened_fusion(model: Any, what: str) -> tuple[FusionModel, str]:
    """The model (`GivenFusion`), loaded if it is only named, and its name in results.

    what: it is asked to do, for messages. Raises `InputError` for a model of another kind.
    """
    saved = Saved(model) if isinstance(model, str | Path) else model
    name = str(saved.path) if isinstance(saved, Saved) else "isthmus"
    if speaks(saved):
        raise InputError(f"{name}: a language model that sees, which says what it likes: it is not for {what}.")
    if not fuses(saved):  # before its encoders are loaded
        kind = kind_of(Path(saved.path)) if isinstance(saved, Saved) and not is_uri(saved.path) else DUAL
        found = "a model that joins two encoders at their ends" if kind == DUAL else told_kind(kind)
        raise InputError(
            f"{name}: {found}; {what} needs one that reads the layers of two encoders. Train one: isthmus train STORE "
            "--recipe manager."
        )
    if isinstance(saved, Saved):
        device, trust = saved.device, saved.trust_remote_code
        return FusionModel.from_pretrained(saved.path, device=device, trust_remote_code=trust), name
    return saved, name


def opened_asker(model: Any, what: str) -> tuple[FusionModel | VisionLanguageModel, str]:
    """As `opened_fusion`, or a language model that sees."""
    saved = Saved(model) if isinstance(model, str | Path) else model
    if not speaks(saved):
        return opened_fusion(saved, what)
    if not isinstance(saved, Saved):
        return saved, "isthmus"
    device, trust = saved.device, saved.trust_remote_code
    loaded = VisionLanguageModel.from_pretrained(saved.path, device=device, trust_remote_code=trust)
    return loaded, str(saved.path)


def opened_speaker(model: Any, what: str) -> tuple[VisionLanguageModel, str]:
    """A language model that sees. Raises `InputError` for a model of another kind."""
    if not speaks(model):
        name = str(model.path) if isinstance(model, Saved) else "This model"
        raise InputError(
            f"{name}: has no language model, which {what} needs. Train one: isthmus train STORE --recipe llava."
        )
    return opened_asker(model, what)  # type: ignore[return-value]


def fuses(model: Any) -> bool:
    """Whether a model, or the one in a folder, fuses its encoders' layers."""
    return _is(model, FusionModel)


def speaks(model: Any) -> bool:
    """Whether a model, or the one in a folder, is a language model that sees."""
    return _is(model, VisionLanguageModel)


def _is(model: Any, kind: Any) -> bool:
    path = model.path if isinstance(model, Saved) else model
    if isinstance(path, str | Path):
        return not is_uri(path) and kind_of(Path(path)) == kind.kind
    return isinstance(path, kind)


def check_answers(model: FusionModel, name: str) -> None:
    """Raise `UsageError` for a model that answers nothing."""
    if not model.answers:
        raise UsageError(
            f"{name}: answers no questions: it was trained without answers. Train it on a store of questions with "
            "answers (columns image, question, answer): isthmus train STORE --recipe manager."
        )


@dataclass
class Answered:
    """The most probable answers, int64 [q] in batches, of the questions `asked` that could be asked.

    own: with their picture. shuffled: with the picture of another question. blind: with a grey picture. said: what a
    language model says by itself. pictures: how many there were. skipped: (id, why) of pictures that could not be read.
    """

    asked: list[Asked] = field(default_factory=list)
    own: list[np.ndarray] = field(default_factory=list)
    shuffled: list[np.ndarray] = field(default_factory=list)
    blind: list[np.ndarray] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    pictures: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def scores(self, data: AskedQuestions, answers: Sequence[str]) -> dict[str, np.ndarray]:
        """What the most probable answers earn, float64 [q], by the names of `SCORES`."""
        views = dict(zip(SCORES, (self.own, self.shuffled, self.blind), strict=True))
        if self.pictures < 2:
            del views[SCORES[1]]
        chosen = {name: [answers[k] for k in np.concatenate(some).tolist()] for name, some in views.items()}
        if self.said:
            chosen[SAID] = self.said
        return {
            name: np.array([data.score(one, answer) for one, answer in zip(self.asked, given, strict=True)])
            for name, given in chosen.items()
        }


def answered(model: FusionModel | VisionLanguageModel, data: AskedQuestions, exposure: Exposure) -> Answered:
    """Every question with its picture, another's and none; few pictures are held at a time.

    Raises `InputError` where no picture can be read.
    """
    by_image: dict[str, list[Asked]] = {}
    for one in data.asked:
        by_image.setdefault(one.image, []).append(one)
    found = Answered(skipped=list(data.pairs.skipped))
    grey = model.side("image", [GREY])
    last: SideStates | None = None
    for ids, states in encoded_pictures(model, data.pairs, exposure, found.skipped):
        asked = [(place, one) for place, id in enumerate(ids) for one in by_image[id]]
        place = torch.tensor([place for place, _ in asked], device=model.device)
        texts = model.side("text", [one.question for _, one in asked])
        before = joined([states.take(place.new_tensor([len(ids) - 1])) if last is None else last, states])
        found.asked += [one for _, one in asked]
        for into, pictures in (
            (found.own, states.take(place)),
            (found.shuffled, before.take(place)),
            (found.blind, grey.take(torch.zeros_like(place))),
        ):
            into.append(model.answer(pictures, texts).argmax(1))
        if isinstance(model, VisionLanguageModel):
            found.said += [one.removesuffix(".") for one in model.say(states.take(place), texts)]
        found.pictures += len(ids)
        last = states.take(place.new_tensor([len(ids) - 1]))
    exposure.check(found.pictures)
    if not found.pictures:
        raise InputError(f"{data.name}: no picture could be read; the first: {': '.join(found.skipped[0])}")
    return found


def encoded_pictures(
    model: FusionModel | VisionLanguageModel,
    pairs: Any,
    exposure: Exposure,
    skipped: list[tuple[str, str]],
    counterparts: Any = (),
) -> Iterator[tuple[list[str], SideStates]]:
    """(ids, states) of the pictures of pairs, some at a time; one that cannot be read is added to `skipped`."""
    ids = pairs.images["id"].to_pylist()

    def read(row: int) -> Any:
        return exposure.picture(pairs, row, ids[row] in counterparts)[1]

    encode: Callable[[list[Any]], Any] = lambda some: model.side("image", some)  # noqa: E731
    some = encode_each(
        len(ids), read, encode, lambda row, error: skipped.append((ids[row], reason(error))), batch_size=PICTURES
    )
    with progress_bar(watched(), total=len(ids), desc="pictures", unit="picture", leave=False) as bar:
        for rows, states in some:
            yield [ids[row] for row in rows], states  # type: ignore[misc]
            bar.update(len(rows))


def scored_answers(
    found: Answered,
    data: AskedQuestions,
    model: FusionModel | VisionLanguageModel,
    bootstrap: int,
    seed: int,
    *,
    by_answer: bool = False,
) -> dict[str, Any]:
    """Accuracies with intervals over pictures, in total and by kind, and what the most frequent answers reach.

    by_answer: the kinds are the answers, of which one is the most frequent of all.
    """
    notes = _outside(data, found.asked, model)
    scores = found.scores(data, model.answers)
    images = {id: row for row, id in enumerate(dict.fromkeys(one.image for one in found.asked))}
    groups = np.array([images[one.image] for one in found.asked])
    kinds = np.array([next(iter(one.scores), "") if by_answer else one.kind for one in found.asked])
    guess = majority(found.asked, by_kind=not by_answer)
    total = _means(scores, guess, groups, bootstrap, seed)
    rows = []
    for kind in sorted(set(kinds.tolist()) - {""}):
        own = kinds == kind
        part = {name: values[own] for name, values in scores.items()}
        row = _means(part, guess[own], groups[own], bootstrap, seed)
        if by_answer:
            del row["chance"]
        rows.append({"category": kind, "n": int(own.sum()), **row})
    return {
        **total,
        "per_category": rows,
        "n": {"questions": len(found.asked), "images": len(images), "answers": len(model.answers)},
        "notes": notes,
        "bootstrap": bootstrap,
        "seed": seed,
    }


def majority(asked: Sequence[Asked], *, by_kind: bool = True) -> np.ndarray:
    """What the answer earns that earns most over all questions (of its kind), float64 [q]."""
    earned: dict[str, dict[str, float]] = {}
    for one in asked:
        sums = earned.setdefault(one.kind if by_kind else "", {})
        for answer, score in one.scores.items():
            sums[answer] = sums.get(answer, 0.0) + score
    best = {kind: max(sorted(sums), key=sums.__getitem__) for kind, sums in earned.items() if sums}
    return np.array([one.scores.get(best.get(one.kind if by_kind else "", ""), 0.0) for one in asked])


def _means(
    scores: Mapping[str, np.ndarray], guess: np.ndarray, groups: np.ndarray, bootstrap: int, seed: int
) -> dict[str, Any]:
    unit = np.unique(groups, return_inverse=True)[1]
    values = np.stack(list(scores.values()), axis=1)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.average(values, axis=0, weights=weights[unit])

    names = list(scores)
    metrics, ci95 = estimate(statistic, names, int(unit.max()) + 1, bootstrap, seed, shares=names)
    return {"metrics": metrics, "ci95": ci95, "chance": {SCORES[0]: float(guess.mean())}}


def _outside(data: AskedQuestions, asked: Sequence[Asked], model: FusionModel | VisionLanguageModel) -> list[str]:
    """A note on questions whose answers the model cannot give. Raises `InputError` where it can give none."""
    known = {data.normalise(answer) for answer in model.answers}
    outside = [one for one in asked if not known & set(one.scores)]
    if len(outside) == len(asked):
        wanted, given = ", ".join(data.answers()[:5]), ", ".join(model.answers[:5])
        raise InputError(
            f"{data.name}: none of its answers ({wanted}, …) is among the {len(model.answers):,} that the model can "
            f"give ({given}, …). It was trained on other questions."
        )
    if not outside:
        return []
    first = next(iter(outside[0].scores), "")
    return [
        f"{len(outside):,} of {len(asked):,} questions have no answer among the {len(model.answers):,} that the model "
        f"can give, and count as wrong; the first: {first!r} ({outside[0].place})."
    ]
