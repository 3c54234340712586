"""`ask`: what a model that fuses answers to a question about a picture, and how probably."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from isthmus.errors import UsageError
from isthmus.evaluation.asking import GivenFusion, check_answers, opened_fusion
from isthmus.evaluation.inputs import Saved
from isthmus.report import notebook

SHOWN = 5  # answers


@dataclass(repr=False)
class Reply:
    """What `ask` found.

    answers: what the model can say. probabilities: float32 [answers]. loss: "one" where they add up to 1, "soft" where
    each stands by itself. shown: how many are printed.
    """

    question: str
    answers: list[str]
    probabilities: np.ndarray = field(repr=False)
    loss: str
    shown: int = SHOWN

    @property
    def answer(self) -> str:
        """The most probable one."""
        return self.answers[int(self.probabilities.argmax())]

    @property
    def ranked(self) -> list[tuple[str, float]]:
        """The most probable answers first, with their probabilities."""
        order = np.argsort(-self.probabilities, kind="stable")[: self.shown]
        return [(self.answers[k], float(self.probabilities[k])) for k in order.tolist()]

    def __repr__(self) -> str:
        rows = [(answer, f"{100 * share:.1f} %") for answer, share in self.ranked]
        return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right"))

    def _repr_html_(self) -> str:
        return notebook.rows(["answer", ""], [(answer, f"{100 * share:.1f} %") for answer, share in self.ranked])

    def to_dict(self) -> dict[str, Any]:
        """question, answer, and the probabilities of the answers that are shown."""
        return {"question": self.question, "answer": self.answer, "probabilities": dict(self.ranked)}


def ask(
    model: GivenFusion,
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
        model: a `FusionModel` or its folder. image: a path, PIL image, bytes or array [H, W, 3].
        question: a text, or several: then a list of `Reply` comes back.
        k: how many answers are shown. device, trust_remote_code: for loading a model.

    Raises `InputError` for a picture that cannot be used or a model of another kind; `UsageError` for a model without
    answers, or an empty question.
    """
    asked = [question] if isinstance(question, str) else list(question)
    if not asked or any(not one.strip() for one in asked):
        raise UsageError("The question is empty: ask something about the picture.")
    if k < 1:
        raise UsageError(f"k={k}: show at least one answer.")
    given = Saved(model, device, trust_remote_code) if isinstance(model, str | Path) else model
    loaded, name = opened_fusion(given, "answering questions")
    check_answers(loaded, name)
    probabilities = loaded.answer(image, asked)
    replies = [
        Reply(one, loaded.answers, found, loaded.loss, k) for one, found in zip(asked, probabilities, strict=True)
    ]
    return replies[0] if isinstance(question, str) else replies
