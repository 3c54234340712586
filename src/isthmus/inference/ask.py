"""`ask`: what a model answers to a question about a picture, and how probably; `caption`: what a picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from isthmus.errors import UsageError
from isthmus.evaluation.asking import GivenAsker, check_answers, opened_asker, opened_speaker
from isthmus.evaluation.inputs import Saved
from isthmus.models.language_model import NEW_TOKENS, VisionLanguageModel
from isthmus.models.reading import listed_items
from isthmus.report import notebook
from isthmus.report.terminal import wrapped

SHOWN = 5  # answers


@dataclass(repr=False)
class Reply:
    """What `ask` found.

    answers: what the model can say. probabilities: float32 [answers]. loss: "one" where they add up to 1, "soft" where
    each stands by itself. shown: how many are printed. said: what a language model says by itself; it may know no
    answers to choose from.
    """

    question: str
    answers: list[str]
    probabilities: np.ndarray = field(repr=False)
    loss: str
    shown: int = SHOWN
    said: str | None = None

    @property
    def answer(self) -> str:
        """What a language model says, else the most probable answer."""
        if self.said is not None:
            return self.said
        return self.answers[int(self.probabilities.argmax())]

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """The most probable answers first, with their probabilities."""
        order = np.argsort(-self.probabilities, kind="stable")[: self.shown]
        return [(self.answers[k], float(self.probabilities[k])) for k in order.tolist()]

    def __repr__(self) -> str:
        rows = [(answer, f"{100 * share:.1f} %") for answer, share in self.ranked]
        lines = [wrapped(self.said or "(nothing)", "")] if self.said is not None else []
        if rows:
            title = ["", "of the answers it was trained on:"] * bool(lines)
            lines += [*title, tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right"))]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        said = [] if self.said is None else [(self.said, "")]
        return notebook.rows(["answer", ""], [*said, *((one, f"{100 * share:.1f} %") for one, share in self.ranked)])

    def to_dict(self) -> dict[str, Any]:
        """question, answer, and the probabilities of the answers that are shown."""
        return {"question": self.question, "answer": self.answer, "probabilities": dict(self.ranked)}


def ask(
    model: GivenAsker,
    image: Any,
    question: str | Sequence[str],
    *,
    k: int = SHOWN,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Ask a model about a picture.

    Use this when a model was trained on questions (`isthmus train STORE --recipe manager`).

        >>> reply = ist.ask("model/", "scene.png", "What colour is the cat?")
        >>> reply.answer, reply.ranked
        ('blue', [('blue', 0.93), ('purple', 0.04), …])

    Args:
        model: a `FusionModel`, a `VisionLanguageModel`, or a folder of one.
        image: a path, PIL image, bytes or array [H, W, 3].
        question: a text, or several: then a list of `Reply` comes back.
        k: how many answers are shown. device, trust_remote_code: for loading a model.

    Raises `InputError` for a picture that cannot be used, a model of another kind, or a prompt that is longer than a
    language model's context; `UsageError` for a model without answers, or an empty question.
    """
    asked = [question] if isinstance(question, str) else list(question)
    if not asked or any(not one.strip() for one in asked):
        raise UsageError("The question is empty: ask something about the picture.")
    if k < 1:
        raise UsageError(f"k={k}: show at least one answer.")
    given = Saved(model, device, trust_remote_code) if isinstance(model, str | Path) else model
    loaded, name = opened_asker(given, "answering questions")
    said: list[str | None] = [None] * len(asked)
    if isinstance(loaded, VisionLanguageModel):
        image = loaded.side("image", image)
        said = [*loaded.say(image, asked)]
        probabilities = loaded.answer(image, asked) if loaded.answers else np.empty((len(asked), 0), np.float32)
    else:
        check_answers(loaded, name)
        probabilities = loaded.answer(image, asked)
    both = zip(asked, probabilities, said, strict=True)
    replies = [Reply(one, loaded.answers, found, loaded.loss, k, spoken) for one, found, spoken in both]
    return replies[0] if isinstance(question, str) else replies


def caption(
    model: VisionLanguageModel | str | Path,
    images: Any,
    *,
    tokens: int = NEW_TOKENS,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> list[str]:
    """What a language model says that pictures show.

    Use this when a model was trained on captions (`isthmus train STORE --recipe llava`).

        >>> ist.caption("model/", ["cat.jpg"])
        ['a cat on a chair']

    Args:
        model: a `VisionLanguageModel` or its folder. images: as for `ask`, one or several.
        tokens: at most so many of a caption. device, trust_remote_code: for loading a model.

    Raises `InputError` for a picture that cannot be used or a model of another kind.
    """
    if tokens < 1:
        raise UsageError(f"tokens={tokens}: a caption has at least one.")
    given = Saved(model, device, trust_remote_code) if isinstance(model, str | Path) else model
    loaded, _ = opened_speaker(given, "captioning")
    return loaded.caption(listed_items("image", images), tokens=tokens)
