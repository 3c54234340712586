"""Questions about composition, and readers of the sets that ask them: Winoground, MMVP, SugarCrepe, ARO, What's Up.

Every reader takes the folder as its authors publish it and returns, per data set in it, a list of `Question`. An
image is read only when it is needed; one that is missing shows then.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from isthmus.data.images import EXTENSIONS, BadImage, decode
from isthmus.data.sources import Items, ParquetColumn, Source
from isthmus.errors import InputError
from isthmus.evaluation.datasets.aro_symmetric import symmetric_relations
from isthmus.files import read_json

Box = tuple[int, int, int, int]
NONE = ""  # the category of a question that counts for none
RARE = 25  # ARO leaves out pairs of attributes with fewer questions when it averages over them
MMVP_PROMPT = "a photo of "  # put before every statement by MMVP's own evaluation, and by SAIL's


@dataclass(frozen=True)
class Picture:
    """Image `index` of `source`; `box` (left, top, width, height in pixels) is the part of it that is shown."""

    source: Source
    index: int
    box: Box | None = None

    def load(self) -> Image.Image:
        """The picture as 8-bit RGB. Raises `BadImage`."""
        image = decode(self.source.read(self.index))
        if self.box is None:
            return image
        left, top, width, height = self.box
        right, bottom = min(left + width, image.width), min(top + height, image.height)
        if right <= max(left, 0) or bottom <= max(top, 0):
            raise BadImage(f"its box {self.box} lies outside of {image.width} × {image.height} pixels.")
        return image.crop((max(left, 0), max(top, 0), right, bottom))


@dataclass(frozen=True)
class Question:
    """Which caption belongs to which image?

    One image: `captions[0]` describes it, the others do not. Two images: `captions[i]` describes `images[i]` alone.
    category: what is asked about, or `NONE`. group: of the questions that share pictures, the unit of the bootstrap.
    within: (kind, id) of the sets this question is part of; a set is answered where all of its questions are.
    """

    id: str
    images: tuple[Picture, ...]
    captions: tuple[str, ...]
    category: str
    group: str
    within: tuple[tuple[str, str], ...] = ()


Questions = dict[str, list[Question]]  # by data set


class Files:
    """Image files of a set, each one picture however often it is asked about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._paths: list[Path] = []
        self._index: dict[str, int] = {}
        self._source = Items(self._paths)

    def picture(self, name: str, box: Box | None = None) -> Picture:
        if name not in self._index:
            self._index[name] = len(self._paths)
            self._paths.append(self.folder / name)
        return Picture(self._source, self._index[name], box)


def read_winoground(root: str | Path, images: str | Path | None = None) -> Questions:
    """Winoground: `examples.jsonl` (here or in `data/`) beside `images/`, or the Parquet files of its hub page.

    Images are named without their ending (`ex_0_img_0`). Categories are `collapsed_tag`s (Object, Relation, Both).
    """
    root = Path(root)
    tables = [root] if root.suffix == ".parquet" else sorted([*root.glob("*.parquet"), *root.glob("data/*.parquet")])
    if tables:
        return {"winoground": [question for table in tables for question in _winoground_parquet(table)]}
    file = _found(root, ("examples.jsonl", "data/examples.jsonl"), "Winoground's examples")
    files = Files(_image_folder(file.parent, images, ("images",)))
    questions = []
    for line, row in enumerate(_json_lines(file), 1):
        place = f"{file}: line {line}"
        captions = _two(row, ("caption_0", "caption_1"), place, "captions")
        names = _two(row, ("image_0", "image_1"), place, "images")
        pictures = tuple(files.picture(_with_ending(files.folder, name)) for name in names)
        questions.append(_winoground(row, pictures, captions, default=str(line - 1)))
    return {"winoground": questions}


