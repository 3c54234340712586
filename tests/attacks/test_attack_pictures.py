"""One picture that fails, in whatever way and at whichever door, is named or listed, and spoils no other."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import isthmus as ist
from isthmus.cli import main
from isthmus.curation.cleaning import Cleaning
from isthmus.curation.prototypes import Prototypes
from isthmus.data import budget
from isthmus.data.budget import Budget
from isthmus.data.images import BadImage
from isthmus.encoders import Encoder, pictures
from isthmus.encoders.base import Inputs, Output
from isthmus.encoders.uri import EncoderURI
from isthmus.errors import InputError, UsageError
from toys import picture, pixel_encoder, png, word_encoder, write_pairs

ODD = (77, 55)
ERRORS = [MemoryError(), ValueError("odd"), RuntimeError("can't allocate memory"), ZeroDivisionError()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ist.DualEncoder:
    folder = tmp_path_factory.mktemp("pictures")
    return ist.train(
        ist.embed(write_pairs(folder / "d"), pixel_encoder(), word_encoder(), out=folder / "s"), recipe="cca"
    )


def choosy(model: ist.DualEncoder, error: Exception) -> ist.DualEncoder:
    """The model, whose image encoder fails on a picture of 77 × 55."""
    encoder = pixel_encoder()
    own = encoder._fn  # type: ignore[attr-defined]

    def fails(images: Sequence[Image.Image]) -> Any:
        if any(image.size == ODD for image in images):
            raise error
        return own(images)

    encoder._fn = fails  # type: ignore[attr-defined]
    model.encoders = {"image": [encoder], "text": [word_encoder()]}
    return model


def odd_pairs(folder: Path) -> Path:
    """Pairs, of which the fourth is of 77 × 55 pixels, and the seventh is no picture."""
    table = write_pairs(folder, copies=2)
    (folder / "0-003.png").write_bytes(png(Image.new("RGB", ODD, (10, 200, 30))))
    (folder / "0-006.png").write_bytes(b"no picture")
    return table


@pytest.mark.parametrize("error", ERRORS)
def test_encode_image_names_the_image_or_lists_it(tmp_path: Path, trained: ist.DualEncoder, error: Exception) -> None:
    model = choosy(trained, error)
    table = odd_pairs(tmp_path / "d")
    paths = sorted(table.parent.glob("0-*.png"))[:10]
    paths.insert(2, tmp_path / "missing.png")
    with pytest.raises(InputError, match=r"missing\.png: no such file"):
        model.encode_image(paths)
    with pytest.raises(InputError, match=r"0-003\.png: (cannot be encoded|it takes more memory)"):
        model.encode_image([paths[0], paths[4]])
    skipped: list[tuple[int, str]] = []
    found = model.encode_image(paths, skipped=skipped, batch_size=4)
    assert [row for row, _ in skipped] == [2, 4, 7] and found.shape == (11, model.width)
    good = [row for row in range(11) if row not in (2, 4, 7)]
    assert np.isnan(found[[2, 4, 7]]).all()
    assert np.allclose(found[good], model.encode_image([paths[row] for row in good]), atol=1e-6)
    codes = model.encode_image(paths, skipped=[], precision="int8")
    assert not codes[[2, 4, 7]].any() and codes[good].any(axis=1).all()
    with pytest.raises(InputError, match="image 1: "):
        model.encode_image([png(Image.new("RGB", (8, 8))), b"no picture"])
    assert model.encode_image([]).shape == (0, model.width)


def test_pictures_that_are_encoded_are_few_at_a_time(trained: ist.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    model = choosy(trained, ValueError())
    images = [picture("red", "pale", "top", seed) for seed in range(9)]
    whole = model.encode_image(images)
    monkeypatch.setattr(pictures, "BATCH_BYTES", 1)
    counts: list[int] = []
    encode = ist.DualEncoder._encode

    def watched(self: Any, modality: str, items: list[Any], batch_size: int) -> Any:
        counts.append(len(items))
        return encode(self, modality, items, batch_size)

    monkeypatch.setattr(ist.DualEncoder, "_encode", watched)
    assert np.allclose(model.encode_image(images), whole, atol=1e-6) and counts == [1] * 9


@pytest.mark.parametrize("error", ERRORS)
def test_search_lists_the_image_and_goes_on(
    tmp_path: Path, trained: ist.DualEncoder, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = choosy(trained, error)
    table = odd_pairs(tmp_path / "d")
    found = ist.search(model, table, "a dark red square", k=500)
    assert sorted(id for id, _ in found.skipped) == ["0-003.png", "0-006.png"] and len(found.hits) == 126
    monkeypatch.setattr("isthmus.models.dual_encoder.DualEncoder.from_pretrained", lambda *a, **k: model)
    assert main(["search", ".", str(table), "red", "--out", str(tmp_path / "s.png")]) == 3
    assert "skipped 0-003.png: " in capsys.readouterr().err


def test_evaluation_and_curation_list_it_too(tmp_path: Path, trained: ist.DualEncoder) -> None:
    model = choosy(trained, MemoryError())
    table = odd_pairs(tmp_path / "d")
    for task in ("retrieval", "zeroshot", "diagnose"):
        found: Any = ist.evaluate(model, task, table, bootstrap=0)
        assert sorted(id for id, _ in found["skipped"]) == ["0-003.png", "0-006.png"], task
    concepts = Prototypes(["x"], {"image": np.ones((1, 108), np.float32)}, "x")
    encoder = model.encoders["image"][0]
    chosen = ist.curate(table, concepts, encoder=encoder, per_concept=999)
    assert sorted(id for id, _ in chosen.manifest["skipped"]) == ["0-003.png", "0-006.png"]
    assert not {"0-003.png", "0-006.png"} & set(chosen.ids) and len(chosen) == 62
    cleaned = ist.curate(table, cleaning=Cleaning(dedup=("embedding",), near=1.0), encoder=encoder)
    assert sorted(id for id, _ in cleaned.manifest["skipped"]) == ["0-003.png", "0-006.png"]


def test_a_wrong_call_is_of_no_image(trained: ist.DualEncoder) -> None:
    with pytest.raises(UsageError, match="odd call"):
        choosy(trained, UsageError("odd call")).encode_image([Image.new("RGB", ODD)], skipped=[])


# --- one budget for decoding and preprocessing ------------------------------------------------------------------------


class Wide(Encoder):
    """An encoder that sees pictures of 1024 × 1024 pixels."""

    def __init__(self) -> None:
        super().__init__(EncoderURI("hf", "wide"), "image", nn.AvgPool2d(256), {"weights": "none"}, pools=("mean",))

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        small = [np.asarray(item.convert("RGB").resize((1024, 1024))) for item in items]
        return {"pixels": torch.stack([torch.tensor(one).permute(2, 0, 1) / 255 for one in small])}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        return Output(tokens=self.network(inputs["pixels"]).flatten(2).transpose(1, 2))


@pytest.fixture(scope="module")
def wide() -> Wide:
    return Wide()


def test_a_picture_is_measured_by_the_size_of_its_encoder(tmp_path: Path, wide: Wide) -> None:
    assert wide.side == 1024
    long = Image.new("RGB", (9_000, 90))
    with pytest.raises(BadImage, match=r"9000 × 90 pixels: made ready for this encoder, it takes 1,2"):
        wide.encode([long])
    assert pixel_encoder().encode([long]).shape == (1, 108)
    with pytest.raises(BadImage, match="200 times the other"):
        pixel_encoder().encode([np.zeros((201, 1, 3), np.uint8)])
    table = write_pairs(tmp_path / "d", copies=1)
    (table.parent / "0-003.png").write_bytes(png(long))
    lines = table.read_text().splitlines()[:6]
    table.write_text("\n".join(lines))
    done = ist.embed(table, wide, word_encoder(), out=tmp_path / "s", max_skip=1)
    assert done.skipped["id"].to_pylist() == ["0-003.png"] and len(done) == 5
    assert "made ready for this encoder" in done.skipped["reason"][0].as_py()


def test_an_encoder_that_makes_squares_is_measured_by_them(wide: Wide) -> None:
    wide.pads = True
    try:
        with pytest.raises(BadImage, match="made ready"):
            wide.encode([Image.new("RGB", (12_000, 900))])
    finally:
        wide.pads = False


def test_preprocessing_shares_the_budget_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = pixel_encoder()
    image = Image.new("RGB", (300, 300))
    each = budget.resized_bytes(image)
    monkeypatch.setattr(budget.PICTURES, "size", 2 * each)
    most: list[int] = []
    preprocess = type(encoder).preprocess

    def watched(self: Any, items: Any) -> Any:
        most.append(budget.PICTURES.taken)
        time.sleep(0.01)
        return preprocess(self, items)

    monkeypatch.setattr(type(encoder), "preprocess", watched)
    threads = [threading.Thread(target=encoder.encode, args=([image],)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(most) == 12 and each <= max(most) <= 2 * each and budget.PICTURES.taken == 0


def test_a_thread_that_holds_some_of_a_budget_waits_for_no_other() -> None:
    held = Budget(100)
    done = []

    def work() -> None:
        with held.taking(60):
            time.sleep(0.01)
            with held.taking(60):
                done.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(done) == 8 and held.taken == 0
    with held.taking(100):
        pass


def test_segmentation_lists_an_image_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from isthmus.segmentation import Segmenter
    from test_segmentation import colour_model, write_folder

    folder = write_folder(tmp_path / "d")
    failing = sorted((folder / "images").rglob("*.png"))[1]
    size = Image.open(failing).size
    scores, calls = Segmenter.scores, []

    def scarce(self: Any, image: Image.Image) -> Any:
        calls.append(image.size)
        if len(calls) == 2:
            raise MemoryError
        return scores(self, image)

    monkeypatch.setattr(Segmenter, "scores", scarce)
    found: Any = ist.evaluate(colour_model(), "segmentation", folder, templates=["{}"])
    assert [reason for _, reason in found["skipped"]] == ["it takes more memory than there is."]
    assert found["n"]["images"] == len(calls) - 1 and size
    calls.append((0, 0))
    calls[:] = calls[:1]
    with pytest.raises(InputError, match=rf"{failing.name}: cannot be segmented: MemoryError"):
        ist.segment(colour_model(), failing, ["red", "green"])
    monkeypatch.setattr("isthmus.models.dual_encoder.DualEncoder.from_pretrained", lambda *a, **k: colour_model())
    calls[:] = []
    assert main(["eval", ".", "segmentation", str(folder), "--bootstrap", "0", "--json", str(tmp_path / "r.json")]) == 3
    assert len(json.loads((tmp_path / "r.json").read_text())["skipped"]) == 1


class Choosy(Wide):
    """Fails on pictures of 77 × 55: while it prepares them, or in its network."""

    failing = ""

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        if self.failing == "preprocess" and any(item.size == ODD for item in items):
            raise ValueError("odd")
        odd = torch.tensor([float(item.size == ODD) for item in items])
        small = [np.asarray(item.convert("RGB").resize((8, 8))) for item in items]
        return {"pixels": torch.stack([torch.tensor(one).permute(2, 0, 1) / 255 for one in small]), "odd": odd}

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        if self.failing == "all" or (self.failing == "network" and bool(inputs["odd"].any())):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return Output(tokens=inputs["pixels"].flatten(2).transpose(1, 2))


@pytest.mark.parametrize("failing", ["preprocess", "network"])
def test_an_image_that_fails_anywhere_in_its_encoder_is_listed(tmp_path: Path, failing: str) -> None:
    table = write_pairs(tmp_path / "d", copies=1)
    for number in (0, 3):  # the first is among the images that a run tries its encoders on
        (table.parent / f"0-{number:03d}.png").write_bytes(png(Image.new("RGB", ODD, (10, number, 30))))
    encoder = Choosy()
    encoder.network = nn.Linear(1, 1)  # one with parameters, whose operations are counted on the first images
    whole = ist.embed(table, encoder, word_encoder(), out=tmp_path / "whole")
    encoder.failing = failing
    if failing == "network":
        encoder.network = nn.AvgPool2d(1)
    done = ist.embed(table, encoder, word_encoder(), out=tmp_path / "s", max_skip=1)
    assert done.skipped["id"].to_pylist() == ["0-000.png", "0-003.png"]
    assert all(reason.startswith("cannot be ") for reason in done.skipped["reason"].to_pylist())
    rows = [row for row, id in enumerate(whole.images["id"].to_pylist()) if id not in ("0-000.png", "0-003.png")]
    both = whole.features("image").gather(np.array(rows)), done.features("image").gather(np.arange(len(done)))
    assert np.allclose(*both, atol=1e-3)


def test_a_network_that_fails_on_every_image_is_told_itself(tmp_path: Path) -> None:
    encoder = Choosy()
    encoder.failing = "all"
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        ist.embed(write_pairs(tmp_path / "d", copies=1), encoder, word_encoder(), out=tmp_path / "s")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a decoder's own")])
def test_a_picture_that_cannot_be_read_for_any_reason_is_listed_and_shifts_no_other(error: Exception) -> None:
    def read(row: int) -> int:
        if row == 1:
            raise error
        return row

    refused: list[int] = []
    found = pictures.encode_each(3, read, lambda rows: np.array(rows)[:, None], lambda row, _: refused.append(row))
    assert [(rows, features.ravel().tolist()) for rows, features in found] == [([0, 2], [0, 2])] and refused == [1]
