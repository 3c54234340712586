"""`isthmus demo questions`: scenes with questions → store of layers → a manager → answers about scenes it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.api import evaluate, train
from isthmus.data.asked import Asked
from isthmus.embedding import embed
from isthmus.encoders import Encoder
from isthmus.errors import UsageError
from isthmus.evaluation.asking import GREY
from isthmus.evaluation.datasets.asked_sets import read_asked
from isthmus.files import write_json
from isthmus.metrics.results import Result
from isthmus.models.fusion_model import FusionModel
from isthmus_demo.pipeline import Say, Stages
from isthmus_demo.questions import KINDS, write_question_scenes

# The layers from the middle on, and all of the text encoder's.
IMAGE = "wheel:dinov2-small-saliency?layer=7,8,9,10,11,12&pool=states"
TEXT = "wheel:minilm-l6?layer=1,2,3,4,5,6&pool=states"
SCENES = 700
HELD_OUT = {"val": 60, "test": 100}
# A quarter of a scene is 2 × 2 cells of the grid; every question has one answer; the rest is for minutes of two cores.
OVERRIDES = ("fusion.grid=4", 'objectives.answer_loss="one"', "optim.epochs=5")
ASKED = 20


@dataclass(frozen=True)
class AskedScene:
    """A question about an unseen scene, and what the model said to it, with the picture and with a grey one."""

    asked: Asked
    said: str
    probability: float
    blind: str

    @property
    def right(self) -> bool:
        return self.said in self.asked.scores

    @property
    def blindly_right(self) -> bool:
        return self.blind in self.asked.scores


@dataclass(frozen=True)
class QuestionDemo:
    """The results of a run: of all test questions, and of the twenty that are shown."""

    result: Result
    trials: list[AskedScene]
    stages: list[tuple[str, float]]


def run_questions(
    out: str | Path,
    *,
    scenes: int = SCENES,
    seed: int = 0,
    image: str | Sequence[Encoder] = IMAGE,
    text: str | Sequence[Encoder] = TEXT,
    overrides: Sequence[str] = OVERRIDES,
    held_out: dict[str, int] | None = None,
    max_seconds: float | None = None,
    log: Say = lambda line: None,
    progress: bool = False,
) -> QuestionDemo:
    """Write `scenes/`, `store/`, `model/`, `results.json` and `layers.html` into `out`.

    Features, and a model whose training has ended, that `out` holds already are not computed again.

    Args:
        scenes: to train on. held_out: how many validate, and how many are asked about at the end.
        image, text: layers of one encoder each, as states. overrides: of the recipe `manager`.
        max_seconds: of training. log: called with a line as each step begins.
    """
    if scenes < 10:
        raise UsageError(f"scenes={scenes}: too few to train on; ask for 10 or more.")
    out, stages = Path(out), Stages(log)
    counts = held_out or HELD_OUT
    with stages(f"compose {scenes + sum(counts.values()):,} scenes"):
        table = write_question_scenes(out / "scenes", {"train": scenes, "val": counts["val"]}, seed=seed)
        unseen = write_question_scenes(out / "scenes", {"test": counts["test"]}, seed=seed, table="unseen.csv")
    with stages("embed layers of both encoders"):
        embed(table, image, text, out=out / "store", states_dtype="int8", progress=progress)
    with stages("train a manager"):
        how: dict[str, Any] = {"seed": seed, "max_seconds": max_seconds, "progress": progress}
        model: Any = train(out / "store", recipe="manager", overrides=overrides, out=out / "model", **how)
    with stages(f"ask about {counts['test']:,} unseen scenes"):
        found = evaluate(out / "model", "vqa", unseen)
        trials = asked_twenty(model, unseen)
    with stages("see which layers it reads"):
        evaluate(out / "model", "layers", unseen, report=str(out / "layers.html"))
    told = [{**vars(one), "asked": vars(one.asked)} for one in trials]
    write_json(out / "results.json", {"result": dict(found), "twenty": told})
    return QuestionDemo(found, trials, stages.done)


def asked_twenty(model: FusionModel, table: Path) -> list[AskedScene]:
    """One question about each of the first twenty scenes, the kinds in turn."""
    data = read_asked(table)
    of_image: dict[str, dict[str, Asked]] = {}
    for one in data.asked:
        of_image.setdefault(one.image, {})[one.kind] = one
    kinds, trials = list(KINDS), []
    for number, (image, asked) in enumerate(list(of_image.items())[:ASKED]):
        turn = [kinds[(number + k) % len(kinds)] for k in range(len(kinds))]
        one = next(asked[kind] for kind in turn if kind in asked)
        row = data.pairs.images["id"].to_pylist().index(image)
        own, blind = (model.answer(picture, [one.question])[0] for picture in (data.pairs.decode(row), GREY))
        trials.append(AskedScene(one, _best(model, own), float(own.max()), _best(model, blind)))
    return trials


def _best(model: FusionModel, probabilities: np.ndarray) -> str:
    return model.answers[int(probabilities.argmax())]


def trial_rows(trials: Sequence[AskedScene]) -> list[list[str]]:
    """For a table: question, answer, probability, what is right where it is not."""
    return [
        [
            one.asked.question,
            one.said,
            f"{100 * one.probability:.0f} %",
            "" if one.right else next(iter(one.asked.scores)),
        ]
        for one in trials
    ]
