"""Visual question answering: VQAv2, GQA, or a table of questions."""

from __future__ import annotations

from pathlib import Path

from isthmus.data.asked import AskedQuestions
from isthmus.evaluation.asking import SAID, SCORES, GivenAsker, answered, check_answers, opened_asker, scored_answers
from isthmus.evaluation.datasets.asked_sets import read_asked
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result
from isthmus.models.language_model import VisionLanguageModel

DEFINITION = (
    "accuracy = mean of what the most probable answer earns: 1 where it is the answer, in VQAv2 min(1, n / 3) of the "
    "people who gave it, averaged over all nine of ten (Antol et al. 2015). shuffled_accuracy: every question is asked "
    "of another question's picture; blind_accuracy: of a plain grey one. chance = the answer that earns most of its "
    "kind, always. ci95 = 95 % intervals over pictures (docs/intervals.md)."
)
SPOKEN = (
    " Of a language model the most probable answer is that of its answers, or of the data's where it knows none, whose "
    "tokens and end are likeliest together (the sum of their log-probabilities). generated_accuracy: what it says by "
    "itself, to the letter but for a last full stop."
)


@task(primary="accuracy", columns=(*SCORES, SAID))
def vqa(
    model: GivenAsker,
    data: AskedQuestions | str | Path,
    *,
    split: str | None = None,
    images: str | Path | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Result:
    """Answers to questions about pictures (VQAv2, GQA, a table), beside those given without the picture.

    Args:
        split: of VQAv2 (val, the default, train), GQA (testdev, the default, val, train) or of a table.
    """
    loaded, name = opened_asker(model, "answering questions")
    questions = read_asked(data, split=split, images=images)
    how: dict[str, str] = {}
    if isinstance(loaded, VisionLanguageModel):
        loaded, how = loaded.choosing(questions.answers()), loaded.decoding
    else:
        check_answers(loaded, name)
    exposure = Exposure(loaded, questions.name, unseen, captions=False)
    found = answered(loaded, questions, exposure)
    scores = scored_answers(found, questions, loaded, bootstrap, seed)
    told = DEFINITION + SPOKEN * bool(how)
    scores |= exposure.report() | {"skipped": found.skipped, "definition": told, **how}
    return result(scores, dataset=questions.name, model=name, task="visual_question_answering")
