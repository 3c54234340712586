"""What is said to a language model: its chat template around a question, with a slot for the tokens of a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isthmus.errors import InputError, UsageError

SLOT = "<image>"
Turns = Sequence[str]  # question, answer, question, … : what was said before, the last one to be answered


@dataclass(frozen=True)
class Prompt:
    """Token ids int64 [T]. slots: which of them a picture's tokens take, bool [T]. answer: where the answer begins;
    T where there is none.
    """

    ids: Tensor
    slots: Tensor
    answer: int

    def __len__(self) -> int:
        return len(self.ids)


class ChatPrompts:
    """ChatPrompts of one language model, for pictures of so many tokens.

    tokenizer: of the language model; a copy of it knows the slot as a token of its own. tokens: of a picture.
    context: tokens that the model takes. template: in place of the tokenizer's own. system: "" for what the template
    says by itself.
    Raises `UsageError` for a model without a chat template, or one whose template drops the picture.
    """

    def __init__(
        self,
        tokenizer: Any,
        tokens: int,
        context: int,
        *,
        template: str = "",
        system: str = "",
        name: str = "the model",
    ) -> None:
        from copy import deepcopy

        self.tokenizer, self.tokens, self.context, self.system, self.name = (
            deepcopy(tokenizer),
            tokens,
            context,
            system,
            name,
        )
        if template:
            self.tokenizer.chat_template = template
        if not self.tokenizer.chat_template:
            raise UsageError(
                f"{name}: has no chat template, so that nothing says how it is asked. Take an instruction-tuned model, "
                "or give one: --set language.template=FILE.jinja."
            )
        self.tokenizer.add_special_tokens({"additional_special_tokens": [SLOT]})
        self.slot: int = self.tokenizer.convert_tokens_to_ids(SLOT)
        if self.text(["?"]).count(SLOT) != 1:
            raise UsageError(
                f"{name}: its chat template has no slot for a picture: what a user says does not appear in it once. "
                "Give another: --set language.template=FILE.jinja."
            )

    def text(self, turns: Turns) -> str:
        """The prompt as it is written, one slot for the whole picture."""
        said = [turn.replace(SLOT, "").strip() for turn in turns]
        said[0] = f"{SLOT}\n{said[0]}"
        messages = [{"role": "system", "content": self.system}] * bool(self.system)
        messages += [{"role": ("user", "assistant")[k % 2], "content": turn} for k, turn in enumerate(said)]
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # of Jinja, and whatever a template raises
            raise UsageError(f"{self.name}: its chat template fails ({error}).") from None

    def __call__(
        self, turns: Turns, answer: str | None = None, *, tokens: int | None = None, place: str = ""
    ) -> Prompt:
        """The prompt of a question (or of several turns), and the answer behind it, which ends the turn.

        tokens: of this picture, where each has its own number. place: for messages. Raises `InputError` for one that
        is longer than the model's context.
        """
        tokens = self.tokens if tokens is None else tokens
        whole = self.text(turns).replace(SLOT, SLOT * tokens)
        asked = self._ids(whole)
        said = [] if answer is None else self.answer_ids(answer)
        if len(asked) + len(said) > self.context:
            raise InputError(
                f"{place or 'the question'}: {len(asked) + len(said):,} tokens, {tokens:,} of them the picture's, "
                f"but {self.name} takes {self.context:,}. Ask less, or train with fewer picture.tokens"
                f"{' or smaller picture.grids' * (tokens != self.tokens)}."
            )
        ids = torch.tensor([*asked, *said], dtype=torch.int64)
        return Prompt(ids, ids == self.slot, len(asked))

    def answer_ids(self, answer: str) -> list[int]:
        """The ids of an answer and of the token that ends it."""
        return [*self._ids(answer.replace(SLOT, "").strip()), self.tokenizer.eos_token_id]

    def read(self, ids: Tensor) -> str:
        """What generated ids say."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
