"""`classify`: which of the named classes each picture shows, and how probably."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import softmax
from tabulate import tabulate

from isthmus.data.frames import as_csv, as_pandas
from isthmus.data.labels import class_names
from isthmus.errors import UsageError
from isthmus.files import write_atomic
from isthmus.inference.encode import Encodable, encode_pictures, picture_pairs
from isthmus.metrics.zeroshot import Templates, class_embeddings, load_templates
from isthmus.models.dual_encoder import DualEncoder
from isthmus.report import notebook

SHOWN = 20  # classes of the summary


@dataclass(repr=False)
class Classification:
    """What `classify` found.

    ids: of the n pictures that could be read. classes: C names. probabilities: float32 [n, C]; rows add up to 1.
    skipped: (id, reason) of pictures that could not be read. notes: remarks on the data.
    """

    ids: list[str]
    classes: list[str]
    probabilities: np.ndarray = field(repr=False)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list, repr=False)

    @property
    def labels(self) -> list[str]:
        """The most probable class of each picture; of equal ones the first."""
        return [self.classes[best] for best in self.probabilities.argmax(axis=1).tolist()]

    @property
    def table(self) -> pa.Table:
        """id, label, probability (of the label), and a column `p(class)` for each class; a row for each picture."""
        columns: dict[str, Any] = {"id": self.ids, "label": self.labels, "probability": self.probabilities.max(axis=1)}
        columns |= {f"p({name})": self.probabilities[:, i] for i, name in enumerate(self.classes)}
        return pa.table(columns)

    def to_csv(self, *, every: bool = False) -> str:
        """id, label and probability, to four digits, as CSV; `every`: the probability of each class too."""
        return as_csv(self.table if every else self.table.select(["id", "label", "probability"]))

    def write_csv(self, path: str | Path, *, every: bool = False) -> None:
        """Write `to_csv` to a file."""
        write_atomic(path, lambda aside: aside.write_text(self.to_csv(every=every), encoding="utf-8"))

    def to_dict(self) -> dict[str, Any]:
        """As `isthmus classify --json` writes it."""
        return {"classes": self.classes, "rows": self.table.to_pylist(), "skipped": dict(self.skipped)}

    def _repr_html_(self) -> str:
        """The first rows, in a notebook."""
        best = self.probabilities.max(axis=1)[:SHOWN].tolist()
        rows = list(zip(self.ids, self.labels, (f"{one:.3f}" for one in best), strict=False))[:SHOWN]
        rest = f"<p>… and {len(self.ids) - SHOWN:,} more</p>" if len(self.ids) > SHOWN else ""
        return notebook.rows(["id", "label", "probability"], rows) + rest

    def to_pandas(self) -> Any:
        """`table` as a pandas data frame."""
        return as_pandas(self.table)

    def __repr__(self) -> str:
        best, labels = self.probabilities.max(axis=1), np.array(self.labels)
        counts = Counter(self.labels).most_common()
        rows = [(name, f"{count:,}", f"{best[labels == name].mean():.2f}") for name, count in counts[:SHOWN]]
        rest = f"\n… and {len(counts) - SHOWN:,} classes more" if len(counts) > SHOWN else ""
        return tabulate(rows, headers=["label", "images", "mean probability"], disable_numparse=True) + rest


def classify(
    model: DualEncoder | str | Path,
    images: Encodable,
    classes: str | Path | Sequence[str],
    *,
    templates: str | Path | Templates = "default",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Classification:
    """Give each picture one of the named classes, with the probabilities of all.

    Use this when you want labels for pictures that have none. To measure how good such labels are, `evaluate` with the
    task zeroshot; for regions of a picture, `segment`.

        >>> found = ist.classify("model/", "photos/", ["cat", "dog", "car"])
        >>> found.labels[0], found.to_pandas()

    A probability is the softmax of the model's logits over these classes: they add up to 1 whatever a picture shows,
    also where none of them fits.

    Args:
        model: a `DualEncoder`, its folder, or the URI of a pretrained one.
        images: as `encode` takes pictures.
        classes: two names or more, or a file with one a line.
        templates: prompts with a `{}` slot, or the name or file of a set of them.
        device, trust_remote_code: for loading a model that is given by its folder or URI.

    Raises:
        UsageError: fewer than two different classes. InputError: pictures or prompts that cannot be used.
    """
    names = list(dict.fromkeys(class_names(classes)))
    if len(names) < 2:
        raise UsageError(f"classify needs two classes or more to choose from, here is {names or 'none'}.")
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    pairs = picture_pairs(images, captions="optional")
    if isinstance(model, str | Path):
        model = DualEncoder.from_pretrained(model, device=device, trust_remote_code=trust_remote_code)
    towards = class_embeddings(model.encode_text, names, prompts)
    found = encode_pictures(model, pairs)
    probabilities = softmax(model.logits(found.embeddings, towards), axis=1).astype(np.float32)
    return Classification(found.ids, names, probabilities, found.skipped, found.notes)
