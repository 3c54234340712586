"""Characters or pieces of words as the symbols of a recogniser: blank first, the symbol of the ends last."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from isthmus.errors import InputError
from isthmus.speech.heads import BLANK

Spelling = Literal["spoken", "written"]
APOSTROPHES = "\u2018\u2019\u02bc`"


def plain(text: str, spelling: Spelling) -> str:
    """A text as a recogniser learns it and is judged by. Runs of white space are one space.

    "spoken": capitals, letters, digits and apostrophes alone, as LRS2 and LRS3 have them; what else stands there is a
    space. "written": as it is.
    """
    if spelling == "spoken":
        upper = re.sub(f"[{APOSTROPHES}]", "'", unicodedata.normalize("NFC", text)).upper()
        text = "".join(one if one.isalnum() or one == "'" or unicodedata.combining(one) else " " for one in upper)
    return " ".join(text.split())


@dataclass(frozen=True)
class Characters:
    """The characters of a language as symbols 1, 2, …; `spelling`: how texts are spelled (`plain`)."""

    characters: str
    spelling: Spelling = "written"

    @classmethod
    def of(cls, texts: Iterable[str], *, spelling: Spelling = "written") -> Characters:
        """All characters of some texts, in the order of their code points. Raises `InputError` for none."""
        found = sorted({one for text in texts for one in plain(text, spelling)})
        if not found:
            raise InputError("these texts hold no characters.")
        return cls("".join(found), spelling)

    @property
    def symbols(self) -> int:
        """How many there are, blank and the symbol of the ends included."""
        return len(self.characters) + 2

    @cached_property
    def _number(self) -> dict[str, int]:
        return {one: k for k, one in enumerate(self.characters, BLANK + 1)}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """int64 [N, L], padded on the right with `BLANK`. Raises `InputError` that names an unknown character."""
        rows = []
        for text in texts:
            spelled = plain(text, self.spelling)
            if unknown := [one for one in spelled if one not in self._number]:
                raise InputError(
                    f"{text[:60]!r}: the character {unknown[0]!r} is none of the {len(self._number)} this recogniser "
                    "knows. Leave the line out, or train with a text that has it."
                )
            rows.append(torch.tensor([self._number[one] for one in spelled], dtype=torch.long))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=BLANK)

    def pieces(self, symbols: Iterable[int]) -> list[str]:
        """The piece of text of each symbol; "" for blanks and the symbol of the ends."""
        return [self.characters[one - 1] if BLANK < one <= len(self.characters) else "" for one in symbols]

    def decode(self, symbols: Iterable[int]) -> str:
        """The text of some symbols."""
        return " ".join("".join(self.pieces(symbols)).split())

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"kind": "characters", "characters": self.characters, "spelling": self.spelling}


@dataclass(frozen=True)
class Subwords:
    """Pieces of words as symbols 1, 2, …: a tokenizer of the `tokenizers` library, as its JSON."""

    tokenizer: str
    spelling: Spelling = "written"

    @classmethod
    def of(cls, texts: Iterable[str], size: int, *, spelling: Spelling = "written") -> Subwords:
        """Up to `size` pieces by byte-pair merges over some texts. Raises `InputError` for no text."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        spelled = [one for text in texts if (one := plain(text, spelling))]
        if not spelled:
            raise InputError("these texts hold no characters.")
        found = Tokenizer(models.BPE())
        found.pre_tokenizer = pre_tokenizers.Metaspace()
        found.decoder = decoders.Metaspace()
        found.train_from_iterator(spelled, trainers.BpeTrainer(vocab_size=size, show_progress=False))
        return cls(found.to_str(), spelling)

    @cached_property
    def _made(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.tokenizer)

    @property
    def symbols(self) -> int:
        """How many there are, blank and the symbol of the ends included."""
        return self._made.get_vocab_size() + 2

    def encode(self, texts: Sequence[str]) -> Tensor:
        """int64 [N, L], padded on the right with `BLANK`. Raises `InputError` for a text that pieces do not spell."""
        rows = []
        for text in texts:
            spelled = plain(text, self.spelling)
            numbers = self._made.encode(spelled, add_special_tokens=False).ids
            if self._made.decode(numbers).strip() != spelled:
                raise InputError(
                    f"{text[:60]!r}: a character in it is in none of the {self.symbols - 2} pieces this recogniser "
                    "knows. Leave the line out, or train with a text that has it."
                )
            rows.append(torch.tensor(numbers, dtype=torch.long) + BLANK + 1)
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=BLANK)

    def pieces(self, symbols: Iterable[int]) -> list[str]:
        """The piece of text of each symbol, with the space before it; "" for blanks and the symbol of the ends."""
        last = self.symbols - 1
        return [
            self._made.id_to_token(one - BLANK - 1).replace("\u2581", " ") if BLANK < one < last else ""
            for one in symbols
        ]

    def decode(self, symbols: Iterable[int]) -> str:
        """The text of some symbols."""
        return " ".join("".join(self.pieces(symbols)).split())

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"kind": "subwords", "tokenizer": json.loads(self.tokenizer), "spelling": self.spelling}


Symbols = Characters | Subwords


def symbols_from(values: Any) -> Symbols:
    """What `to_dict` gave. Raises `ValueError` for anything else."""
    kind = values.get("kind") if isinstance(values, dict) else None
    if kind not in ("characters", "subwords") or values.get("spelling") not in ("spoken", "written"):
        raise ValueError("no vocabulary")
    if kind == "characters":
        held = values.get("characters")
        if not isinstance(held, str) or not held or len(set(held)) < len(held):
            raise ValueError("no characters")
        return Characters(held, values["spelling"])
    found = Subwords(json.dumps(values.get("tokenizer")), values["spelling"])
    try:
        found.symbols  # noqa: B018 — what is no tokenizer says so now
    except Exception as error:
        raise ValueError("no tokenizer") from error
    return found
