"""Tables as other programs take them."""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow as pa

from isthmus.errors import UsageError


def as_pandas(table: pa.Table) -> Any:
    """A pandas data frame of `table`. Raises `UsageError` where pandas is not installed."""
    try:
        import pandas  # noqa: F401
    except ImportError:
        raise UsageError("to_pandas needs pandas: pip install pandas.") from None
    return table.to_pandas()


def by_caption(images: pa.Table, captions: pa.Table) -> Any:
    """A pandas data frame with a row per caption, and for an image without any, in the order of `images`: id, caption,
    lang, split, label, group.
    """
    known = as_pandas(images.select(["id", "split", "label", "group"]))
    texts = as_pandas(captions.select(["id", "caption", "lang"]))
    return known.merge(texts, on="id", how="left")[["id", "caption", "lang", "split", "label", "group"]]


def as_csv(table: pa.Table) -> str:
    """The columns' names and the rows of `table`; quoted where it is needed, numbers to four digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(table.column_names)
    columns = [column.to_pylist() for column in table.columns]
    for row in zip(*columns, strict=True):
        writer.writerow([f"{value:.4f}" if isinstance(value, float) else value for value in row])
    return file.getvalue()
