"""Import a folder of features made elsewhere, in either layout, into a store."""

from __future__ import annotations

from pathlib import Path

from isthmus.data.feature_pairs import SIDES
from isthmus.data.text import read_lines
from isthmus.errors import InputError
from isthmus.store.arrays import import_arrays
from isthmus.store.clip_retrieval import import_clip_retrieval


def import_folder(folder: str | Path, out: str | Path, *, model: str | None = None) -> list[tuple[str, str]]:
    """Import what `folder` holds: clip-retrieval's layout (`img_emb/`, `text_emb/`, `metadata/`), or
    `image.npy` and `text.npy` with optional `ids.txt` and `captions.txt` (one a line).

    Returns (file, reason) of the partitions that were left out.

    Raises:
        InputError: neither layout, or the errors of `import_arrays` and `import_clip_retrieval`.
    """
    folder = Path(folder)
    if (folder / "metadata").is_dir():
        return import_clip_retrieval(folder, out, model=model)
    arrays = [path if (path := folder / f"{name}.npy").is_file() else None for name in SIDES]
    if not any(arrays):
        raise InputError(f"{folder}: no clip-retrieval layout (metadata/, img_emb/, text_emb/), no image.npy.")
    ids, captions = (_lines(folder / f"{name}.txt") for name in ("ids", "captions"))
    image, text = arrays
    import_arrays(out, image=image, text=text, ids=ids, captions=captions, image_model=model, text_model=model)
    return []


def _lines(path: Path) -> list[str] | None:
    return read_lines(path) if path.is_file() else None
