"""The page of a curation: concepts before and after, samples of the chosen pairs, concepts with too few."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isthmus.curation.assign import Assignment
from isthmus.curation.pools import Pool
from isthmus.data.images import BadImage
from isthmus.data.pairs import Pairs
from isthmus.report import Picture, drawn, render_page, write_page
from isthmus.report.figures import ACCENT, INK
from isthmus.store.opening import open_pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from isthmus.curation.cleaning import Cleaned
    from isthmus.curation.collection import Collection
    from isthmus.curation.curated import Curated

NAMED = 60  # most concepts that a chart names
SHOWN = 12  # concepts with samples: half the rarest, half the commonest
WEAKEST = 60  # concepts whose weakest pair is shown
SAMPLES = 6  # pictures in a row


@dataclass(frozen=True)
class ChosenPair:
    """A chosen pair: its caption, cosine and rank, and its picture if available."""

    caption: str
    score: float
    rank: int
    picture: Picture | None = None


@dataclass(frozen=True)
class Member:
    """A pair in a row of similar pairs: its id, its caption, its role, and its picture if available."""

    id: str
    caption: str
    mark: str
    picture: Picture | None = None


def write_report(
    result: Curated,
    chosen: tuple[Pool, Assignment, Sequence[str]] | None,
    cleaned: Cleaned | None,
    path: Path,
    *,
    images: Any,
    command: str,
) -> None:
    """Write `report.html`.

    chosen: pool, selection and names of the concepts; None if there were none. cleaned: the result of cleaning.
    images: pairs (or their path) with the pictures of the ids; None: captions alone.
    """
    shelf = _shelf(images if cleaned is None else cleaned.pairs.pictures or images)
    page = render_page(
        "isthmus.curation",
        "report.html.j2",
        command=command,
        manifest=result.manifest,
        counts=result.per_concept,
        short=result.short,
        cleaning=cleaned and cleaned.counts,
        groups=_groups(cleaned, shelf) if cleaned and cleaned.groups else [],
        doubtful=_doubtful(cleaned, shelf) if cleaned and cleaned.groups else [],
        leaks=_leaks(cleaned, shelf) if cleaned and cleaned.leaks else [],
        **(
            _choice(result, *chosen, shelf)
            if chosen
            else {"histogram": "", "even": {}, "empty": {}, "samples": [], "weakest": []}
        ),
    )
    write_page(page, path)


def _choice(
    result: Curated, pool: Pool, selection: Assignment, names: Sequence[str], shelf: _Shelf | None
) -> dict[str, Any]:
    """The part of the page about concepts."""
    before = np.array([result.manifest["before"]["nearest"][name] for name in names], np.int64)
    after = selection.counts()
    samples = _samples(pool, selection, shelf)
    return {
        "histogram": histogram(before, after, names),
        "even": {"before": effective_concepts(before), "after": effective_concepts(after)},
        "empty": {"before": int((before == 0).sum()), "after": int((after == 0).sum())},
        "samples": [(names[concept], samples[concept]) for concept in samples],
        "weakest": _weakest(pool, selection, names, shelf),
    }


def _groups(cleaned: Cleaned, shelf: _Shelf | None) -> list[tuple[int, list[Member]]]:
    """Some groups of duplicates, evenly from the largest: size, and members with the kept one first."""
    assert cleaned.groups is not None
    members = cleaned.groups.members()
    some = np.unique(np.linspace(0, len(members) - 1, min(SHOWN, len(members))).round().astype(np.int64)).tolist()
    shown = []
    for part in (members[at] for at in some):
        row = []
        for pair in part[:SAMPLES].tolist():
            alike = f"{cleaned.groups.how[pair]} {cleaned.groups.similarity[pair]:.2f}"
            mark = "kept" if cleaned.groups.kept[pair] else alike
            row.append(_member(cleaned.pairs, pair, mark, shelf))
        shown.append((len(part), row))
    return shown


def _doubtful(cleaned: Cleaned, shelf: _Shelf | None) -> list[list[Member]]:
    """Some pairs that look alike and were kept apart, the closest first."""
    assert cleaned.groups is not None
    found = cleaned.groups.doubtful
    some = np.unique(np.linspace(0, len(found) - 1, min(SHOWN, len(found))).round().astype(np.int64)).tolist()
    return [[_member(cleaned.pairs, row, f"phash {found[at][2]:.2f}", shelf) for row in found[at][:2]] for at in some]


def _leaks(cleaned: Cleaned, shelf: _Shelf | None) -> list[list[Member]]:
    """Some leaked pairs, each with its pair of the evaluation set."""
    sets = {one.name: (one, _shelf(one.pictures)) for one in cleaned.sets}
    places = {one.name: {id: row for row, id in enumerate(one.ids)} for one in cleaned.sets}
    first = list({(leak.row, leak.set): leak for leak in reversed(cleaned.leaks or [])}.values())[::-1]
    some = np.unique(np.linspace(0, len(first) - 1, min(SHOWN, len(first))).round().astype(np.int64)).tolist()
    shown = []
    for leak in (first[at] for at in some):
        mine = _member(cleaned.pairs, leak.row, f"{leak.how} {leak.similarity:.2f}", shelf)
        other, pictures = sets[leak.set]
        shown.append([mine, _member(other, places[leak.set][leak.match], f"in {leak.set}", pictures)])
    return shown


def _member(pairs: Collection, pair: int, mark: str, shelf: _Shelf | None) -> Member:
    id = pairs.ids[pair]
    rows = np.flatnonzero(pairs.owner == pair)
    caption = (pairs.texts[rows[0]] if len(rows) else None) or id
    return Member(id, caption, mark, _picture(shelf, id, caption))


def effective_concepts(counts: np.ndarray) -> float:
    """exp of the entropy of the counts: C where all C concepts are equally frequent, 1 where there is only one."""
    share = counts[counts > 0] / max(1, counts.sum())
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


@drawn
def histogram(before: np.ndarray, after: np.ndarray, names: Sequence[str]) -> Figure:
    """Shares of the pool (by nearest concept) and of the selection, for each concept, commonest in the pool first.

    Up to NAMED concepts are named bars; more are two curves, each sorted on its own.
    """
    from matplotlib.figure import Figure

    shares = [100 * counts / max(1, counts.sum()) for counts in (before, after)]
    order = np.lexsort((np.arange(len(before)), -before))
    named = len(names) <= NAMED
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(names))
    for share, colour, label, shift in zip(shares, (INK, ACCENT), ("pool", "selected"), (-0.21, 0.21), strict=True):
        alpha = 0.3 if label == "pool" else 1.0
        if named:
            axes.bar(place + shift, share[order], 0.4, color=colour, alpha=alpha, label=label)
        else:
            axes.plot(place + 1, np.sort(share)[::-1], color=colour, alpha=max(alpha, 0.6), linewidth=1.8, label=label)
    if named:
        labels = [_cut(names[concept]) for concept in order]
        axes.set_xticks(place, labels, rotation=90 if len(names) > 8 else 0, fontsize=8, parse_math=False)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.6, len(names) - 0.4)
    else:
        axes.set(xlabel="concepts, most frequent first (each line sorted on its own)", xscale="log")
    axes.set_ylabel("share, %")
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure


def _samples(pool: Pool, selection: Assignment, pictures: _Shelf | None) -> dict[int, list[ChosenPair]]:
    """Samples of the rarest and the commonest concepts: the best pair, then evenly down to the last chosen."""
    chosen = [concept for concept in selection.order.tolist() if (selection.concept == concept).any()]
    if len(chosen) > SHOWN:
        chosen = [*chosen[: SHOWN // 2], *chosen[-(SHOWN // 2) :]]
    out: dict[int, list[ChosenPair]] = {}
    for concept in chosen:
        mine = np.flatnonzero(selection.concept == concept)
        some = mine[np.unique(np.linspace(0, len(mine) - 1, SAMPLES).round().astype(np.int64))]
        out[concept] = _chosen_pairs(pool, selection, some, pictures)
    return out


def _weakest(
    pool: Pool, selection: Assignment, names: Sequence[str], pictures: _Shelf | None
) -> list[tuple[str, ChosenPair]]:
    """The chosen pair of the least score of every concept, the least of all first; of `WEAKEST` concepts."""
    last = [np.flatnonzero(selection.concept == concept)[-1:] for concept in range(len(names))]
    places = np.concatenate(last) if last else np.empty(0, np.int64)
    places = places[np.argsort(selection.score[places], kind="stable")][:WEAKEST]
    pairs = _chosen_pairs(pool, selection, places, pictures)
    return [(names[selection.concept[at]], pair) for at, pair in zip(places.tolist(), pairs, strict=True)]


def _chosen_pairs(pool: Pool, selection: Assignment, places: np.ndarray, pictures: _Shelf | None) -> list[ChosenPair]:
    """The chosen pairs at these places of the selection."""
    rows = selection.rows[places]
    texts = zip(places.tolist(), pool.captions(rows), pool.ids(rows), strict=True)
    return [
        ChosenPair(caption or id, float(selection.score[at]), int(selection.rank[at]), _picture(pictures, id, caption))
        for at, caption, id in texts
    ]


class _Shelf:
    """Pictures by id."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.row = {id: row for row, id in enumerate(pairs.images["id"].to_pylist())}


def _shelf(images: Any) -> _Shelf | None:
    return None if images is None else _Shelf(open_pairs(images, "optional"))


def _picture(shelf: _Shelf | None, id: str, caption: str | None) -> Picture | None:
    if shelf is not None and id in shelf.row:
        with suppress(BadImage):
            return Picture(shelf.pairs.decode(shelf.row[id]), caption or id)
    return None


def _cut(name: str, length: int = 22) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
