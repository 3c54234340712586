"""Visual entailment: does a picture make a statement true, false, or neither? SNLI-VE, or a table."""

from __future__ import annotations

from pathlib import Path

from isthmus.data.asked import AskedQuestions
from isthmus.errors import InputError
from isthmus.evaluation.asking import SCORES, GivenFusion, answered, check_answers, opened_fusion, scored_answers
from isthmus.evaluation.datasets.asked_sets import read_asked
from isthmus.evaluation.datasets.snli_ve import CLASSES
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result

DEFINITION = (
    "accuracy = share of statements whose class (entailment, neutral, contradiction) is the most probable; by "
    "category: of those of a class. shuffled_accuracy: with the picture of another statement; blind_accuracy: "
    "with a plain grey one, which is what statements tell by themselves. chance = the most frequent class, "
    "always. ci95 = 95 % intervals over pictures (docs/intervals.md)."
)


@task(primary="accuracy", columns=SCORES)
def entailment(
    model: GivenFusion,
    data: AskedQuestions | str | Path,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Whether a picture makes a statement true, false or neither (SNLI-VE, a table), beside the statement alone.

    Args:
        split: of SNLI-VE (test, the default, dev, train) or of a table.
    """
    loaded, name = opened_fusion(model, "entailment")
    check_answers(loaded, name)
    statements = read_asked(data, split=split, images=images)
    for one in statements.asked:
        if not set(one.scores) <= set(CLASSES):
            raise InputError(f"{one.place}: {next(iter(one.scores))!r} is none of {', '.join(CLASSES)}.")
    exposure = Exposure(loaded, statements.name, unseen, captions=False)
    found = answered(loaded, statements, exposure)
    scores = scored_answers(found, statements, loaded, bootstrap, seed, by_answer=True)
    scores |= exposure.report() | {"skipped": found.skipped, "definition": DEFINITION}
    return result(scores, dataset=statements.name, model=name, task="visual_entailment")
