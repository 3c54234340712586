"""Segmentation: patches, windows, attention and scores, against hand-computed values and naive twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import isthmus as ist
from colour_model import COLOURS, colour_model, words
from isthmus.cli import main
from isthmus.data.images import decode_mask
from isthmus.encoders import Encoder
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.evaluation.segmentation import PixelTally, confusion_matrix
from isthmus.models.dual_encoder import DualEncoder
from isthmus.projectors import build_projector
from isthmus.segmentation import DenseEncoder, Segmenter
from isthmus.segmentation.attention import last_block
from isthmus.segmentation.data import read_masked_images
from isthmus.segmentation.dense import PatchTokens, grid_shape
from isthmus.segmentation.labels import _steps
from isthmus.segmentation.overlay import blend, colours, overlay
from isthmus.segmentation.run import Segmented
from tiny_encoders import pictures, save_dinov2
from toys import pixel_encoder, png


def flag(*columns: str, height: int = 32, width: int = 8) -> tuple[Image.Image, np.ndarray]:
    """Upright stripes, each `width` pixels wide, and the number of each pixel's colour."""
    names = list(COLOURS)
    pixels = np.concatenate([np.full((height, width, 3), COLOURS[name], np.uint8) for name in columns], axis=1)
    truth = np.repeat([names.index(name) for name in columns], width)[None].repeat(height, 0).astype(np.uint8)
    return Image.fromarray(pixels), truth


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return ist.load_encoder(f"hf:{save_dinov2(tmp_path_factory.mktemp('vit'))}", modality="image")


def dual(image: Encoder, seed: int = 0) -> DualEncoder:
    torch.manual_seed(seed)
    text = from_callable(words, "text", "words", name="words", width=3)
    heads = build_projector("linear", image.parts, 5), build_projector("linear", [3], 5)
    encoders = {"image": [image], "text": [text]}
    records = {modality: [one.record() for one in listed] for modality, listed in encoders.items()}
    return DualEncoder(*heads, scale=10.0, records=records, encoders=encoders)


# --- patches ----------------------------------------------------------------------------------------------


