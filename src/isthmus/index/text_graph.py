"""The text side of an index's model as a graph of ONNX beside the embeddings, by which a new process answers texts in a
second: torch and the libraries of encoders, which take ten, are not loaded.

It is written once, and only if it gives what the model gives (`isthmus.exports.parity`).
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from isthmus.data.records import encodable
from isthmus.errors import InputError
from isthmus.files import MAX_JSON, sync_file, sync_folder, writing
from isthmus.index.identity import saved_fingerprint
from isthmus.index.layout import KeptFile

if TYPE_CHECKING:
    from isthmus.index.reader import ImageIndex
    from isthmus.models.dual_encoder import DualEncoder

FILES = {"graph": "text.onnx", "tokens": "preprocessing.json"}
MOST = {"graph": 2**31, "tokens": MAX_JSON}  # bytes


def write_text_graph(root: Path, model: DualEncoder) -> dict[str, KeptFile]:
    """The files in a new folder of the index. Raises `UsageError` or `InputError` where the text side has no such form,
    or a package is missing.
    """
    from isthmus.exports.onnx_graphs import write_text_side

    folder = root / f"text-{secrets.token_hex(8)}"
    with writing(folder):
        folder.mkdir()
        try:
            write_text_side(model, folder)
        except BaseException:
            shutil.rmtree(folder)
            raise
        for name in FILES.values():
            sync_file(folder / name)
        sync_folder(folder)
    return {what: KeptFile.of(root, folder / name) for what, name in FILES.items()}


def sound_text_graph(root: Path, files: dict[str, KeptFile] | None) -> bool:
    """Whether the index has one, as it was written."""
    try:
        return files is not None and all(one.check(root, deep=True) for one in files.values())
    except InputError:
        return False


class TextGraph:
    """The text side of an index's model, in the place of the model."""

    def __init__(self, folder: Path) -> None:
        from isthmus.exports.embed import Embedder

        self._embedder = Embedder(folder, providers=["CPUExecutionProvider"])

    def encode(self, modality: str, texts: Sequence[str]) -> np.ndarray:
        """N texts to unit rows float32 [N, d]."""
        return self._embedder.encode_text(list(texts))


def _as_written(files: dict[str, KeptFile] | None) -> TypeGuard[dict[str, KeptFile]]:
    """Whether these are the files of a graph, in one folder and of a size that can be read."""
    if files is None or set(files) != set(FILES):
        return False
    folders = {Path(one.name).parent for one in files.values()}
    fits = (Path(files[what].name).name == FILES[what] and files[what].bytes <= MOST[what] for what in FILES)
    return len(folders) == 1 and all(fits)


def text_graph_of(index: ImageIndex, model: str | Path, texts: Sequence[Any]) -> TextGraph | None:
    """What encodes `texts` for an index in place of the model in a folder; None where only the model itself can.

    Raises `InputError` for files that were damaged.
    """
    files = index.described.text
    if not _as_written(files) or not all(map(encodable, texts)):
        return None
    if saved_fingerprint(Path(model)) != index.model["fingerprint"]:
        return None
    paths = [one.check(index.path, deep=True) for one in files.values()]
    try:
        return TextGraph(paths[0].parent)
    except Exception:  # onnxruntime is missing, or a version that lacks what the graph needs: the model answers as well
        return None
