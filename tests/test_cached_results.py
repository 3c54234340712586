"""Results that are kept to be used again: one that is not what was written is computed again, never printed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus as ist
from isthmus.errors import InputError
from isthmus.files import read_cached, write_sealed
from isthmus.metrics.results import kept, read, write
from isthmus.store.opening import first_choice

SHAPES: list[Any] = [
    None,
    [],
    1,
    "x",
    {},
    {"value": {}},
    {"value": []},
    {"value": {"cka": 1}},
    {"value": {"cka": {"value": "x"}}},
]


def select(out: Path) -> dict[str, Any]:
    draws = np.random.default_rng(0)
    image, text = (draws.normal(size=(60, width)).astype(np.float32) for width in (6, 5))
    return ist.select(image={"i": image}, text={"t": text}, seeds=0, bootstrap=5, out=out).to_dict()


def other_digit(path: Path) -> None:
    """The first score is another one."""
    told = json.loads(path.read_text())
    score = next(iter(told["value"].values()))
    score["value"] = 0.123
    path.write_text(json.dumps(told))


def without_seal(path: Path) -> None:
    other_digit(path)
    told = json.loads(path.read_text())
    del told["seal"]
    path.write_text(json.dumps(told))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("damage", [other_digit, without_seal, cut])
def test_a_damaged_score_is_computed_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    first = select(tmp_path)
    files = [path for path in (tmp_path / "scores").glob("*.json") if json.loads(path.read_text())["value"]]
    written = {path: path.read_bytes() for path in files}
    assert files
    for path in files:
        damage(path)
    assert select(tmp_path)["pairs"] == first["pairs"]
    assert {path: path.read_bytes() for path in files} == written


@pytest.mark.parametrize("value", SHAPES, ids=str)
def test_a_sealed_score_of_another_shape_is_computed_again(tmp_path: Path, value: Any) -> None:
    first = select(tmp_path)
    for path in (tmp_path / "scores").glob("*.json"):
        write_sealed(path, value) if isinstance(value, dict) else path.write_text(json.dumps(value))
    assert select(tmp_path)["pairs"] == first["pairs"]


def test_sound_scores_are_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = select(tmp_path)
    monkeypatch.setattr("isthmus.selection.scoring.PairScorer.pair", lambda *_: pytest.fail("computed again"))
    assert select(tmp_path)["pairs"] == first["pairs"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"first_choice": 1, "store": "x"}', '{"first_choice": {}}', "1"])
def test_a_selection_of_another_shape_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "select.json").write_text(text)
    with pytest.raises(InputError, match=r"select\.json"):
        first_choice(tmp_path, {})


def test_a_changed_selection_is_refused(tmp_path: Path) -> None:
    write_sealed(tmp_path / "select.json", {"store": "store", "first_choice": {"image": "a", "text": "b"}})
    path = tmp_path / "select.json"
    assert first_choice(tmp_path, {})[1] == {"image": "a", "text": "b"}
    path.write_text(path.read_text().replace('"a"', '"c"'))
    with pytest.raises(InputError, match="changed or damaged"):
        first_choice(tmp_path, {})


def test_a_result_of_a_suite_is_kept_while_it_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "pets.json"
    origin = {"dataset": "pets", "model": "m", "task": "zeroshot_classification"}
    done = write(path, {"metrics": {"acc1": 0.5}, "key": "k"}, **origin)
    assert kept(path, "k") == done == read(path) and kept(path, "other") is None
    path.write_text(path.read_text().replace("0.5", "0.6"))
    assert kept(path, "k") is None
    with pytest.raises(InputError, match="changed or damaged"):
        read(path)


@pytest.mark.parametrize("metrics", [None, [], {"acc1": "x"}, {"acc1": [1]}])
def test_a_sealed_result_of_another_shape_is_not_kept(tmp_path: Path, metrics: Any) -> None:
    path = tmp_path / "pets.json"
    write_sealed(path, {"metrics": metrics, "key": "k", "dataset": "pets", "model": "m", "task": "t"})
    assert kept(path, "k") is None


def test_what_is_cached_needs_its_seal(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    assert read_cached(path) is None
    write_sealed(path, {"a": [1, 2]})
    assert read_cached(path) == {"a": [1, 2]}
    path.write_text('{"a": [1, 2]}')
    assert read_cached(path) is None
