"""Other languages: retrieval and classification in each, and whether the text encoder can read them at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from isthmus.data.columns import Columns
from isthmus.data.pairs import Pairs, pairs_from_lists, read_pairs
from isthmus.data.tables import Frame
from isthmus.encoders.lengths import tokenize
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.evaluation.datasets import multi30k, xm3600, xtd10
from isthmus.evaluation.datasets.languages import CaptionsByLanguage
from isthmus.evaluation.datasets.multi30k import read_multi30k
from isthmus.evaluation.datasets.xm3600 import read_xm3600
from isthmus.evaluation.datasets.xtd10 import read_xtd10
from isthmus.evaluation.inputs import Data, Embedded, Given, embed_for_evaluation, named, opened
from isthmus.evaluation.longtext import without_features
from isthmus.evaluation.retrieval import COLUMNS as RETRIEVAL
from isthmus.evaluation.tasks import task
from isthmus.evaluation.zeroshot import COLUMNS as ZEROSHOT
from isthmus.files import read_json
from isthmus.metrics.results import Result, result
from isthmus.metrics.retrieval import retrieval
from isthmus.metrics.zeroshot import class_embeddings, zeroshot
from isthmus.store.opening import read_first

UNNAMED = "en"  # the language of captions without one, as in CLIP_benchmark
UNREADABLE = 0.5  # share of unknown tokens above which a language is refused
DOUBTFUL = 0.1  # share above which there is a remark
# Below so many characters per token, words are spelled letter by letter; in the scripts of DENSE half as many.
SPELLED = 1.6
DENSE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")  # kana, Han, Hangul: a character carries more


@task(primary="mean_recall@1", columns=(*RETRIEVAL, *ZEROSHOT))
def multilingual(
    model: Given,
    data: Data,
    *,
    images: str | Path | None = None,
    languages: Sequence[str] | None = None,
    classes: str | Path | None = None,
    split: str | None = None,
    columns: str | Columns | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Retrieval in every language of XTD-10, Multi30k, XM3600 or of pairs with `lang`; classification with `classes`.

    A language's candidates are the images and captions of that language. Each result says how well the tokenizer knows
    the language: `unknown_tokens` (share) and `characters_per_token` (see `reading`).

    Args:
        languages: only these.
        classes: a folder of LANG.json, {"templates": ["ein Bild von {}"], "classes": {"label": "name"}}: also classify
            the images' labels in those languages.
        split: of Multi30k (test_2016_flickr) or of pairs.

    Raises UsageError for a language that is not there; InputError if the tokenizer does not know one of `languages`, or
    any language at all: more than half of the tokens are unknown. Without `languages`, unknown ones are skipped.
    """
    if columns is not None or pages is not None or range is not None:  # `images` alone may belong to a set
        data = read_first(data, columns=columns, images=images, pages=pages, range=range)
    model, name = opened(model)
    source = without_features(data)
    if isinstance(source, Pairs):
        pairs = source if split is None else source.filter(split=split)
    else:
        pairs = read_multilingual(source, images=images, split=split)
    namings = _namings(classes)
    there = sorted({lang or UNNAMED for lang in pairs.captions["lang"].unique().to_pylist()} | set(namings))
    _check_languages(languages or (), there, named(data))
    embedded = embed_for_evaluation(model, pairs, unseen=unseen)
    kept = pairs.captions.filter(pc.is_in(pairs.captions["id"], pa.array(embedded.image_ids)))
    langs = np.array([lang or UNNAMED for lang in kept["lang"].to_pylist()], object)
    origin = {"dataset": named(data), "model": name}
    options: dict[str, Any] = {"bootstrap": bootstrap, "seed": seed}
    results, refused = [], []
    for lang in languages or there:
        rows = np.flatnonzero(langs == lang)
        texts: list[str] = [
            *(np.array(embedded.captions or [], object)[rows]),
            *namings.get(lang, {}).get("classes", {}).values(),
        ]
        facts = reading(model, texts)
        problem = unreadable(model, lang, facts)
        if problem:
            refused.append((lang, problem))
            continue
        found = [("zeroshot_retrieval", _retrieve(embedded, rows, options))] if len(rows) else []
        if lang in namings:
            found.append(("zeroshot_classification", _classify(model, embedded, namings[lang], options)))
        notes = embedded.seen | {"reading": facts, "notes": [note] if (note := _note(lang, facts)) else []}
        results += [result(one | notes, task=task, language=lang, **origin) for task, one in found]
    if refused and (languages or not results):
        raise InputError(refused[0][1])
    if not results:
        raise InputError(f"{named(data)}: no captions in any language, and no class names (--classes) either.")
    results[0]["notes"] = embedded.notes + results[0]["notes"]
    results[-1]["skipped"] = [*embedded.skipped, *refused]
    return results


def _check_languages(languages: Sequence[str], there: Sequence[str], data: str) -> None:
    """UsageError for a language without captions."""
    for language in languages:
        if language not in there:
            raise UsageError(f"{data}: no captions in {language!r}." + did_you_mean(language, there))


