"""What a search found: hits, and how they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
from PIL import Image
from tabulate import tabulate

from isthmus.data.feature_pairs import SIDES
from isthmus.data.frames import as_pandas
from isthmus.data.pairs import Pairs
from isthmus.errors import UsageError
from isthmus.files import write_atomic
from isthmus.report import Picture, notebook, terminal
from isthmus.report.contact_sheet import contact_sheet

LEAST = 0.5  # probability: as likely as not
TOLD = 40  # characters of a caption in the table


class Hit(TypedDict):
    """An image that was found. score: its cosine with the query. probability: that it fits, if before the search it was
    as likely as not (`isthmus.metrics.absence`); None for a query that is no text, or a mix.

    Of an index also its row, path, caption, label and size, the ids of equal pictures (also), and whether it was
    missing at the last scan (`isthmus.index.reader.IndexedPicture`).
    """

    score: float
    id: str
    probability: float | None
    row: NotRequired[int]
    path: NotRequired[str | None]
    caption: NotRequired[str | None]
    label: NotRequired[str | None]
    width: NotRequired[int]
    height: NotRequired[int]
    source: NotRequired[str]
    also: NotRequired[list[str]]
    missing: NotRequired[bool]


@dataclass(repr=False)
class SearchResult:
    """The result of `search`.

    hits: best first; equal images in the order of the data. skipped: (id, reason) of images that could not be read.
    notes: remarks on the data. pairs: the pictures; None if a store's features or an index were searched. least: the
    probability below which nothing fits. shown: gives the picture of a hit, where that is not among `pairs`. asked: the
    picture that was searched by.
    """

    query: str
    hits: list[Hit]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pairs: Pairs | None = field(default=None, repr=False)
    least: float = LEAST
    shown: Callable[[Hit], Image.Image] | None = field(default=None, repr=False)
    asked: Image.Image | None = field(default=None, repr=False)

    @property
    def fits(self) -> bool | None:
        """Whether anything found is as probable as `least`; None where no probability is known."""
        best = max((hit["probability"] for hit in self.hits if hit["probability"] is not None), default=None)
        return None if best is None else best >= self.least

    @property
    def title(self) -> str:
        """The query, and whether nothing fits it."""
        return f"nothing fits: {self.query}" if self.fits is False else self.query

    @property
    def pictures(self) -> bool:
        """Whether there is something to lay out on a contact sheet."""
        return self.shown is not None or (self.pairs is not None and self.pairs.modality == SIDES[0])

    def contact_sheet(self) -> Image.Image:
        """The picture searched by, and those found, each with its score and id.

        Raises `UsageError` if no pictures were searched.
        """
        if not self.pictures and self.pairs is None:
            raise UsageError("A store holds no pictures for a contact sheet; search the folder they are in.")
        if not self.pictures:
            raise UsageError(f"There are no pictures of {self.pairs.modality} for a contact sheet.")  # type: ignore[union-attr]
        asked = [] if self.asked is None else [(self.asked, f"searched by\n{self.query}")]
        tiles = [*asked, *((self._picture(hit), _label(hit)) for hit in self.hits)]
        return contact_sheet([tile[0] for tile in tiles], [tile[1] for tile in tiles], self.title, fill=True)

    def write_sheet(self, path: str | Path) -> None:
        """The contact sheet as a file."""
        write_atomic(path, self.contact_sheet().save)

    def to_dict(self) -> dict[str, object]:
        """As `isthmus search --json` writes it."""
        told = {"query": self.query, "fits": self.fits, "least": self.least, "hits": self.hits}
        return told | {"skipped": dict(self.skipped)}

    def to_pandas(self) -> Any:
        """A pandas data frame with a row per hit: score, id, probability."""
        return as_pandas(pa.Table.from_pylist([dict(hit) for hit in self.hits]))

    def _picture(self, hit: Hit) -> Image.Image:
        if self.shown is not None:
            return self.shown(hit)
        assert self.pairs is not None
        return self.pairs.decode(self._rows[hit["id"]])

    @property
    def _rows(self) -> dict[str, int]:
        assert self.pairs is not None
        if not hasattr(self, "_row_of"):
            self._row_of = {id: row for row, id in enumerate(self.pairs.images["id"].to_pylist())}
        return self._row_of

    def _repr_html_(self) -> str:
        """The pictures found, in a notebook; without pictures the table."""
        if not self.pictures:
            return notebook.rows(["score", "id"], [(f"{hit['score']:.3f}", hit["id"]) for hit in self.hits])
        return notebook.grid(self.title, (Picture(self._picture(hit), _label(hit)) for hit in self.hits))

    def __repr__(self) -> str:
        further = [name for name in ("label", "caption") if any(hit.get(name) for hit in self.hits)]
        shorter = [(further[:count], told) for count in range(len(further), -1, -1) for told in (TOLD, TOLD // 2)]
        tables = (self._table(names, told) for names, told in shorter)
        table = next(filter(terminal.fits, tables), self._table([], TOLD))
        if self.fits is not False:
            return table
        least = f"less than {100 * self.least:.0f} % probable"
        return f"Nothing fits {self.query!r}: {least}. The nearest all the same:\n{table}"

    def _table(self, further: Sequence[str], told: int) -> str:
        """A row for each hit; of `further`, `told` characters each."""
        known = self.fits is not None
        headers = ["score", *(["probability"] if known else []), "id", *further]
        rows = [
            [
                f"{hit['score']:.3f}",
                *([_percent(hit)] if known else []),
                _named(hit),
                *(_told(hit, name, told) for name in further),
            ]
            for hit in self.hits
        ]
        return tabulate(rows, headers=headers, disable_numparse=True)


def _percent(hit: Hit) -> str:
    return "" if hit["probability"] is None else f"{100 * hit['probability']:.0f} %"


def _named(hit: Hit) -> str:
    """The id, how many equal pictures there are, and whether it is there no longer."""
    also = f" (+{len(hit['also'])} equal)" if hit.get("also") else ""
    return f"{hit['id']}{also}{' (missing)' if hit.get('missing') else ''}"


def _told(hit: Hit, name: str, most: int) -> str:
    """A caption or a label on one line, cut."""
    text = " ".join(str(hit.get(name) or "").split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _label(hit: Hit) -> str:
    """Under a picture: its score, the probability that it fits, its id."""
    percent = _percent(hit)
    return f"{hit['score']:.3f}{f', {percent}' if percent else ''}\n{hit['id']}"
