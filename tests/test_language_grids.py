"""Base image and grids: against transformers' own functions, in packed rows, trained by the command, asked, refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

import isthmus as ist
from fusion_cases import write_questions
from isthmus.cli import main
from isthmus.embedding import embed
from isthmus.errors import InputError, UsageError
from isthmus.fusion.language import ChatPrompts, LanguageNetwork, LanguagePlan, load_language, packed
from isthmus.fusion.language.grids import squares
from isthmus.fusion.language.packing import left_padded
from isthmus.fusion.sides import SideStates
from isthmus.models.language_model import VisionLanguageModel
from isthmus.training.fusion import batches
from tiny_encoders import save_dinov2
from toy_language import save_language

QUICK = ["optim.batch=6", "optim.epochs=1", "optim.precision=float32", "stop.restore_best=false"]
GRIDS = [[1, 2], [2, 1], [2, 2], [1, 3], [3, 1]]
SIDE, PIXELS = 4, 56  # tokens and pixels along a tile's side


def plan(**changes: Any) -> LanguagePlan:
    shape = {"widths": [8], "fed": [0], "tokens": SIDE**2, "patches": [SIDE**2], "prefix": 0, "hidden": 8}
    return LanguagePlan(**{**shape, "grids": GRIDS, "pixels": PIXELS, "tiles": 9, **changes})


def sizes(count: int = 100) -> list[tuple[int, int]]:
    """Of small and of large pictures, and of some much longer than wide."""
    rng = np.random.default_rng(0)
    return [(int(w), int(h)) for w, h in np.exp(rng.uniform(np.log(8), np.log(2000), (count, 2)))]


@pytest.mark.parametrize(("tiles", "theirs"), [(0, LlavaNextModel), (1, LlavaOnevisionModel), (9, LlavaOnevisionModel)])
def test_tokens_are_those_that_transformers_packs(tiles: int, theirs: Any) -> None:
    """The grid that is chosen, what is cut off, what is averaged down, newlines, and the number known beforehand."""
    own = plan(tiles=tiles, norm="none")
    network = LanguageNetwork(own)
    network.projector = torch.nn.Identity()
    vision = SimpleNamespace(image_size=PIXELS, patch_size=PIXELS // SIDE)
    points = [[rows * PIXELS, columns * PIXELS] for rows, columns in GRIDS]
    llava = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=points))
    grids = [own.grid_of(*size) for size in sizes()]
    states = [torch.randn(1 + one.tiles[0] * one.tiles[1], SIDE**2, 8) for one in grids]
    how = {"vision_feature_select_strategy": "full"} if theirs is LlavaNextModel else {}
    how |= {"vision_aspect_ratio": f"anyres_max_{tiles}"} if tiles else {}
    flipped = [(height, width) for width, height in sizes()]
    wanted, lengths = theirs.pack_image_features(llava, states, flipped, image_newline=network.newline, **how)
    found = network.see(network.pictures.tiled([torch.cat(states)], grids))
    assert found.mask is not None and found.mask.sum(1).tolist() == lengths.tolist()
    assert [own.tokens_of(*size) for size in sizes()] == lengths.tolist()
    for row, one in enumerate(wanted):
        torch.testing.assert_close(found.tokens[row][found.mask[row]], one)
    assert len({one.tiles for one in grids}) == len(GRIDS) and any(max(one.cut) for one in grids)


def test_the_number_of_tokens_is_that_of_transformers_processor() -> None:
    points = [[rows * PIXELS, columns * PIXELS] for rows, columns in GRIDS]
    reader = SimpleNamespace(patch_size=PIXELS // SIDE, num_additional_image_tokens=0)
    reader.image_processor = SimpleNamespace(image_grid_pinpoints=points)
    reader._get_unpadded_features = lambda *given: LlavaNextProcessor._get_unpadded_features(reader, *given)
    own = plan(tiles=0)
    for width, height in sizes():
        wanted = LlavaNextProcessor._get_number_of_features(reader, height, width, PIXELS, PIXELS)  # type: ignore[arg-type]
        assert own.tokens_of(width, height) == wanted


def test_squares_are_those_of_transformers_image_processor() -> None:
    points = [[rows * PIXELS, columns * PIXELS] for rows, columns in GRIDS]
    size: Any = {"height": PIXELS, "width": PIXELS}
    plain = {"do_resize": False, "do_center_crop": False, "do_normalize": False, "do_rescale": False}
    theirs = LlavaNextImageProcessorPil(size=size, crop_size=size, image_grid_pinpoints=points, **plain)
    rng = np.random.default_rng(0)
    for width, height in sizes(12):
        picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        wanted = theirs(picture, return_tensors="np")["pixel_values"][0]
        found = squares(picture, plan().grid_of(width, height).tiles, PIXELS)
        np.testing.assert_array_equal(np.stack(found).transpose(0, 3, 1, 2), wanted)


def test_pictures_of_different_lengths_share_rows_and_are_continued_as_each_alone(tmp_path: Path) -> None:
    """With managers, which act on all of a picture's tokens, its newlines too."""
    language = load_language(f"hf:{save_language(tmp_path / 'lm', context=512)}")
    shape = {"widths": [8, 8], "fed": [1], "patches": [4, 4], "tokens": 4, "hidden": 32}
    own = plan(**shape, managed=[0, 1], before=[0, 1])
    network = LanguageNetwork(own, language.network).eval()
    assert network.managers is not None and network.newline is not None
    for gate in network.managers.gates.values():
        torch.nn.init.normal_(gate, std=0.3)
    grids = [own.grid_of(*size) for size in ((100, 50), (50, 100), (64, 64))]
    count = sum(1 + one.tiles[0] * one.tiles[1] for one in grids)
    states = network.pictures.tiled([torch.randn(count, 4, 8) for _ in range(2)], grids)
    sight, ends = network.see(states), states.breaks
    assert sight.managed is not None and ends is not None
    assert torch.equal(sight.managed[:, 0][ends], network.newline.expand(int(ends.sum()), -1))
    asking = ChatPrompts(language.tokenizer, 4, language.context)
    said = [asking(["what is"], "a red dog", tokens=4 + one.count) for one in grids]
    assert len({len(one) for one in said}) > 1
    rows = packed(said, 512)
    places = (rows.labels.flatten() >= 0).nonzero()[:, 0]
    together, owner = network.logits(rows, sight, places), rows.owner.flatten()[places]
    asked = [asking(["what is"], tokens=4 + one.count) for one in grids]
    stops = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": 1, "pad_token_id": 0}
    ids = network.generate(left_padded(asked), sight, **stops)
    for k, one in enumerate(said):
        alone, mine = packed([one], 0), sight.take(torch.tensor([k]))
        places = (alone.labels.flatten() >= 0).nonzero()[:, 0]
        torch.testing.assert_close(together[owner == k], network.logits(alone, mine, places), atol=2e-5, rtol=1e-4)
        expected = network.generate(left_padded([asked[k]]), mine, **stops)[0]
        assert ids[k, : len(expected)].tolist() == expected.tolist()
    together.sum().backward()
    assert network.newline.grad is not None and bool(network.newline.grad.abs().gt(0).all())


