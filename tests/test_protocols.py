"""Protocols of the papers: captions as they take them, descriptions, segmentation, and what they leave out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isthmus.api import evaluate
from isthmus.cli import main
from isthmus.data.pairs import pairs_from_lists
from isthmus.errors import UsageError
from isthmus.evaluation.datasets.aro import read_aro
from isthmus.evaluation.datasets.aro_symmetric import symmetric_relations
from isthmus.evaluation.protocols import FREEZE_ALIGN, PROTOCOLS, SAIL, find_protocol, plain_words
from isthmus.evaluation.segmentation import PixelTally, oracle_ious, segmentation
from isthmus.evaluation.suite import find_sets, open_set, suite
from isthmus.metrics.zeroshot import as_dot_products, class_embeddings, load_templates, zeroshot
from isthmus.segmentation import Segmenter
from test_public_sets import coco
from test_segmentation import COLOURS, colour_model, flag
from test_suite import CLASSES, captioned_set, labelled_set, toy_model
from toys import picture


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A man, with a (red) hat!", "a man with a red hat"),
        ("<person> on a T-shirt/top  ", "person on a t shirt top"),
        (" ".join(map(str, range(40))), " ".join(map(str, range(30)))),
        ("?!", "?!"),
    ],
)
def test_captions_as_freeze_align_cuts_them(caption: str, expected: str) -> None:
    assert plain_words(caption) == expected


def test_sail_takes_the_first_five_captions() -> None:
    pairs = pairs_from_lists([picture("red", "dark", "left")] * 2, [[f"a {i}" for i in range(7)], ["b 0", "b 1"]])
    kept = SAIL.prepared(pairs).captions["caption"].to_pylist()
    assert kept == [*(f"a {i}" for i in range(5)), "b 0", "b 1"]
    assert len(pairs.captions) == 9, "the pairs given stay as they are"


def test_a_protocol_chooses_sets_splits_and_captions(tmp_path: Path) -> None:
    coco(tmp_path / "data" / "coco")
    labelled_set(tmp_path / "data" / "wds_vtab-pets")
    captioned_set(tmp_path / "data" / "wds_flickr30k")
    results = {one["dataset"]: one for one in suite(toy_model(), tmp_path / "data", protocol="sail", bootstrap=0)}
    assert set(results) == set(SAIL.sets)
    assert results["mscoco_captions"]["n"]["texts"] == 10, "val2017, five of six captions"
    assert results["cars"]["skipped"] == [["cars", "not there"]]
    remarks = next(iter(results.values()))["notes"]
    assert any("val2017 with the first five captions" in remark for remark in remarks)
    (pets,) = suite(toy_model(), tmp_path / "data", only_sets=["pets"], protocol="freeze-align", bootstrap=0)
    assert pets["templates"] == ["photo of {}"]
    whole = suite(toy_model(), tmp_path / "data", only_sets=["coco"], split="val2017", bootstrap=0)
    assert whole[0]["n"]["texts"] == 12
    with pytest.raises(UsageError, match=r"No protocol 'sial'.*Did you mean 'sail'"):
        suite(toy_model(), tmp_path / "data", protocol="sial")


def test_the_protocol_of_a_result_is_part_of_what_it_is_known_by(tmp_path: Path) -> None:
    captioned_set(tmp_path / "data" / "wds_flickr30k")
    options = {"out": tmp_path / "out", "only_sets": ["flickr30k"], "bootstrap": 0}
    plain = suite(toy_model(), tmp_path / "data", **options)[0]
    cut = suite(toy_model(), tmp_path / "data", protocol="freeze-align", **options)[0]
    assert plain["key"] != cut["key"]


def test_retrieval_of_pairs_by_a_protocol_and_not_of_a_store(tmp_path: Path) -> None:
    pairs = pairs_from_lists(
        [picture(c, "dark", "left") for c in COLOURS], [[f"{c} {i}" for i in range(6)] for c in COLOURS]
    )
    found = evaluate(toy_model(), "retrieval", pairs, protocol="sail", bootstrap=0)
    assert found["n"]["texts"] == 15 and any("protocol sail" in note for note in found["notes"])
    pairs.range = (0.0, 1.0)
    assert find_protocol("sail").prepared(pairs).range == (0.0, 1.0), "pictures are decoded as without the protocol"
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(UsageError, match="but those of a store are encoded already"):
        evaluate(toy_model(), "retrieval", str(tmp_path), protocol="sail")


def test_descriptions_padded_and_left_short_are_those_of_freeze_align() -> None:
    rng = np.random.default_rng(0)
    vectors = {f"{name} {k}": rng.normal(size=4) for name in "ab" for k in range(3)}
    sentences = {"a": ["a 0", "a 1", "a 2"], "b": ["b 0"]}

    def encode(texts: list[str]) -> np.ndarray:
        return np.stack([vectors[text] for text in texts])

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    naive = np.stack([unit(encode(own + own[:1] * (19 - len(own)))).mean(axis=0) for own in sentences.values()])
    ours = class_embeddings(encode, ["a", "b"], sentences, padded=19, renormalise=False)
    assert ours == pytest.approx(naive, abs=1e-6)
    assert np.linalg.norm(ours[0]) < 0.99 < np.linalg.norm(ours[1])
    images = unit(rng.normal(size=(500, 4))).astype(np.float32)
    left, right = as_dot_products(images, ours)
    assert unit(left) @ unit(right).T == pytest.approx(images @ naive.T, abs=1e-6)
    labels = (images @ naive.T).argmax(axis=1)
    assert zeroshot(left, right, labels, bootstrap=0)["metrics"]["acc1"] == 1
    assert zeroshot(images, ours, labels, bootstrap=0)["metrics"]["acc1"] < 1, "lengths decide some"


def test_the_suite_compares_freeze_align_s_descriptions_by_dot_products(tmp_path: Path) -> None:
    labelled_set(tmp_path / "data" / "wds_vtab-pets")
    names = CLASSES
    file = tmp_path / "vdt.json"
    file.write_text(json.dumps({name: [name, f"a {name} square", "dark"] for name in names}))
    model = toy_model()
    options = {"only_sets": ["pets"], "templates": file, "bootstrap": 0}
    (found,) = suite(model, tmp_path / "data", protocol="freeze-align", **options)
    one = open_set("pets", find_sets(tmp_path / "data")["pets"])
    images = model.encode_image([one.pairs.decode(i) for i in range(len(one.pairs))])
    sentences = json.loads(file.read_text())
    means = np.stack([model.encode_text(own + own[:1] * 16).mean(axis=0) for own in sentences.values()])
    right = (images @ means.T).argmax(axis=1) == np.array(list(map(int, one.pairs.images["label"].to_pylist())))
    assert found["metrics"]["acc1"] == pytest.approx(right.mean(), abs=1e-9)


def test_sail_s_segmentation_settings_are_one_preset(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    image, truth = flag("red", "blue", "green", width=20, height=48)
    image.save(tmp_path / "images" / "a.png")
    Image.fromarray(truth).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("\n".join(COLOURS))
    found = segmentation(colour_model(), tmp_path, protocol="sail", size=64, window=64, stride=32, bootstrap=0)
    assert found["options"]["longest"] == 2048
    assert (found["options"]["resample"], found["options"]["normalise"]) == ("bilinear", "clip")
    assert found["options"]["size"] == 64, "what is given differs from the preset"
    assert found["templates"] == load_templates("imagenet") and len(found["templates"]) == 80
    assert any("antialiasing" in note for note in found["notes"])
    theirs = segmentation(colour_model(), tmp_path, protocol="freeze-align", bootstrap=0)
    assert (theirs["options"]["size"], theirs["templates"]) == (256, ["{}"])
    assert 0 < theirs["metrics"]["oracle_class_iou"] <= 1


def test_clip_s_mean_and_deviation_in_the_place_of_the_encoder_s_own() -> None:
    own, clip = (
        Segmenter(colour_model(), list(COLOURS), ["{}"], normalise=n).dense.patches[0] for n in ("encoder", "clip")
    )
    assert own.whole.low.flatten().tolist() == pytest.approx([-1, -1, -1])
    assert clip.whole.low.flatten().tolist() == pytest.approx(
        [-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]
    )
    assert clip.whole.high[0].item() == pytest.approx((1 - 0.48145466) / 0.26862954)


def test_a_long_picture_is_bounded_and_its_windows_are_low() -> None:
    segmenter = Segmenter(colour_model(), list(COLOURS), ["{}"], size=64, window=64, stride=32, longest=128)
    seen, dense = [], segmenter.dense
    segmenter.dense = lambda images: seen.extend(image.size for image in images) or dense(images)
    scores = segmenter.scores(Image.new("RGB", (400, 100)))
    assert scores.shape[1:] == (32, 128)
    assert set(seen) == {(64, 32)}
    with pytest.raises(UsageError, match="longest: bounds an image for a sliding window"):
        Segmenter(colour_model(), list(COLOURS), ["{}"], longest=128)


def test_the_iou_with_classes_told_by_hand() -> None:
    """Class 1 fills the left half; its scores rise to the left, and 0.4 of their range lies at column 3 of 8."""
    truth = np.zeros((4, 8), np.uint8)
    truth[:, :4] = 1
    ramp = torch.linspace(1, 0, 8).repeat(4, 1)
    scores = torch.stack([torch.zeros(4, 8), ramp, ramp])
    found = oracle_ious(scores, truth, skip=0)
    assert np.isnan(found[[0, 2]]).all(), "background, and a class that is not there"
    given = int((np.linspace(1, 0, 8) > 0.4).sum())  # 5 columns, of which 4 are right
    assert found[1] == pytest.approx(4 / given)
    tally = PixelTally(["background", "cat", "dog"])
    tally.add(truth, truth, scores)
    other = np.full((4, 8), 2, np.uint8)
    tally.add(other, other, torch.ones(3, 4, 8))  # a flat score gives no pixel
    metrics = tally.scores(bootstrap=20)["metrics"]
    assert metrics["oracle_class_iou"] == pytest.approx((0.8 + 0) / 2)
    assert metrics["oracle_class_iou_by_class"] == pytest.approx((0.8 + 0) / 2)
    assert metrics["miou"] == 1


def test_relations_of_aro_with_and_without_the_symmetric_ones(tmp_path: Path) -> None:
    box = {"bbox_x": 0, "bbox_y": 0, "bbox_w": 2, "bbox_h": 2, "image_path": "a.jpg"}
    rows = [
        {**box, "true_caption": "a", "false_caption": "b", "relation_name": r} for r in ("near", "on", "beside", "in")
    ]
    (tmp_path / "images").mkdir()
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps(rows))
    assert len(symmetric_relations()) == 157
    found = read_aro(tmp_path)
    assert [question.category for question in found["vg_relation"]] == ["near", "on", "beside", "in"]
    assert [question.category for question in found["vg_relation_directed"]] == ["on", "in"]


def test_every_protocol_says_what_differs() -> None:
    assert find_protocol(None) is None
    assert all(protocol.differs for protocol in PROTOCOLS.values())
    assert FREEZE_ALIGN.splits["sun397"] == "all"


def test_the_command_takes_a_protocol(tmp_path: Path, capsys, monkeypatch) -> None:
    captioned_set(tmp_path / "data" / "wds_flickr30k")
    monkeypatch.setattr("isthmus.models.dual_encoder.DualEncoder.from_pretrained", lambda *a, **k: toy_model())
    arguments = ["eval", str(tmp_path), "suite", str(tmp_path / "data"), "--protocol", "sail", "--bootstrap", "0"]
    assert main([*arguments, "--only-sets", "flickr30k"]) == 0
    assert main(arguments) == 3, "the paper's other sets were asked for"
    assert "protocol sail: COCO is val2017" in capsys.readouterr().out
