"""The files of a curation."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from isthmus.curation.assign import Assignment
from isthmus.curation.cleaning import Cleaned
from isthmus.curation.curated import REPORT, SELECTED, Curated
from isthmus.curation.pools import Pool
from isthmus.curation.report import write_report
from isthmus.files import replaced_together, write_sealed
from isthmus.report.page import on_top
from isthmus.store.disk import write_parquet

MANIFEST = "manifest.json"


def write(
    result: Curated,
    cleaned: Cleaned | None,
    images: Any,
    chosen: tuple[Pool, Assignment, Sequence[str]] | None,
    out: Path,
) -> None:
    """Write `selected.parquet`, what cleaning left out, `manifest.json` and the report into the folder `out`.

    They replace the files of an earlier run, all at once.
    """
    table = pa.table(
        {
            "id": pa.array(result.ids, pa.string()),
            "concept": pa.array(result.concept, pa.string()),
            "score": pa.array(result.score, pa.float32()),
            "reason": pa.array(result.reason, pa.string()),
        }
    )
    result.manifest["sha256_of_ids"] = hashlib.sha256("\n".join(result.ids).encode()).hexdigest()
    command = " ".join(["isthmus", *sys.argv[1:]]) if Path(sys.argv[0]).name == "isthmus" else "isthmus.curate(…)"
    with replaced_together(out) as aside:
        if result.source is not None:
            table = table.append_column("source", pa.array(result.source, pa.string()))
            for name in dict.fromkeys(result.source):
                mask = pa.array([one == name for one in result.source])
                _write_table(table.filter(mask), aside / "sources" / f"{name}.parquet")
        _write_table(table, aside / SELECTED)
        for name, listed in cleaned.tables().items() if cleaned is not None else ():
            _write_table(listed, aside / f"{name}.parquet")
        write_sealed(aside / MANIFEST, result.manifest)
        with on_top():
            write_report(result, chosen, cleaned, aside / REPORT, images=images, command=command)


def _write_table(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    write_parquet(table, path)
