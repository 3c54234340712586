"""Long captions: retrieval with as many tokens as the text encoder can read, and with fewer, for comparison."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.data.tables import Frame
from isthmus.encoders.base import Encoder
from isthmus.encoders.lengths import token_ceiling, token_limit, tokenize, with_max_tokens
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.datasets.dci import read_dci
from isthmus.evaluation.datasets.docci import read_docci
from isthmus.evaluation.datasets.urban1k import read_urban1k
from isthmus.evaluation.inputs import Data, Given, embed_for_evaluation, named, opened
from isthmus.evaluation.retrieval import COLUMNS
from isthmus.evaluation.tasks import task
from isthmus.metrics.results import Result, result
from isthmus.metrics.retrieval import Ranks, ranks, retrieval
from isthmus.models.dual_encoder import DualEncoder
from isthmus.store.opening import holds_features, read_first

CUTS = (16, 32, 64, 77, 128, 256, 512, 1024, 2048)  # 77 is what CLIP reads
FEWEST = 20  # captions in a bin of lengths


@task(primary="mean_recall@1", columns=COLUMNS)
def longtext(
    model: Given,
    data: Data,
    *,
    split: str | None = None,
    max_tokens: int | None = None,
    report: str | Path | None = None,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Retrieval with long captions, cut at more and more tokens: Urban1k, DOCCI, DCI, or pairs.

    A result for each length at which captions are cut (`max_tokens` of its own, `truncated` captions), the last at
    the longest. `by_length`: recall by the captions' own length, when they are cut at the longest.

    Args:
        split: of DOCCI (test, the default, train, qual_dev, qual_test) or of pairs.
        max_tokens: the most tokens to read of a caption, within the encoder's positions; default: as many as it can.

    Raises UsageError for `max_tokens` beyond the encoder's positions.
    """
    data = read_first(data, columns=columns, images=images, pages=pages, range=range)
    model, name = opened(model)
    if "text" not in getattr(model, "encoders", {}):
        raise InputError("Cutting captions needs the text encoder: load the model with its encoders.")
    source = without_features(data)
    if max_tokens is not None:
        cut_at(model, max_tokens, strictly=True)  # fails early if the encoder cannot
    if isinstance(source, Pairs):
        pairs = source if split is None else source.filter(split=split)
    else:
        pairs = read_longtext(source, split=split)
    embedded = embed_for_evaluation(model, pairs, unseen=unseen)
    captions = embedded.captions or []
    if not captions:
        raise InputError(f"{named(data)}: there are no captions.")
    lengths = caption_lengths(model, captions)
    longest = _longest(model, lengths, max_tokens)
    results = []
    for cut in [*(c for c in CUTS if c < longest), longest]:
        text = cut_at(model, cut).encode_text(captions)
        groups = embedded.groups
        found = retrieval(embedded.image, text, embedded.image_of, groups=groups, bootstrap=bootstrap, seed=seed)
        found |= embedded.seen | {"max_tokens": cut, "truncated": int((lengths > cut).sum())}
        results.append(result(found, dataset=named(data), model=name, task="zeroshot_retrieval"))
    last = results[-1]
    last["by_length"] = by_length(ranks(embedded.image, text, embedded.image_of), lengths)
    last["skipped"], last["notes"] = embedded.skipped, embedded.notes + _notes(model, lengths, longest)
    if report is not None:
        from isthmus.evaluation.pages.longtext import write_report

        write_report(report, results, lengths)
    return results


def read_longtext(root: Frame | str | Path, *, split: str | None = None) -> Pairs:
    """Pairs from a folder in the layout of Urban1k, DOCCI or DCI (`isthmus.evaluation.datasets`), or from whatever
    `read_pairs` reads. split: of DOCCI or pairs. Raises InputError naming file and line.
    """
    if not isinstance(root, str | Path):
        return read_pairs(root, split=split)
    root = Path(root)
    if (root / "caption").is_dir() and (root / "image").is_dir():
        return _pairs(read_urban1k(root))
    if (root / "docci_descriptions.jsonlines").is_file():
        return _pairs(read_docci(root, split))
    for folder in (root, root / "densely_captioned_images"):
        if (folder / "complete").is_dir():
            return _pairs(read_dci(folder))
    return read_pairs(root, split=split)


