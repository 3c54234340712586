"""Characters as the symbols of a recogniser: blank first, the symbol that begins and ends every line last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.errors import InputError
from isthmus.speech.heads import BLANK


@dataclass(frozen=True)
class Characters:
    """The characters of a language as symbols 1, 2, …; `folded` texts are in capitals, as LRS2 and LRS3 have them."""

    characters: str
    folded: bool = False

    @classmethod
    def of(cls, texts: Iterable[str], *, folded: bool = False) -> Characters:
        """All characters of some texts, in the order of their code points. Raises `InputError` for none."""
        found = sorted({one for text in texts for one in _plain(text, folded)})
        if not found:
            raise InputError("these texts hold no characters.")
        return cls("".join(found), folded)

    @property
    def symbols(self) -> int:
        """How many there are, blank and the symbol of the ends included."""
        return len(self.characters) + 2

    def encode(self, texts: Sequence[str]) -> Tensor:
        """int64 [N, L], padded on the right with `BLANK`. Raises `InputError` that names an unknown character."""
        number = {one: k for k, one in enumerate(self.characters, BLANK + 1)}
        rows = []
        for text in texts:
            plain = _plain(text, self.folded)
            if unknown := [one for one in plain if one not in number]:
                raise InputError(
                    f"{text[:60]!r}: the character {unknown[0]!r} is none of the {len(number)} this recogniser knows. "
                    "Leave the line out, or train with a text that has it."
                )
            rows.append(torch.tensor([number[one] for one in plain], dtype=torch.long))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=BLANK)

    def decode(self, symbols: Iterable[int]) -> str:
        """The text of some symbols; blanks and the symbol of the ends are nothing."""
        return "".join(self.characters[one - 1] for one in symbols if BLANK < one <= len(self.characters))


def _plain(text: str, folded: bool) -> str:
    """Runs of white space as one space; in capitals where lines are folded."""
    joined = " ".join(text.split())
    return joined.upper() if folded else joined
