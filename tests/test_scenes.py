"""Scenes from the demo's cut-outs: exact masks, boxes and relations, as a pure function of the seed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from isthmus.errors import UsageError
from isthmus_demo.scenes import (
    BACKGROUNDS,
    BIG,
    RELATIONS,
    SMALL,
    Cutout,
    Place,
    beside,
    compose,
    names,
    noun_of,
    pick,
    random_scene,
    read_cutouts,
    scatter,
)


@pytest.fixture(scope="module")
def cutouts() -> list[Cutout]:
    return read_cutouts(split="test")


def square(name: str, colour: str = "black") -> Cutout:
    return Cutout(name, name, None, Image.new("RGBA", (40, 40), colour))


def test_the_mask_is_exact_and_later_objects_hide_earlier_ones() -> None:
    places = [Place(square("a"), 0.5, 0.5, 0.5), Place(square("b", "red"), 0.75, 0.5, 0.5)]
    scene = compose(places, ["a", "b"], background="plain", side=80)
    expected = np.zeros((80, 80), np.uint8)
    expected[20:60, 20:40], expected[20:60, 40:80] = 1, 2
    np.testing.assert_array_equal(scene.mask, expected)
    assert [found.box for found in scene.objects] == [(20, 20, 60, 60), (40, 20, 80, 60)]
    assert [found.visible for found in scene.objects] == [0.5, 1.0]
    assert scene.image.getpixel((70, 40)) == (255, 0, 0)


def test_what_hangs_over_the_border_counts_as_hidden() -> None:
    scene = compose([Place(square("a"), 0.0, 0.5, 0.5)], ["a"], side=80)
    assert scene.objects[0].visible == 0.5
    assert (scene.mask == 1).sum() == 20 * 40


def test_a_scene_is_a_function_of_its_seed(cutouts: list[Cutout]) -> None:
    scene, again, other = (random_scene(cutouts, seed, side=112) for seed in (3, 3, 4))
    assert scene.image.tobytes() == again.image.tobytes() and scene.objects == again.objects
    assert scene.image.tobytes() != other.image.tobytes()


def test_relations_hold_between_the_boxes(cutouts: list[Cutout]) -> None:
    rng = np.random.default_rng(0)
    for relation, (dx, dy) in RELATIONS.items():
        for _ in range(10):
            first, second = pick(cutouts, ["bus", "tree"], rng)
            one, two = compose(beside(first, second, relation, rng), names(cutouts), side=112).objects
            assert one.visible > 0.98 and two.visible > 0.98
            apart = [one.box[2] - two.box[0], two.box[2] - one.box[0]] if dx else []
            apart = apart or [one.box[3] - two.box[1], two.box[3] - one.box[1]]
            assert apart[0 if dx + dy < 0 else 1] <= 0


def test_scattered_things_are_all_visible_and_have_the_sizes_asked_for(cutouts: list[Cutout]) -> None:
    rng = np.random.default_rng(1)
    hat = pick(cutouts, ["hat"], rng)[0]
    scene = compose(scatter([hat] * 12, rng), ["hat"], side=224)
    assert len(scene.objects) == 12 and min(found.visible for found in scene.objects) > 0.95
    big, small = compose(scatter([hat, hat], rng, sizes=[BIG, SMALL]), ["hat"], side=224).objects
    ratio = (big.box[2] - big.box[0]) / (small.box[2] - small.box[0])
    assert ratio == pytest.approx(BIG / SMALL, rel=0.05)


def test_cutouts_are_clear_objects_of_the_split_with_one_name(cutouts: list[Cutout]) -> None:
    assert len(cutouts) > 100 and len(names(cutouts)) > 40
    for cutout in cutouts:
        covered = (np.asarray(cutout.image)[..., 3] >= 128).mean()
        assert 0.15 <= covered <= 0.95
    labels = read_cutouts(split="test", by="label", least=5)
    assert "bird" in names(labels) and all(cutout.name == cutout.label for cutout in labels)


def test_a_drawing_that_names_two_things_has_no_name() -> None:
    row = {"title": "Cat", "id": "animals/cat_01", "label": "mammal"}
    assert noun_of(row) == "cat"
    assert noun_of(row | {"title": "cat and dog"}) is None
    assert noun_of(row | {"title": "cat pie"}) is None
    assert noun_of(row | {"label": "computer icon"}) is None


def test_backgrounds_differ_and_unknown_words_are_usage_errors(cutouts: list[Cutout]) -> None:
    spread = [
        np.asarray(compose([], [], background=kind, side=64).image).std(axis=(0, 1)).max() for kind in BACKGROUNDS
    ]
    assert spread[0] == 0 and min(spread[1:]) > 1
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="no background"):
        compose([], [], background="wood")
    with pytest.raises(UsageError, match="no relation"):
        beside(cutouts[0], cutouts[1], "inside", rng)
    with pytest.raises(UsageError, match="no cut-out shows 'unicorn'"):
        pick(cutouts, ["unicorn"], rng)
    with pytest.raises(UsageError, match="not among the classes"):
        compose([Place(square("a"), 0.5, 0.5, 0.5)], ["b"])
