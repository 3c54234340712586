"""Long captions and other languages: public layouts in miniature, token limits truly lifted, languages refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from isthmus import load_encoder
from isthmus.cli import main
from isthmus.data.pairs import Pairs, pairs_from_lists
from isthmus.encoders.base import Inputs
from isthmus.encoders.callables import CallableEncoder, from_callable
from isthmus.encoders.lengths import token_ceiling, token_limit, tokenize, with_max_tokens
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.longtext import by_length, longtext, read_longtext
from isthmus.evaluation.multilingual import multilingual, read_multilingual
from isthmus.metrics.retrieval import Ranks
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from isthmus.projectors.blocks import set_linear

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}
GERMAN = {"red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb"}
KNOWN = [*COLOURS, *GERMAN.values(), "filler", "a", "ein", "thing", "ding"]


class Words(CallableEncoder):
    """A tokenizer of whole words and a network that looks for colours in the first `max_tokens` of them."""

    unknown_id = 0

    def __init__(self, max_tokens: int = 40, position_limit: int | None = 64) -> None:
        self.max_tokens, self.position_limit = max_tokens, position_limit
        super().__init__(EncoderURI("callable", "words"), "text", lambda items: items, "words-1", 3)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [[KNOWN.index(word) + 1 if word in KNOWN else 0 for word in text.split()] for text in texts]

    def preprocess(self, items: Sequence[str]) -> Inputs:
        return {"items": [" ".join(text.split()[: self.max_tokens]) for text in items]}

    def forward(self, inputs: Inputs, layers: bool) -> Any:
        names = COLOURS | {GERMAN[name]: value for name, value in COLOURS.items()}
        rows = [np.sum([names.get(word, (1, 1, 1)) for word in text.split()], axis=0) for text in inputs["items"]]
        self._fn = lambda _: np.array(rows, np.float32)
        return super().forward(inputs, layers)


def model(text: Any = None) -> DualEncoder:
    """Mean colours against colour words, through heads that change nothing."""

    def head() -> Any:
        made = build_projector("linear", [3], 3, norm="none")
        with torch.no_grad():
            set_linear(made.blocks[0].get_submodule("linear"), torch.eye(3), torch.zeros(3))
        return made

    image = from_callable(
        lambda images: np.stack([np.asarray(i, np.float32).mean((0, 1)) + 1 for i in images]), "image", "mean", width=3
    )
    encoders = {"image": [image], "text": [text or Words()]}
    records = {modality: [encoder.record() for encoder in some] for modality, some in encoders.items()}
    return DualEncoder(head(), head(), scale=1.0, records=records, encoders=encoders)


def paint(path: Path, colour: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), COLOURS[colour]).save(path)
    return path


def long_pairs(folder: Path, behind: int) -> Pairs:
    """Four pictures; the word that tells stands behind so many that do not."""
    images = [paint(folder / f"{colour}.png", colour) for colour in COLOURS]
    return pairs_from_lists(images, ["filler " * behind + f"{colour} {colour}" for colour in COLOURS])


# --- lengths of texts -------------------------------------------------------------------------------------------


def test_lifting_the_limit_is_loading_with_another(wheel_cache: Callable[[str], Path]) -> None:
    wheel_cache("minilm-l6")
    short, other = load_encoder("wheel:minilm-l6"), load_encoder("wheel:minilm-l6?max_tokens=300")
    lifted = with_max_tokens(short, 300)
    text = ["cat " * 280 + "dog " * 10]
    assert (token_limit(short), token_ceiling(short), token_limit(lifted)) == (256, 512, 300)
    assert lifted.fingerprint == other.fingerprint != short.fingerprint
    assert np.array_equal(lifted.encode(text), other.encode(text))
    assert not np.allclose(lifted.encode(text), short.encode(text), atol=1e-4)
    assert np.array_equal(short.encode(text), load_encoder("wheel:minilm-l6").encode(text))  # as it was
    with pytest.raises(UsageError, match="from 3 to 512, not 600: the model has no more positions"):
        with_max_tokens(short, 600)


def test_tokens_are_counted_uncut_and_unknown_ones_told(wheel_cache: Callable[[str], Path]) -> None:
    wheel_cache("minilm-l6")
    encoder = load_encoder("wheel:minilm-l6")
    tokens = tokenize(encoder, ["a cat", "cat " * 400, "\u1320\u1228"])  # Amharic is not in its vocabulary
    assert tokens is not None and tokens.special == 2
    assert tokens.count.tolist()[:2] == [4, 402] and tokens.unknown.tolist() == [0, 0, 1]
    callable_one = from_callable(lambda texts: np.ones((len(texts), 2)), "text", "ones", width=2)
    assert tokenize(callable_one, ["a"]) is None
    with pytest.raises(UsageError, match="cannot be set"):
        with_max_tokens(callable_one, 10)


# --- long captions ----------------------------------------------------------------------------------------------


def test_what_stands_behind_the_cut_is_not_read(tmp_path: Path) -> None:
    results = longtext(model(), long_pairs(tmp_path, behind=20), bootstrap=0)
    assert [one["max_tokens"] for one in results] == [16, 22]
    assert [one["truncated"] for one in results] == [4, 0]
    assert [one["metrics"]["image_retrieval_recall@1"] for one in results] == [1 / 4, 1.0]  # one guess for all
    assert "notes" in results[-1] and results[-1]["notes"] == []


def test_a_limit_is_lifted_as_far_as_the_positions_go_and_said(tmp_path: Path) -> None:
    """Trained with 18, 30 positions, captions of 42 tokens: all are still cut, and the remark says so."""
    results = longtext(model(Words(18, 30)), long_pairs(tmp_path, behind=40), bootstrap=0)
    last = results[-1]
    assert last["max_tokens"] == 30 and last["truncated"] == 4
    assert last["metrics"]["image_retrieval_recall@1"] == 1 / 4
    assert any("limit of 18 tokens" in note and "lifted to 30" in note for note in last["notes"])
    assert any("4 of 4 captions are cut at 30 tokens (the encoder has no more positions)" in n for n in last["notes"])
    endless = longtext(model(Words(18, None)), long_pairs(tmp_path, behind=40), bootstrap=0)[-1]
    assert endless["max_tokens"] == 42 and endless["metrics"]["image_retrieval_recall@1"] == 1
    with pytest.raises(UsageError, match="no more positions"):
        longtext(model(Words(18, 30)), long_pairs(tmp_path, behind=40), max_tokens=31)


@pytest.mark.parametrize("task", [longtext, multilingual])
def test_a_store_of_features_is_told_that_captions_are_read(tmp_path: Path, task: Callable[..., Any]) -> None:
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(InputError, match="holds features; this task reads captions"):
        task(model(), tmp_path)


def test_recall_by_length_is_that_of_the_captions_in_each_bin() -> None:
    ranks = np.where(np.arange(100) < 50, 1.0, 20.0)
    found = by_length(Ranks(ranks, ranks, np.arange(100), 100), np.arange(100) + 10, bins=2)
    assert [row["image_retrieval_recall@1"] for row in found] == [1.0, pytest.approx(0.0, abs=0.03)]
    assert found[0]["tokens"][0] == 10 and found[-1]["tokens"][1] == 109 and sum(row["n"] for row in found) == 100


def test_urban1k_layout(tmp_path: Path) -> None:
    for colour in COLOURS:
        paint(tmp_path / "image" / f"{colour}.jpg", colour)
        (tmp_path / "caption").mkdir(exist_ok=True)
        (tmp_path / "caption" / f"{colour}.txt").write_text(f"a {colour} thing\nnot read\n")
    pairs = read_longtext(tmp_path)
    assert pairs.captions["caption"].to_pylist()[0] == "a blue thing"
    assert longtext(model(), tmp_path, bootstrap=0)[-1]["metrics"]["mean_recall@1"] == 1


def test_docci_layout(tmp_path: Path) -> None:
    rows = []
    for i, colour in enumerate(COLOURS):
        name = f"test_{i:05d}.jpg"
        paint(tmp_path / "images" / name, colour)
        split = "test" if i < 3 else "qual_dev"
        rows.append({"example_id": name[:-4], "split": split, "image_file": name, "description": f"a {colour} thing"})
    (tmp_path / "docci_descriptions.jsonlines").write_text("\n".join(map(json.dumps, rows)))
    assert len(read_longtext(tmp_path)) == 3 and len(read_longtext(tmp_path, split="qual_dev")) == 1
    with pytest.raises(InputError, match="no image of split 'val'; splits are: qual_dev, test"):
        read_longtext(tmp_path, split="val")
    assert longtext(model(), tmp_path, bootstrap=0)[-1]["metrics"]["mean_recall@1"] == 1
    (tmp_path / "docci_descriptions.jsonlines").write_text('{"split": "test"}\n')
    with pytest.raises(InputError, match="line 1 is not a description in DOCCI's"):
        read_longtext(tmp_path)


def test_dci_layout_words_the_caption_as_its_own_loader(tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "sa_1.jpg", "red")
    masks = {
        "0": {"mask_quality": 0, "label": "roof", "caption": "a red roof"},
        "1": {"mask_quality": 1, "label": "wall", "caption": ""},
        "2": {"mask_quality": 2, "label": "noise", "caption": "none"},
    }
    entry = {"image": "sa_1.jpg", "short_caption": "A house.", "extra_caption": "It is red.", "mask_data": masks}
    (tmp_path / "complete").mkdir()
    (tmp_path / "complete" / "1.json").write_text(json.dumps(entry))
    (caption,) = read_longtext(tmp_path).captions["caption"].to_pylist()
    assert caption == "A house.\nIt is red.\nThe following can also be seen in the image:\nroof: a red roof\nwall"
    del entry["extra_caption"]
    (tmp_path / "complete" / "1.json").write_text(json.dumps(entry))
    with pytest.raises(InputError, match=r"1\.json: is not a description in DCI's"):
        read_longtext(tmp_path)


def test_the_page_of_long_captions_shows_the_curve(tmp_path: Path) -> None:
    longtext(model(), long_pairs(tmp_path, behind=20), report=tmp_path / "page.html", bootstrap=50)
    page = (tmp_path / "page.html").read_text()
    assert "<svg" in page and "captions cut" in page and "100.0 [39.8, 100.0]" in page


# --- languages --------------------------------------------------------------------------------------------------


def xtd_folder(root: Path) -> Path:
    """English is read, German is read but its green and blue are swapped, the third language is unknown."""
    for i, colour in enumerate(COLOURS):
        paint(root / "images" / f"COCO_val2014_{i:012d}.png", colour)
    (root / "XTD10").mkdir()
    (root / "XTD10" / "test_image_names.txt").write_text("\n".join(f"COCO_val2014_{i:012d}.png" for i in range(4)))
    texts = {
        "MIC/test_1kcaptions_en.txt": [f"a {colour} thing" for colour in COLOURS],
        "MIC/test_1kcaptions_de.txt": ["ein rot ding", "ein blau ding", "ein grün ding", "ein gelb ding"],
        "STAIR/test_1kcaptions_jp.txt": ["赤いもの", "緑のもの", "青いもの", "黄色いもの"],
    }
    for name, lines in texts.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_xtd10_layout_and_a_table_per_language(tmp_path: Path) -> None:
    results = multilingual(model(), xtd_folder(tmp_path), bootstrap=0)
    assert {one["language"]: one["metrics"]["image_retrieval_recall@1"] for one in results} == {"en": 1.0, "de": 0.5}
    assert results[-1]["skipped"][0][0] == "ja" and "100 % of the tokens" in results[-1]["skipped"][0][1]


def test_a_language_the_tokenizer_does_not_know_is_refused_by_name(tmp_path: Path) -> None:
    folder = xtd_folder(tmp_path)
    with pytest.raises(InputError, match=r"ja: 100 % of the tokens of its texts are unknown to callable:words"):
        multilingual(model(), folder, languages=["en", "ja"])
    with pytest.raises(UsageError, match="no captions in 'fr'"):
        multilingual(model(), folder, languages=["fr"])


def test_a_language_that_is_spelled_letter_by_letter_is_remarked(wheel_cache: Callable[[str], Path]) -> None:
    """MiniLM knows every Cyrillic letter and hardly a Russian word: nothing is unknown, and nothing understood."""
    wheel_cache("minilm-l6")
    from isthmus.evaluation.multilingual import _note, reading

    read = model(load_encoder("wheel:minilm-l6"))
    english, russian = reading(read, ["a cat sits on a tree"]), reading(read, ["кошка сидит на дереве"])
    assert english is not None and russian is not None
    assert english["unknown_tokens"] == russian["unknown_tokens"] == 0
    assert _note("en", english) is None
    assert "the tokenizer spells its words" in str(_note("ru", russian))


def test_multi30k_layout(tmp_path: Path) -> None:
    task = tmp_path / "data" / "task1"
    (task / "raw").mkdir(parents=True)
    (task / "image_splits").mkdir()
    names = [paint(tmp_path / "flickr30k-images" / f"{i}.png", colour).name for i, colour in enumerate(COLOURS)]
    (task / "image_splits" / "test_2016_flickr.txt").write_text("\n".join(names) + "\n")
    for lang, words in (("en", COLOURS), ("de", GERMAN.values())):
        text = "\n".join(f"a {word} thing" for word in words) + "\n"
        (task / "raw" / f"test_2016_flickr.{lang}.gz").write_bytes(gzip.compress(text.encode()))
    results = multilingual(model(), tmp_path, bootstrap=0)
    assert [(one["language"], one["metrics"]["mean_recall@1"]) for one in results] == [("de", 1.0), ("en", 1.0)]
    (task / "raw" / "test_2016_flickr.de.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    with pytest.raises(InputError, match=r"test_2016_flickr\.de\.gz: 2 captions for the 4 images"):
        read_multilingual(tmp_path)
    with pytest.raises(InputError, match="splits are: test_2016_flickr"):
        read_multilingual(tmp_path, split="test_2018")


def test_xm3600_layout(tmp_path: Path) -> None:
    rows = []
    for i, colour in enumerate(COLOURS):
        paint(tmp_path / "images" / f"{i:016x}.jpg", colour)
        said = {"en": [f"a {colour} thing", f"{colour}"], "de": [f"ein {GERMAN[colour]} ding"]}
        captions = {lang: {"caption": texts, "caption/tokenized": texts} for lang, texts in said.items()}
        rows.append({"image/key": f"{i:016x}", "image/locale": "en", **captions})
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    results = {one["language"]: one for one in multilingual(model(), tmp_path, bootstrap=0)}
    assert results["en"]["n"]["texts"] == 8 and results["de"]["n"]["texts"] == 4
    assert all(one["metrics"]["text_retrieval_recall@1"] == 1 for one in results.values())


def test_classification_in_each_language_that_a_file_names(tmp_path: Path) -> None:
    table = tmp_path / "pairs.jsonl"
    rows = [{"image": paint(tmp_path / f"{c}.png", c).name, "caption": f"a {c} thing", "label": c} for c in COLOURS]
    table.write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "classes"
    folder.mkdir()
    wrong = {"red": "rot", "green": "blau", "blue": "grün", "yellow": "gelb"}
    for lang, names in (("en", {c: c for c in COLOURS}), ("de", wrong)):
        templates = ["a {} thing" if lang == "en" else "ein {} ding"]
        (folder / f"{lang}.json").write_text(json.dumps({"templates": templates, "classes": names}))
    results = multilingual(model(), table, classes=folder, bootstrap=0)
    found = {(one["language"], one["task"]): one["metrics"] for one in results}
    assert found["en", "zeroshot_classification"]["acc1"] == 1 and found["de", "zeroshot_classification"]["acc1"] == 0.5
    assert found["en", "zeroshot_retrieval"]["mean_recall@1"] == 1 and ("de", "zeroshot_retrieval") not in found
    table.write_text("\n".join(json.dumps({k: v for k, v in row.items() if k != "caption"}) for row in rows))
    assert [one["task"] for one in multilingual(model(), table, classes=folder)] == ["zeroshot_classification"] * 2
    with pytest.raises(InputError, match="no captions in any language, and no class names"):
        multilingual(model(), table)
    (folder / "de.json").write_text("[]")
    with pytest.raises(InputError, match=r"de\.json: expected"):
        multilingual(model(), table, classes=folder)
    with pytest.raises(InputError, match=r"no files LANG\.json"):
        multilingual(model(), table, classes=tmp_path)


def test_the_command_line_shows_a_line_per_language(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.evaluation.multilingual.opened", lambda given: (model(), "colours"))
    assert main(["eval", ".", "multilingual", str(xtd_folder(tmp_path))]) == 3
    shown = capsys.readouterr().out
    assert "language" in shown and "skipped ja" in shown
    assert main(["eval", ".", "multilingual", str(tmp_path), "--languages", "en,de"]) == 0
    assert main(["eval", ".", "multilingual", str(tmp_path), "--languages", "ja"]) == 1
