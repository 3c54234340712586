"""`doctor` of an index: everything it holds is read and compared with its digests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isthmus.errors import InputError
from isthmus.index.layout import WORK, read_record
from isthmus.index.reader import ImageIndex
from isthmus.store.checkup import Finding

CHECKED = 8192  # embeddings at once
REMEDY = "Restore it from a copy, or remove the index's folder and run `isthmus index` again."


def doctor_index(path: Path) -> list[Finding]:
    """Findings about an index: its files, that embeddings are finite, that a killed run is not left over."""
    findings: list[Finding] = []
    try:
        record = read_record(path)
    except InputError as error:
        return [{"ok": False, "what": str(error), "remedy": REMEDY}]
    for file in record.files():
        try:
            file.check(path, deep=True)
            findings.append({"ok": True, "what": f"{file.name}: {file.bytes:,} bytes, as written", "remedy": ""})
        except InputError as error:
            findings.append({"ok": False, "what": str(error), "remedy": REMEDY})
    if all(one["ok"] for one in findings):
        index = ImageIndex(path, record)
        bad = sum(int((~np.isfinite(part).all(axis=1)).sum()) for _, _, part in index.blocks(CHECKED))
        findings.append({"ok": not bad, "what": f"{index!r}: {bad:,} embeddings are not finite", "remedy": REMEDY})
        how = "a new process answers texts by a graph, without torch" if record.text else "a new process loads torch"
        findings.append({"ok": True, "what": how, "remedy": ""})
    if (path / WORK).is_dir():
        told = f"{path / WORK}: a run was interrupted; its work is kept"
        findings.append({"ok": True, "what": told, "remedy": ""})
    return findings