def test_a_picture_is_taken_whole_with_the_encoders_own_normalisation(vit: Encoder) -> None:
    picture = pictures(1)[0].resize((42, 42))
    patches = PatchTokens(vit.at(None, "cls+mean"))
    assert (patches.side, patches.unit) == (42, 14)
    pixels = vit.processor([picture], do_resize=False, do_center_crop=False, return_tensors="pt")["pixel_values"]
    expected = vit.run({"pixel_values": pixels}).tokens
    tokens, cls = patches([picture])
    torch.testing.assert_close(tokens.flatten(1, 2), expected[:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cls, expected[:, 0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_each_part_of_a_pooled_head_is_the_class_token_or_the_patch(vit: Encoder) -> None:
    picture = pictures(1)[0].resize((56, 42))
    for pool in ("cls", "mean", "cls+mean", "mean+cls"):
        model = dual(vit.at(2, pool))
        tokens, cls = PatchTokens(vit.at(2, "cls"))([picture])
        found = DenseEncoder(model)([picture])
        assert found.shape == (1, 3, 4, 5)
        for row in range(3):
            for column in range(4):
                parts = [cls[0] if part == "cls" else tokens[0, row, column] for part in pool.split("+")]
                expected = F.normalize(model.image_projector(torch.cat(parts)[None]), dim=-1)[0]
                torch.testing.assert_close(found[0, row, column], expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_token_heads_patches_are_what_its_mean_is_made_of(vit: Encoder) -> None:
    view = vit.at(2, "cls+patches")
    torch.manual_seed(0)
    model = dual(view)
    model.image_projector = build_projector("cls:linear,tokens:linear", view.parts, 5).eval()
    picture = pictures(1)[0].resize((42, 42))
    tokens, cls = PatchTokens(view)([picture])
    whole = model.image_projector(torch.cat([cls[:, None], tokens.flatten(1, 2)], 1).flatten(1))
    dense = model.image_projector.dense(tokens.flatten(1, 2), cls)
    torch.testing.assert_close(dense.mean(dim=1), whole, atol=1e-5, rtol=1e-4)
    found = DenseEncoder(model)([picture])
    torch.testing.assert_close(found.flatten(1, 2), F.normalize(dense, dim=-1), atol=1e-5, rtol=1e-4)
    alone = DenseEncoder(model, cls=False)([picture])
    assert not torch.allclose(alone, found, atol=1e-3)


def test_the_grid_has_the_shape_of_the_picture() -> None:
    assert grid_shape(12, 30, 40) == (3, 4)
    assert grid_shape(12, 40, 30) == (4, 3)
    assert grid_shape(16, 224, 224) == (4, 4)
    assert grid_shape(7, 10, 70) == (1, 7)


def test_an_encoder_without_tokens_is_refused() -> None:
    model = colour_model()
    model.encoders["image"] = [pixel_encoder()]
    with pytest.raises(UsageError, match=r"gives no tokens.*segmentation needs patches"):
        DenseEncoder(model)


# --- attention --------------------------------------------------------------------------------------------


def naive_last_block(block: Any, state: torch.Tensor, attention: str, alone: str | None) -> torch.Tensor:
    """The block of DINOv2 step by step."""
    normed, inner = block.norm1(state), block.attention
    heads = 2
    query, key, value = (
        layer(normed).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in (inner.q_proj, inner.k_proj, inner.v_proj)
    )
    key = query if attention == "qq" else key
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
    mixed = block.layer_scale1(inner.o_proj((weights @ value).transpose(1, 2).flatten(2)))
    if alone == "attention":
        return mixed
    state = state + mixed
    if alone == "residual":
        return block.norm2(state)
    return state + block.layer_scale2(block.mlp(block.norm2(state)))


@pytest.mark.parametrize("layer", [1, 3, None])
@pytest.mark.parametrize("attention", ["qk", "qq"])
@pytest.mark.parametrize("alone", [None, "attention", "residual"])
def test_the_last_block_is_changed_as_the_papers_say(
    vit: Encoder, layer: int | None, attention: str, alone: str | None
) -> None:
    view = vit.at(layer, "cls+mean")
    inputs = vit.preprocess(pictures(2))
    before = vit.run(inputs, layers=True)
    number = 3 if layer is None else layer
    blocks = vit.network.encoder.layer
    with torch.inference_mode():
        expected = naive_last_block(blocks[number - 1], before.layers[number - 1], attention, alone)
        expected = vit.network.layernorm(expected) if layer is None else expected
    with last_block(view, attention, alone=alone):
        output = view.run(inputs, layers=True)
    found = output.tokens if layer is None else output.layers[number]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    after = vit.run(inputs, layers=True)  # and the encoder is as it was
    torch.testing.assert_close(after.layers[-1], before.layers[-1], atol=0, rtol=0)


def test_a_network_without_attention_says_so() -> None:
    with pytest.raises(UsageError, match="no transformer block"):
        DenseEncoder(colour_model(), attention="qq")
    with pytest.raises(UsageError, match="no attention 'vv'"):
        DenseEncoder(colour_model(), attention="vv")
    with pytest.raises(UsageError, match="alone 'mlp'"):
        DenseEncoder(colour_model(), alone="mlp")


# --- labels -----------------------------------------------------------------------------------------------


def test_every_pixel_gets_its_class() -> None:
    image, truth = flag("red", "blue", "green", "blue", width=16, height=64)
    found = Segmenter(colour_model(), list(COLOURS), ["{}"], size=64)(image)
    assert found.dtype == np.uint8 and found.shape == truth.shape
    interior = np.abs(np.arange(64) % 16 - 7.5) < 4  # bilinear interpolation moves borders by half a patch
    np.testing.assert_array_equal(found[:, interior], truth[:, interior])


def test_one_window_is_the_whole_picture(vit: Encoder) -> None:
    image = pictures(1)[0].resize((84, 84))
    model, how = dual(vit.at(3, "mean")), {"classes": list(COLOURS), "templates": ["{}"], "size": 84}
    whole = Segmenter(model, **how).scores(image)
    one = Segmenter(model, window=84, **how).scores(image)
    assert whole.shape == (3, 6, 6) and one.shape == (3, 84, 84)
    torch.testing.assert_close(F.interpolate(whole[None], size=(84, 84), mode="bilinear")[0], one, atol=1e-5, rtol=1e-4)


def test_windows_are_averaged_where_they_overlap(vit: Encoder) -> None:
    image, size, stride = pictures(1)[0].resize((112, 56)), 42, 28
    model = dual(vit.at(3, "mean"))
    segmenter = Segmenter(model, list(COLOURS), ["{}"], size=56, window=size, stride=stride)
    texts = torch.from_numpy(model.encode_text(list(COLOURS)))
    total, count = torch.zeros(3, 56, 112), torch.zeros(56, 112)
    for top in (0, 14):
        for left in (0, 28, 56, 70):
            crop = image.crop((left, top, left + size, top + size))
            scores = (DenseEncoder(model)([crop])[0] @ texts.T).permute(2, 0, 1)
            fine = F.interpolate(scores[None], size=(size, size), mode="bilinear")[0]
            total[:, top : top + size, left : left + size] += fine
            count[top : top + size, left : left + size] += 1
    torch.testing.assert_close(segmenter.scores(image), total / count, atol=1e-5, rtol=1e-4)


def test_windows_cover_everything() -> None:
    assert _steps(10, 4, 3) == [0, 3, 6]
    assert _steps(11, 4, 3) == [0, 3, 6, 7]
    assert _steps(4, 4, 3) == [0]


def test_probabilities_do_not_depend_on_how_many_classes_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = flag("red", "blue", "green")
    segmenter = Segmenter(colour_model(), ["background", *COLOURS], ["{}"], threshold=0.5, size=32)
    scores = segmenter.scores(image)
    fine = F.interpolate(scores[1:][None], size=(20, 30), mode="bilinear")[0]
    expected = (10 * fine).softmax(dim=0).max(dim=0)
    for at_once in (1, 10**9):
        monkeypatch.setattr("isthmus.segmentation.labels.NUMBERS_AT_ONCE", at_once)
        label, probability = segmenter.classify(scores, 20, 30)
        np.testing.assert_array_equal(label, expected.indices.numpy() + 1)
        np.testing.assert_allclose(probability, expected.values.numpy(), atol=1e-5)


def test_what_no_class_is_probable_for_is_background() -> None:
    image, _ = flag("red", "blue")
    pixels = np.asarray(image).copy()
    pixels[:, :8] = 120  # grey: as near to every colour
    segmenter = Segmenter(colour_model(), ["background", *COLOURS], ["{}"], threshold=0.9, size=32)
    found = segmenter(Image.fromarray(pixels))
    assert (found[:, :3] == 0).all() and (found[:, 13:] == 3).all()


def test_one_class_beside_the_background_is_found_where_it_is_and_nowhere_else() -> None:
    image, _ = flag("red", "blue", width=16)
    for classes, red in ((["background", "red"], 1), (["red", "background"], 0)):
        found = Segmenter(colour_model(), classes, ["{}"], threshold=0.9, size=32)(image)
        assert (found[:, :12] == red).all() and (found[:, 20:] == 1 - red).all()


def test_one_class_is_as_probable_as_a_softmax_with_the_surroundings_says() -> None:
    image, _ = flag("red", "blue", width=16)
    segmenter = Segmenter(colour_model(), ["background", "red"], ["{}"], threshold=0.5, size=32)
    scores = segmenter.scores(image)
    label, probability = segmenter.classify(scores, *scores.shape[1:])
    np.testing.assert_allclose(probability, (10 * scores).softmax(dim=0)[1].numpy(), atol=1e-5)
    assert (label == 1).all()


def test_of_several_names_the_nearest_counts() -> None:
    image, _ = flag("red", "green", "blue", width=16, height=48)
    found = Segmenter(colour_model(), ["blue; red", "green"], ["{}"], size=48)(image)
    assert (found[:, :10] == 0).all() and (found[:, 22:26] == 1).all() and (found[:, 40:] == 0).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"size": 0}, "size 0"),
        ({"stride": 8}, "sliding window"),
        ({"window": 64, "size": 32}, "window 64"),
        ({"window": 16, "stride": 32}, "window 16"),
        ({"threshold": 0.5}, "class 'background'"),
        ({"threshold": 2.0, "classes": ["background", "red"]}, "is a probability"),
        ({"attention": "kk"}, "no attention"),
        ({"classes": [f"class {i}" for i in range(256)]}, "256 classes"),
    ],
)
def test_settings_that_make_no_sense_are_usage_errors(how: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Segmenter(colour_model(), **{"classes": list(COLOURS), "templates": ["{}"], **how})


# --- scores -----------------------------------------------------------------------------------------------


def test_miou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1], [0, 0, 1, 255]], np.uint8)
    given = np.array([[0, 1, 1, 1], [0, 0, 0, 2]], np.uint8)
    tally = PixelTally(["a", "b", "c", "d"])
    tally.add(truth, given)
    found = tally.scores(bootstrap=0)
    # a: 3 right, 4 given, 4 true -> 3/5; b: 2 right, 3 given, 3 true -> 2/4; c was given where nothing counts; d never.
    assert found["metrics"]["miou"] == pytest.approx((3 / 5 + 2 / 4) / 2)
    assert found["metrics"]["pixel_accuracy"] == pytest.approx(5 / 7)
    assert found["metrics"]["mean_class_accuracy"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert found["n"] == {"images": 1, "pixels": 7, "classes": 4, "groups": 1}
    assert [line["metrics"]["iou"] for line in found["per_category"]] == [pytest.approx(0.6), 0.5, None, None]


def test_a_class_that_is_only_given_counts_as_nought() -> None:
    tally = PixelTally(["a", "b"])
    tally.add(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]], np.uint8))
    assert tally.scores(bootstrap=0)["metrics"]["miou"] == pytest.approx((3 / 4 + 0) / 2)