def test_without_grids_nothing_is_added() -> None:
    torch.manual_seed(0)
    network = LanguageNetwork(plan(grids=[]))
    assert network.newline is None and "newline" not in network.own_state()
    layer = torch.randn(2, SIDE**2, 8)
    seen = network.see(SideStates([layer], torch.ones(2, SIDE**2, dtype=torch.bool)))
    assert seen.mask is None and torch.equal(seen.tokens, network.see([layer]).tokens)
    assert plan(grids=[]).tokens_of(100, 30) == SIDE**2


# --- through the command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide, high and square pictures with questions, and their store."""
    folder = tmp_path_factory.mktemp("grids")
    table = write_questions(folder / "data", 12)
    for number, file in enumerate(sorted((folder / "data").glob("*.png"))):
        Image.open(file).resize([(96, 40), (40, 96), (64, 64)][(number + number // 3) % 3]).save(file)
    save_dinov2(folder / "vit")
    embed(table, f"hf:{folder / 'vit'}?layer=1,2&pool=states", out=folder / "store")
    save_language(folder / "lm")
    return folder


def told(here: Path, *more: str) -> list[str]:
    return [
        f"language.model=hf:{here / 'lm'}",
        "picture.layers=[2]",
        "picture.grids=[[1,2],[2,1],[2,2]]",
        *QUICK,
        *more,
    ]


def test_the_command_trains_with_grids_and_asks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = here / "data" / "questions.jsonl"
    changes = [part for one in told(here, "managers.every=1") for part in ("--set", one)]
    given = ["train", str(here / "store"), "--recipe", "llava-manager", "--pixels", str(table), *changes]
    given += ["--out", str(here / "model")]
    assert main([*given, "--dry-run"]) == 0
    assert f"most_tokens: {9 + 6 * 7}" in capsys.readouterr().out
    assert main(given) == 0
    pictures = [str(here / "data" / f"00{number}.png") for number in range(3)]
    capsys.readouterr()
    assert main(["ask", str(here / "model"), pictures[0], "what colour is the dog", "--json", "-"]) == 0
    printed = capsys.readouterr().out
    assert set(json.loads(printed[printed.index("{") :])["probabilities"]) == {"red", "blue", "green"}
    assert main(["caption", str(here / "model"), *pictures]) == 0
    model = VisionLanguageModel.from_pretrained(here / "model")
    found = ist.evaluate(model, "vqa", table, bootstrap=10)
    assert found["n"]["questions"] == 12 and found["skipped"] == []
    assert "of the tiles of 1 × 2 or 2 × 1 or 2 × 2" in model.describe()
    states = model.side("image", pictures)
    wide = 9 + 3 * 7  # 42 × 96 of 96 × 40 pixels: no row of tokens is black
    assert states.mask.sum(1).tolist() == [wide, 9 + 6 * 4, 9 + 6 * 7]
    answers = model.answer(states, ["what colour"] * 3)
    alone = np.concatenate([model.answer(one, ["what colour"]) for one in pictures])
    np.testing.assert_allclose(answers, alone, atol=1e-5)
    with pytest.raises(UsageError, match="form of LLaVA-NeXT alone, which cannot hold this one: it has managers"):
        ist.export(model, here / "out", to="llava", allow_unknown_licence=True)


def test_a_tile_is_what_the_encoder_makes_of_it_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a model whose tokens did not fit into memory while it was trained."""
    monkeypatch.setattr(batches, "RESIDENT_BYTES", 0)
    model = ist.train(here / "store", recipe="llava", overrides=told(here), pixels=here / "data" / "questions.jsonl")
    assert isinstance(model, VisionLanguageModel)
    picture = Image.open(here / "data" / "002.png").convert("RGB")
    view, network = model.encoders_of("image")[0], model.network
    states = model.side("image", [picture])
    both = squares(picture, network.plan.grid_of(*picture.size).tiles, 42)
    processor = view.processor
    inputs = processor(both, do_resize=False, do_center_crop=False, return_tensors="pt")
    found = network.pictures(view.states(dict(inputs), [2]).values)[0]
    torch.testing.assert_close(states.values[0][0, :9], found[0])
    torch.testing.assert_close(states.values[0][0, 9:12], found[1, :3])
    assert states.breaks is not None and states.breaks[0].nonzero()[:, 0].tolist() == [*range(15, 51, 7)]


def test_an_exported_folder_is_a_stock_llava_next_that_says_the_same(here: Path, tmp_path: Path) -> None:
    pairs = here / "data" / "questions.jsonl"
    model: Any = ist.train(here / "store", recipe="llava", overrides=told(here), pixels=pairs)
    found = ist.export(model, tmp_path / "out", to="llava", allow_unknown_licence=True)
    assert found["stock"] and found["differences"]["logits"] < 1e-5
    llava = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what colour is the dog"}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True)
    for number in range(3):
        picture = Image.open(here / "data" / f"00{number}.png").convert("RGB")
        inputs = processor(images=picture, text=text, return_tensors="pt")
        ids = llava.generate(**inputs, max_new_tokens=48, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        said = processor.decode(ids, skip_special_tokens=True).strip()
        assert said == model.say([picture], ["what colour is the dog"])[0]


@pytest.mark.parametrize(
    ("change", "pixels", "message"),
    [
        ("picture.tokens=9", False, "tiles are cut from the pictures, which the store does not hold"),
        ("picture.grids=[]", True, "what a picture becomes is in the store"),
        (
            "picture.tiles=0 picture.grids=[[4,4]]",
            True,
            r"\d+ of them the picture's, .* or smaller picture.grids",
        ),
        ("picture.grids=[[1,2],[1,2]]", True, "a grid is given twice"),
        ("picture.grids=[[0,2]]", True, r"is not \[rows, columns\] of 1 to 12"),
        ("picture.grids=[1,2]", True, "picture.grids must be a list"),
    ],
)
def test_grids_that_do_not_fit_are_refused_with_a_reason(here: Path, change: str, pixels: bool, message: str) -> None:
    given: Any = {"pixels": here / "data" / "questions.jsonl"} if pixels else {}
    with pytest.raises((InputError, UsageError), match=message):
        ist.train(here / "store", recipe="llava", overrides=told(here, *change.split()), **given)