def read_mmvp(root: str | Path, images: str | Path | None = None) -> Questions:
    """MMVP-VLM: `Questions.csv` (Question ID, Type, Statement; two lines a pair) beside `MLLM_VLM Images/Type/ID.jpg`.

    The statement stands behind "a photo of ", as in MMVP's own evaluation. The category is the first line's Type.
    """
    root = Path(root)
    file = _found(root, ("Questions.csv",), "MMVP-VLM's questions")
    files = Files(_image_folder(root, images, ("MLLM_VLM Images", "MLLM_VLM_Images")))
    rows = list(_csv_rows(file, ("Question ID", "Type", "Statement")))
    if len(rows) % 2:
        raise InputError(f"{file}: the last line has no partner: statements come in pairs, one for each of two images.")
    questions = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        kind, ids = first["Type"], [first["Question ID"], second["Question ID"]]
        pictures = tuple(files.picture(f"{kind}/{id}.jpg") for id in ids)
        captions = tuple(MMVP_PROMPT + row["Statement"] for row in (first, second))
        questions.append(Question("-".join(ids), pictures, captions, kind, "-".join(ids)))
    return {"mmvp": questions}


def read_sugarcrepe(root: str | Path, images: str | Path | None = None) -> Questions:
    """SugarCrepe (and its like): one JSON per category, `{"0": {"filename", "caption", "negative_caption"}, …}`.

    The files stand here or in `data/`, the images (COCO's val2017) in `images`, `val2017/` or `images/`.
    """
    root = Path(root)
    found = [file for folder in (root, root / "data") for file in sorted(folder.glob("*.json"))]
    if not found:
        raise InputError(f"{root}: no JSON files of SugarCrepe (add_att.json, swap_obj.json, …), nor in data/.")
    files = Files(_image_folder(root, images, ("val2017", "images/val2017", "images")))
    questions: Questions = {}
    for file in found:
        rows = read_json(file)
        if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
            raise InputError(f"{file}: expected an object of questions by number, as SugarCrepe writes them.")
        questions[f"sugar_crepe/{file.stem}"] = [
            _choice(files, row, ("filename", "caption", "negative_caption"), f"{file}: {key}", file.stem)
            for key, row in rows.items()
        ]
    return questions


def read_aro(root: str | Path, images: str | Path | None = None) -> Questions:
    """ARO: `visual_genome_relation.json`, `visual_genome_attribution.json` (beside `images/`, cut to each row's box),
    `coco_order.json` and `flickr30k_order.json`.

    Relations are scored twice: all, and as ARO's published mean has them, without the 157 that are symmetric
    (`vg_relation_directed`).

    ARO draws its shuffled captions anew on every run. A fixed draw of theirs is what is read here: a list of
    `{"image", "caption_options"}` (the first is right), as `json.dump(COCO_Order(…).test_cases, file)` writes it.
    """
    root = Path(root)
    questions: Questions = {}
    for name, category in (("relation", "relation_name"), ("attribution", "attributes")):
        file = root / f"visual_genome_{name}.json"
        if file.is_file():
            files = Files(_image_folder(root, images, ("images",)))
            rows = enumerate(_rows(file))
            asked = [_visual_genome(files, row, f"{file}: row {i}", category) for i, row in rows]
            questions[f"vg_{name}"] = _without_rare(asked) if name == "attribution" else asked
            if name == "relation" and (directed := [q for q in asked if q.category not in symmetric_relations()]):
                questions["vg_relation_directed"] = directed
    for name, folders in (("coco", ("coco", "images", ".")), ("flickr30k", ("flickr30k", "images", "."))):
        file = root / f"{name}_order.json"
        if file.is_file():
            files = Files(_image_folder(root, images, folders))
            questions[f"{name}_order"] = [
                _options(files, row, "image", f"{file}: row {i}", "order") for i, row in enumerate(_rows(file))
            ]
    if not questions:
        names = "visual_genome_relation.json, visual_genome_attribution.json, coco_order.json, flickr30k_order.json"
        raise InputError(f"{root}: none of ARO's files ({names}).")
    return questions