def test_scores_equal_a_count_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    truth, given = rng.integers(0, 5, (6, 9, 7)), rng.integers(0, 5, (6, 9, 7))
    truth[rng.random(truth.shape) < 0.1] = 255
    truth, given = truth.astype(np.uint8), given.astype(np.uint8)
    tally = PixelTally(list("abcde"))
    for one, other in zip(truth, given, strict=True):
        tally.add(one, other)
    naive = np.zeros((5, 5), int)
    for a, b in zip(truth.ravel().tolist(), given.ravel().tolist(), strict=True):
        if a != 255:
            naive[a, b] += 1
    found = tally.scores(bootstrap=50)
    np.testing.assert_array_equal(found["confusion"], naive)
    counted = truth != 255
    ious = [((truth == c) & (given == c)).sum() / (((truth == c) | (given == c)) & counted).sum() for c in range(5)]
    assert found["metrics"]["miou"] == pytest.approx(np.mean(ious))
    low, high = found["ci95"]["miou"]
    assert low < found["metrics"]["miou"] < high


def test_values_without_a_class_are_refused() -> None:
    with pytest.raises(InputError, match="value 3, but there are 2 classes"):
        confusion_matrix(np.array([[3]], np.uint8), np.array([[0]], np.uint8), 2)
    with pytest.raises(InputError, match="different shapes"):
        confusion_matrix(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
    tally = PixelTally(["a"])
    tally.add(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(InputError, match="nothing to score"):
        tally.scores()


# --- data -------------------------------------------------------------------------------------------------


def write_folder(folder: Path, count: int = 3) -> Path:
    for part in ("images", "masks"):
        (folder / part / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image, truth = flag(*rng.permutation(list(COLOURS)), width=16, height=48)
        image.save(folder / "images" / "deep" / f"{i}.png")
        Image.fromarray(truth).save(folder / "masks" / "deep" / f"{i}.png")
    (folder / "classes.txt").write_text("\n".join(COLOURS))
    return folder


def test_a_folder_of_images_and_masks_is_scored(tmp_path: Path) -> None:
    found = ist.evaluate(colour_model(), "segmentation", write_folder(tmp_path / "d"), templates=["{}"], size=48)
    assert found["task"] == "zeroshot_segmentation" and found["n"]["images"] == 3
    assert found["metrics"]["miou"] > 0.8 and found["classes"] == list(COLOURS)
    worse = ist.evaluate(
        colour_model(), "segmentation", tmp_path / "d", classes=["green", "blue", "red"], templates=["{}"]
    )
    assert worse["metrics"]["miou"] < 0.1


def test_a_table_with_masks_gives_the_same(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    paths = sorted((folder / "images" / "deep").iterdir())
    masks = sorted((folder / "masks" / "deep").iterdir())
    rows = [{"image": f"images/deep/{p.name}", "mask": f"masks/deep/{p.name}", "split": "test"} for p in paths]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "pairs.csv").write_text("image,mask\n" + "\n".join(f"{r['image']},{r['mask']}" for r in rows))
    table = {"image": [p.read_bytes() for p in paths], "mask": [p.read_bytes() for p in masks], "id": ["a", "b", "c"]}
    pq.write_table(pa.table(table), folder / "pairs.parquet")
    expected = ist.evaluate(colour_model(), "segmentation", folder, templates=["{}"])["metrics"]
    for name in ("pairs.jsonl", "pairs.csv", "pairs.parquet"):
        assert ist.evaluate(colour_model(), "segmentation", folder / name, templates=["{}"])["metrics"] == expected
    assert len(read_masked_images(folder / "pairs.jsonl", split="test")) == 3


def test_masks_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    mask = folder / "masks" / "deep" / "1.png"
    size = Image.open(mask).size

    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            ist.evaluate(colour_model(), "segmentation", folder, templates=["{}"])

    Image.fromarray(np.full(size[::-1], 7, np.uint8)).save(mask)
    refused(r"1\.png: has the value 7, but there are 3 classes, numbered 0 to 2")
    Image.new("L", (5, 4)).save(mask)
    refused(r"1\.png: the mask has 5 × 4 pixels, its image 48 × 48")
    Image.new("RGB", size).save(mask)
    refused(r"1\.png: its pixels are colours \(RGB\)")
    mask.write_bytes(b"not a picture")
    refused(r"1\.png: not a JPEG, PNG")
    mask.unlink()
    refused(r"images/deep/1\.png: its mask .*1\.png is missing")
    (folder / "classes.txt").unlink()
    refused("classes.txt: no such file")
    with pytest.raises(InputError, match="has no folder images/"):
        read_masked_images(tmp_path, ["a"])
    (folder / "pairs.jsonl").write_text('{"image": "images/deep/0.png"}')
    with pytest.raises(InputError, match="no column `mask`"):
        read_masked_images(folder / "pairs.jsonl", ["a"])


def test_palettes_and_sixteen_bits_are_numbers() -> None:
    values = np.array([[0, 1], [2, 255]], np.uint8)
    palette = Image.fromarray(values).convert("L")
    palette = palette.convert("P")
    palette.putpalette([i // 3 for i in range(768)])
    np.testing.assert_array_equal(decode_mask(png(palette)), np.asarray(palette))
    np.testing.assert_array_equal(decode_mask(png(Image.fromarray(values.astype(np.uint16) * 100))), values * 100.0)


def test_an_image_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "d")
    (folder / "images" / "deep" / "2.png").write_bytes(b"broken")
    found = ist.evaluate(colour_model(), "segmentation", folder, templates=["{}"])
    assert found["n"]["images"] == 2 and found["skipped"][0][0] == "deep/2.png"


# --- what the user sees -----------------------------------------------------------------------------------


def test_the_overlay_shows_the_classes_colours() -> None:
    image, truth = flag("red", "blue", "green", width=40, height=60)
    table = colours(["background", "a", "b", "c"])
    assert table[0].tolist() == [255, 255, 255] and len(np.unique(table, axis=0)) == 4
    assert len(np.unique(colours([str(i) for i in range(60)]), axis=0)) == 60
    labels = truth + 1
    labels[:5] = 255
    mixed = np.asarray(blend(image, labels, ["background", "a", "b", "c"])).astype(int)
    np.testing.assert_array_equal(mixed[:5], np.asarray(image)[:5])
    grey = np.asarray(image.convert("L")).astype(int)
    np.testing.assert_allclose(mixed[30, 10], 0.6 * table[1] + 0.4 * grey[30, 10], atol=1)
    sheet = overlay(image, truth, list(COLOURS))
    assert sheet.width > 2 * image.width and sheet.height > image.height + 20


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> str:
    model = colour_model()
    monkeypatch.setattr(DualEncoder, "from_pretrained", classmethod(lambda cls, path, **options: model))
    return "."  # a folder that is there


def test_the_command_writes_overlay_mask_and_shares(saved: str, tmp_path: Path, capsys: Any) -> None:
    image, truth = flag("red", "blue", width=32, height=64)
    image.save(tmp_path / "flag.png")
    out, mask, report = (str(tmp_path / name) for name in ("o.png", "m.png", "r.json"))
    command = ["segment", saved, str(tmp_path / "flag.png"), *COLOURS, "--size", "64", "--templates", "{}"]
    assert main([*command, "--out", out, "--mask", mask, "--json", report]) == 0
    assert (np.asarray(Image.open(mask)) == truth).mean() > 0.9
    assert Image.open(out).width > 128
    shares = {row["class"]: row["share"] for row in json.loads(Path(report).read_text())["classes"]}
    assert shares["red"] == pytest.approx(0.5, abs=0.07) and shares["green"] == 0
    assert "overlay" in capsys.readouterr().out


def test_classes_of_one_name_have_their_share_together() -> None:
    found = Segmented(["red", "blue", "red"], np.array([[0, 1], [2, 2]], np.uint8), Image.new("RGB", (2, 2)))
    assert found.shares == {"red": 0.75, "blue": 0.25}


def test_the_command_says_what_is_wrong(saved: str, tmp_path: Path, capsys: Any) -> None:
    def failed(*arguments: str) -> tuple[int, str]:
        return main(["segment", saved, *arguments]), capsys.readouterr().err

    assert failed("gone.png", "cat") == (1, "isthmus segment: gone.png: no such file or folder.\n")
    (tmp_path / "bad.png").write_bytes(b"broken")
    assert failed(str(tmp_path / "bad.png"), "cat")[0] == 1
    a = str(tmp_path / "bad.png")
    assert failed(a, "cat", "--out", "a.txt")[0] == 2
    assert failed(a, "cat", "--mask", "a.jpg")[0] == 2


def test_the_evaluation_command_takes_the_same_options(saved: str, tmp_path: Path, capsys: Any) -> None:
    folder = write_folder(tmp_path / "d")
    command = ["eval", saved, "segmentation", str(folder), "--templates", "{}", "--size", "48"]
    assert main([*command, "--window", "24", "--json", str(tmp_path / "r.json")]) == 0
    assert "miou" in (printed := capsys.readouterr().out) and "green" in printed
    assert json.loads((tmp_path / "r.json").read_text())["options"]["window"] == 24
    assert main([*command, "--threshold", "0.5"]) == 2


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_table_of_masks_with_names_of_its_own(tmp_path: Path, form: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    Image.new("L", (4, 3), 1).save(tmp_path / "m.png")
    (tmp_path / "classes.txt").write_text("\ufeffbackground\r\nflag\r\n", encoding="utf-8")
    row = {"filepath": "a.png", "mask": "m.png", "caption": "two\nlines"}
    table = tmp_path / f"t.{form}"
    if form == "parquet":
        pq.write_table(pa.table({name: pa.array([value]).dictionary_encode() for name, value in row.items()}), table)
    elif form == "jsonl":
        table.write_text("\ufeff" + json.dumps(row), encoding="utf-8")
    else:
        table.write_text('\ufefffilepath;mask;caption\r\na.png;m.png;"two\nlines"\r\n', encoding="utf-8", newline="")
    masked = read_masked_images(table)
    assert masked.classes == ["background", "flag"] and masked.ids == ["a.png"]
    assert (masked.mask(0, (4, 3)) == 1).all()