def _pairs(rows: Iterable[tuple[str, Path, str]]) -> Pairs:
    """Pairs of (id, image file, caption)."""
    ids, images, captions = zip(*rows, strict=True)
    return pairs_from_lists(images, captions, ids=ids)


def without_features(data: Data) -> Pairs | Frame | str | Path:
    """The data, which must be captions and not features; InputError for a store or arrays."""
    if isinstance(data, FeaturePairs) or holds_features(data):
        raise InputError(f"{named(data)}: holds features; this task reads captions. Give it the pairs themselves.")
    return data


def caption_lengths(model: DualEncoder, captions: Sequence[str]) -> np.ndarray:
    """Tokens of each caption, int64 [n]; with several text encoders, the largest of their numbers.

    Raises UsageError if an encoder does not give access to its tokens.
    """
    counted = []
    for encoder in model.encoders["text"]:
        tokens = tokenize(encoder, captions)
        if tokens is None:
            raise UsageError(
                f"{encoder.uri}: gives no access to its tokens, so that captions cannot be cut at a length."
            )
        counted.append(tokens.count)
    return np.max(counted, axis=0)


def cut_at(model: DualEncoder, count: int, *, strictly: bool = False) -> DualEncoder:
    """The same model whose text encoders (shared, not copied) read `count` tokens, or as many as they can.

    strictly: UsageError for an encoder that cannot read so many.
    """
    view = copy.copy(model)
    cut = with_max_tokens if strictly else _cut
    view.encoders = {**model.encoders, "text": [cut(encoder, count) for encoder in model.encoders["text"]]}
    return view


def by_length(found: Ranks, lengths: np.ndarray, bins: int = 5) -> list[dict[str, Any]]:
    """Recall@1 and @10 of captions (text → image) by their own length: bins of about equal numbers of captions."""
    bins = max(1, min(bins, len(lengths) // FEWEST))
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, bins + 1)))
    inner = np.searchsorted(edges[1:-1], lengths, side="left")
    rows = []
    for i in range(len(edges) - 1 or 1):
        here = inner == i
        if here.any():
            tokens = [int(lengths[here].min()), int(lengths[here].max())]
            recall = {f"image_retrieval_recall@{k}": float((found.image[here] <= k).mean()) for k in (1, 10)}
            rows.append({"tokens": tokens, "n": int(here.sum()), **recall})
    return rows


def _cut(encoder: Encoder, count: int) -> Encoder:
    ceiling = token_ceiling(encoder)
    return with_max_tokens(encoder, count if ceiling is None else min(count, ceiling))


def _longest(model: DualEncoder, lengths: np.ndarray, wanted: int | None) -> int:
    """The length of the last point of the curve: `wanted`, or the longest caption that the encoders can read."""
    ceilings = [c for c in map(token_ceiling, model.encoders["text"]) if c is not None]
    if wanted is not None:
        return wanted
    return int(max(3, min([int(lengths.max()), *ceilings])))


def _notes(model: DualEncoder, lengths: np.ndarray, longest: int) -> list[str]:
    """Remarks for the user about the lengths."""
    notes = []
    limits = [limit for limit in map(token_limit, model.encoders["text"]) if limit is not None]
    lifted = [limit for limit in limits if limit < longest]
    if lifted:
        notes.append(
            f"the limit of {min(lifted)} tokens, with which the model was trained, is lifted to {longest}. To train "
            f"with it, embed with max_tokens={longest} in the encoder's URI."
        )
    cut = int((lengths > longest).sum())
    if cut:
        ceilings = [c for c in map(token_ceiling, model.encoders["text"]) if c is not None]
        why = " (the encoder has no more positions)" if ceilings and longest >= min(ceilings) else ""
        notes.append(f"{cut:,} of {len(lengths):,} captions are cut at {longest} tokens{why}.")
    return notes