def read_multilingual(root: Frame | str | Path, *, images: str | Path | None = None, split: str | None = None) -> Pairs:
    """Pairs whose captions carry a `lang`, from a folder in the layout of XTD-10, Multi30k or XM3600
    (`isthmus.evaluation.datasets`), or from whatever `read_pairs` reads.

    images: their folder; default: the places each set names. split: of Multi30k, or of pairs. Languages are named by
    ISO codes (XTD-10's jp is ja). Raises InputError naming file and line.
    """
    if not isinstance(root, str | Path):
        return read_pairs(root, split=split, captions="optional", images=images)
    root = Path(root)
    for read, folders in (
        (read_xtd10, xtd10.IMAGES),
        (read_multi30k, multi30k.IMAGES),
        (read_xm3600, xm3600.IMAGES),
    ):
        captions = read(root, split)
        if captions is not None:
            return _pairs(captions, _folders(root, images, folders))
    return read_pairs(root, split=split, captions="optional", images=images)


def _pairs(captions: CaptionsByLanguage, folders: Sequence[Path]) -> Pairs:
    """The images, wherever in `folders` they are, with every caption and its language."""
    paths = [next((f / name for f in folders if (f / name).is_file()), folders[0] / name) for name in captions]
    texts = [[text for several in of.values() for text in several] for of in captions.values()]
    langs = [[lang for lang, several in of.items() for _ in several] for of in captions.values()]
    return pairs_from_lists(paths, texts, ids=list(captions), langs=langs)


def _folders(root: Path, given: str | Path | None, names: Sequence[str]) -> list[Path]:
    return [Path(given)] if given is not None else [root / name for name in names if (root / name).is_dir()]


def reading(model: Any, texts: Sequence[str]) -> dict[str, float] | None:
    """How well the tokenizer knows the texts: share of unknown tokens, and characters (without spaces) per token. None
    if the tokenizer is not accessible. Of several text encoders, the best one counts.
    """
    seen = [(e, tokenize(e, texts)) for e in getattr(model, "encoders", {}).get("text", [])]
    facts = []
    for _, tokens in seen:
        if tokens is None:
            return None
        words = max(1, int((tokens.count - tokens.special).sum()))
        characters = sum(len("".join(text.split())) for text in texts)
        facts.append({"unknown_tokens": int(tokens.unknown.sum()) / words, "characters_per_token": characters / words})
        facts[-1]["dense_script"] = sum(len(DENSE.findall(text)) for text in texts) / max(1, characters)
    return min(facts, key=lambda f: f["unknown_tokens"]) if facts else None


def unreadable(model: Any, lang: str, facts: dict[str, float] | None) -> str | None:
    """Why `lang` cannot be evaluated, if the tokenizer knows next to nothing of it."""
    if facts is None or facts["unknown_tokens"] <= UNREADABLE:
        return None
    uris = ", ".join(str(encoder.uri) for encoder in model.encoders["text"])
    return (
        f"{lang}: {100 * facts['unknown_tokens']:.0f} % of the tokens of its texts are unknown to {uris}. Leave it out "
        "with --languages, or train with a multilingual text encoder (docs/guide/encoders.md)."
    )


def _note(lang: str, facts: dict[str, float] | None) -> str | None:
    if facts is None:
        return None
    if facts["unknown_tokens"] > DOUBTFUL:
        return f"{lang}: {100 * facts['unknown_tokens']:.0f} % of the tokens are unknown to the text encoder."
    spelled = facts["characters_per_token"]
    if spelled < SPELLED * (0.5 if facts["dense_script"] > 0.5 else 1):
        return f"{lang}: {spelled:.1f} characters per token: the tokenizer spells its words and was not made for it."
    return None


def _retrieve(embedded: Embedded, rows: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    """Retrieval among the captions `rows` and their images."""
    kept, image_of = np.unique(embedded.image_of[rows], return_inverse=True)
    image, groups = embedded.image[kept], embedded.groups[kept]
    return retrieval(image, embedded.text[rows], image_of, groups=groups, **options)


def _classify(model: Any, embedded: Embedded, naming: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Classification of the images whose label the language's file names."""
    classes = naming["classes"]
    labels = embedded.labels or []
    rows = np.array([row for row, label in enumerate(labels) if label in classes], np.int64)
    if not len(rows):
        raise InputError(f"{naming['file']}: names none of the images' labels ({', '.join(map(str, labels[:3]))}, …).")
    number = {label: i for i, label in enumerate(classes)}
    emb = class_embeddings(model.encode_text, list(classes.values()), naming["templates"])
    truth = np.array([number[str(labels[row])] for row in rows])
    groups = embedded.groups[rows]
    return zeroshot(embedded.image[rows], emb, truth, classnames=list(classes), groups=groups, **options)


def _namings(classes: Any) -> dict[str, dict[str, Any]]:
    """{language: {"templates", "classes", "file"}} of a folder of LANG.json."""
    if classes is None:
        return {}
    files = sorted(Path(classes).glob("*.json"))
    if not files:
        raise InputError(f"{classes}: no files LANG.json with templates and class names.")
    return {file.stem: {**_naming(read_json(file), file), "file": str(file)} for file in files}


def _naming(value: Any, file: Path) -> dict[str, Any]:
    templates = value.get("templates") if isinstance(value, dict) else None
    classes = value.get("classes") if isinstance(value, dict) else None
    if not isinstance(templates, list) or not isinstance(classes, dict) or not classes:
        raise InputError(f'{file}: expected {{"templates": ["ein Bild von {{}}"], "classes": {{"label": "name"}}}}.')
    if not all(isinstance(text, str) and text.strip() for text in [*templates, *classes.values()]):
        raise InputError(f"{file}: templates and names are texts, none of them empty.")
    return {"templates": templates, "classes": classes}