def read_whatsup(root: str | Path, images: str | Path | None = None) -> Questions:
    """What's Up: `controlled_images_dataset.json`, `controlled_clevr_dataset.json` (photographs of two objects in
    four relations) and `coco_qa_{one,two}_obj.json`, `vg_qa_{one,two}_obj.json`.

    Of the controlled images, `pair` (a relation and its opposite) and `set` (all four) are scored too.
    """
    root = Path(root)
    questions: Questions = {}
    for name in ("controlled_images", "controlled_clevr"):
        file = root / f"{name}_dataset.json"
        if file.is_file():
            files = Files(_image_folder(root, images, (name,)))
            questions[name] = [_controlled(files, row, f"{file}: row {i}") for i, row in enumerate(_rows(file))]
    for name, folder in (("coco_qa", "val2017"), ("vg_qa", "vg_images")):
        for objects in ("one_obj", "two_obj"):
            file = root / f"{name}_{objects}.json"
            if file.is_file():
                files = Files(_image_folder(root, images, (folder,)))
                rows = enumerate(_rows(file, list))
                questions[f"{name}_{objects}"] = [
                    _triple(files, row, f"{file}: row {i}", padded=name == "coco_qa") for i, row in rows
                ]
    if not questions:
        raise InputError(
            f"{root}: none of What's Up's files (controlled_images_dataset.json, coco_qa_two_obj.json, …)."
        )
    return questions


READERS: dict[str, Callable[..., Questions]] = {
    "winoground": read_winoground,
    "mmvp": read_mmvp,
    "sugarcrepe": read_sugarcrepe,
    "aro": read_aro,
    "whatsup": read_whatsup,
}


def _winoground_parquet(path: Path) -> Iterator[Question]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        columns = [name for name in ("id", "tag", "secondary_tag", "collapsed_tag") if name in names]
        rows = pq.read_table(path, columns=[*columns, "caption_0", "caption_1"]).to_pylist()
        given = [_filled(path, column) for column in ("image_0", "image_1")]
        sources = [ParquetColumn(path, column) for column in ("image_0", "image_1")]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as Winoground's Parquet ({error}).") from None
    for i, row in enumerate(rows):
        place = f"{path}: row {i}"
        captions = _two(row, ("caption_0", "caption_1"), place, "captions")
        _two({f"image_{k}": given[k][i] for k in (0, 1)}, ("image_0", "image_1"), place, "images")
        yield _winoground(row, tuple(Picture(source, i) for source in sources), captions, default=str(i))


def _filled(path: Path, column: str) -> list[bool]:
    """Whether each row of a column of images holds one, without decoding any."""
    import pyarrow.parquet as pq

    batches = pq.ParquetFile(path).iter_batches(64, columns=[column])
    return [cell is not None and cell != {"bytes": None, "path": None} for b in batches for cell in b[0].to_pylist()]


def _winoground(
    row: Mapping[str, Any], pictures: tuple[Picture, ...], captions: tuple[str, ...], default: str
) -> Question:
    id = str(row.get("id", default))
    return Question(id, pictures, captions, str(row.get("collapsed_tag") or row.get("tag") or "all"), id)


def _visual_genome(files: Files, row: Mapping[str, Any], place: str, category: str) -> Question:
    named = row.get(category)
    kind = "_".join(map(str, named)) if isinstance(named, list) else str(named or "all")
    box = tuple(row.get(f"bbox_{key}") for key in "xywh")
    if not all(isinstance(value, int | float) for value in box):
        raise InputError(f"{place}: no box (bbox_x, bbox_y, bbox_w, bbox_h).")
    cut = (int(box[0]), int(box[1]), int(box[2]), int(box[3]))  # type: ignore[arg-type]
    return _choice(files, row, ("image_path", "true_caption", "false_caption"), place, kind, cut)


def _without_rare(questions: list[Question]) -> list[Question]:
    counts = Counter(question.category for question in questions)
    return [q if counts[q.category] >= RARE else replace(q, category=NONE) for q in questions]


def _choice(
    files: Files, row: Mapping[str, Any], keys: Sequence[str], place: str, category: str, box: Box | None = None
) -> Question:
    """A row of one image (the first key), the right caption and wrong ones."""
    name, *captions = _strings(row, keys, place)
    return Question(place, (files.picture(name, box),), tuple(captions), category, name)


def _options(files: Files, row: Mapping[str, Any], image: str, place: str, category: str) -> Question:
    """A row of one image and `caption_options`, of which the first is right."""
    (name,) = _strings(row, (image,), place)
    captions = row.get("caption_options")
    if not isinstance(captions, list) or len(captions) < 2 or not all(isinstance(c, str) and c for c in captions):
        raise InputError(f"{place}: caption_options holds no two captions or more, the right one first.")
    return Question(place, (files.picture(name),), tuple(captions), category, name)


def _controlled(files: Files, row: Mapping[str, Any], place: str) -> Question:
    """`…/mug_left_of_table.jpeg`: object, relation, object. Paths are kept by their last part."""
    (path,) = _strings(row, ("image_path",), place)
    name = path.rsplit("/", 1)[-1]
    asked = _options(files, {**row, "image_path": name}, "image_path", place, "")
    words = name.rsplit(".", 1)[0].split("_")
    if len(words) < 3:
        raise InputError(f"{place}: {name!r} does not name object_relation_object.")
    objects, relation = f"{words[0]} {words[-1]}", "_".join(words[1:-1])
    axis = "sideways" if words[1] in ("left", "right") else "other"
    within = (("pair", f"{objects} {axis}"), ("set", objects))
    return Question(place, asked.images, asked.captions, relation, objects, within)


def _triple(files: Files, row: Sequence[Any], place: str, padded: bool) -> Question:
    """`[image number, right caption, wrong caption]`; the category is the caption's relation."""
    if len(row) != 3 or not all(isinstance(caption, str) and caption for caption in row[1:]):
        raise InputError(f"{place}: expected [image, right caption, wrong caption].")
    number = str(row[0]).zfill(12) if padded else str(row[0])
    text = row[1]
    relations = ("left of", "right of", "above", "below", "front of", "behind", "on top of")
    kind = next((relation for relation in relations if relation in text), text.rstrip(".").split()[-1])
    return Question(place, (files.picture(f"{number}.jpg"),), tuple(row[1:]), kind, number)


def _two(row: Mapping[str, Any], keys: Sequence[str], place: str, what: str) -> tuple[Any, ...]:
    missing = [key for key in keys if not row.get(key)]
    if missing:
        raise InputError(
            f"{place}: no {' nor '.join(missing)}: an example has two {what}. Complete the row or remove it."
        )
    return tuple(row[key] for key in keys)


def _strings(row: Mapping[str, Any], keys: Sequence[str], place: str) -> list[str]:
    for key in keys:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise InputError(f"{place}: {key!r} is missing, or no text.")
    return [row[key] for key in keys]


def _rows(file: Path, kind: type = dict) -> list[Any]:
    rows = read_json(file)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, kind) for row in rows):
        raise InputError(f"{file}: expected a JSON list of {'objects' if kind is dict else 'lists'}.")
    return rows


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for line, text in enumerate(_text(file).splitlines(), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise InputError(f"{file}: line {line} cannot be read as JSON ({error}).") from None
        if not isinstance(row, dict):
            raise InputError(f"{file}: line {line} is not a JSON object, {{…}}.")
        yield row


def _csv_rows(file: Path, columns: Iterable[str]) -> Iterator[dict[str, str]]:
    reader = csv.DictReader(_text(file).splitlines(), strict=True)
    for column in columns:
        if column not in (reader.fieldnames or ()):
            raise InputError(f"{file}: no column {column!r}; its columns are {', '.join(reader.fieldnames or ())}.")
    for row in reader:
        if any(not row[column] for column in columns):
            raise InputError(f"{file}: line {reader.line_num}: {', '.join(columns)} must all be filled in.")
        yield row


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({error}).") from None


def _found(root: Path, names: Sequence[str], what: str) -> Path:
    if root.is_file():
        return root
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root}: no {' nor '.join(names)} ({what}).")


def _image_folder(root: Path, given: str | Path | None, names: Sequence[str]) -> Path:
    """The folder of images: the one given, else the first of `names` that exists."""
    for folder in [Path(given)] if given is not None else [root / name for name in names]:
        if folder.is_dir():
            return folder
    looked = str(given) if given is not None else f"{root}: no {' nor '.join(f'{name}/' for name in names)}"
    zipped = " Unpack images.zip." if (root / "images.zip").is_file() else ""
    raise InputError(f"{looked} with the images.{zipped} Name their folder with --images.")


def _with_ending(folder: Path, name: str) -> str:
    """`name` with the ending its file has in `folder`; `.png`, the original's, where there is none."""
    if name.lower().endswith(EXTENSIONS):
        return name
    return name + next((ending for ending in (".png", *EXTENSIONS) if (folder / (name + ending)).is_file()), ".png")
