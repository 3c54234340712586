"""The demo's page and table, rendered from plain facts: no encoder, no training."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from isthmus.errors import UsageError
from isthmus.report import Picture, duration
from isthmus.report.figures import INK
from isthmus_demo import figures
from isthmus_demo.report import (
    Mistake,
    Report,
    Search,
    largest_confusions,
    render,
    write_report,
)
from isthmus_demo.results import COLUMNS, Curve, SystemResult, text_table
from isthmus_demo.segments import Scenes

CLASSES = ["bird", "fish", "tree"]
HOSTILE = '<script>alert("caption")</script>'


def make_result(recipe: str, share: float, **changes: object) -> SystemResult:
    metrics = {column.metric: share for column in COLUMNS}
    result = SystemResult(
        recipe,
        training="all 20 epochs",
        planned=20,
        seconds=11.0,
        parameters=1_234_567,
        metrics=metrics,
        ci95={name: (value - 0.02, value + 0.03) for name, value in metrics.items()},
        curve=Curve([0, 5, 11], [0, 10, 20], [0.0, 0.2, share]),
        difference=(-0.03, -0.05, 0.01),
    )
    return dataclasses.replace(result, **changes)


def make_report(**changes: object) -> Report:
    picture = Picture(Image.new("RGB", (300, 200), "red"), HOSTILE)
    report = Report(
        command="isthmus demo --seed 0",
        machine="a machine",
        data="some data",
        encoders=[{"modality": "image", "uri": "wheel:a", "width": 8, "licence": "MIT"}],
        splits={name: {"images": 1500, "groups": 1400} for name in ("train", "val", "test")},
        stages=[("embed", 130.0), ("train", 5.0)],
        results=[
            make_result("cca", 0.38, training="closed form", planned=0, curve=Curve([0], [0], [0.38])),
            make_result("sail", 0.10, training="stopped at epoch 33 of 100 (time limit)"),
            make_result("default", 0.43, difference=None),
        ],
        chance={column.metric: 0.0123 for column in COLUMNS},
        captions_with_class=0.312,
        max_seconds=60.0,
        classes=CLASSES,
        confusion=np.array([[5, 1, 0], [2, 6, 3], [0, 0, 4]]),
        searches=[Search("a red car", [(picture, 0.5)] * 6)],
        mistakes=[Mistake(picture, "bird", "fish", 0.93)],
    )
    return dataclasses.replace(report, **changes)


@pytest.fixture(scope="module")
def page() -> str:
    return render(make_report())


class Resources(HTMLParser):
    """Collects the elements and all that an element would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loaded: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loaded += [v or "" for name, v in attrs if name in ("src", "srcset", "data", "poster")]
        self.loaded += [v or "" for name, v in attrs if name.endswith("href") and not (v or "").startswith("#")]


def test_the_page_loads_nothing_from_outside(page: str) -> None:
    found = Resources(page)
    assert found.loaded
    assert all(source.startswith("data:image/webp;base64,") for source in found.loaded)
    assert not {"script", "link", "iframe", "object"} & found.tags
    assert not re.search(r"@import|url\((?!#)", page)


def test_text_from_the_data_is_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_the_page_states_intervals_chance_and_where_training_stopped(page: str) -> None:
    assert "43.0<small>41.0–46.0</small>" in page
    assert "1.23" in page
    assert "stopped at epoch 33 of 100 (time limit)" in page
    assert "31.2 % of the training captions" in page
    assert "−3.0<small>−5.0 to +1.0</small>" in page


def test_only_the_highest_value_of_a_column_is_bold(page: str) -> None:
    bold = re.findall(r'<td class="value[^"]* best">([\d.]+)', page)
    assert bold == ["43.0"] * len(COLUMNS)


def test_the_page_follows_the_readers_colour_scheme(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "currentColor" in page
    assert INK not in page


def test_segmented_scenes_are_shown_where_there_are_any(page: str) -> None:
    scene = Picture(Image.new("RGB", (900, 480), "green"), "car, tree")
    shown = render(make_report(scenes=Scenes([scene], 0.33, 0.57, 0.15, 0.71, 8)))
    assert "8 × 8 cells" in shown and "car, tree" in shown and "33 %" in shown and "15 % and 71 %" in shown
    assert "segmentation" not in page


def test_pictures_are_small(page: str) -> None:
    big = Picture(Image.effect_noise((2000, 2000), 90), "noise")
    report = make_report(searches=[Search("noise", [(big, 0.1)] * 6)] * 12, mistakes=[])
    assert len(render(report)) < 2e6


def test_write_report_puts_the_page_in_place(tmp_path) -> None:
    write_report(make_report(), tmp_path / "out" / "report.html")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}.*isthmus\[report\]"):
        render(make_report())


def test_the_terminal_table_has_a_row_per_recipe_and_one_for_chance() -> None:
    report = make_report()
    lines = text_table(report.results, report.chance).splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("default")][1:]  # below what was trained
    assert [value for row in rows for value in lines[row].split()[1:]] == ["43.0"] * len(COLUMNS)
    assert [value for row in rows for value in lines[row + 1].split()] == ["41.0–46.0"] * len(COLUMNS)
    guessed = [line.split() for line in lines if line.startswith("chance")]
    assert [value for line in guessed for value in line[1:]] == ["1.23"] * len(COLUMNS)
    assert max(map(len, lines)) <= 80


def test_the_confusion_matrix_draws_each_pair_that_occurs_and_the_best_class_first() -> None:
    drawn = figures.confusion(np.array([[1, 3], [0, 4]]), ["bird", "fish"])
    labels = re.findall(r">([a-z]+ · \d+|\d+ %)<", drawn)
    assert [label for label in labels if "%" in label] == ["100 %", "25 %"]
    assert [label for label in labels if "·" in label] == ["fish · 4", "bird · 4"]
    assert len(re.findall(r"fill: #3b82f\w", drawn)) == 3


def test_a_class_without_pictures_is_a_column_but_no_row() -> None:
    drawn = figures.confusion(np.array([[0, 0], [1, 3]]), ["tree", "bird"])
    assert re.findall(r">(bird|tree)[ ·\d]*<", drawn) == ["bird", "tree", "bird"]
    assert "tree ·" not in drawn


def test_a_closed_form_is_a_level_and_a_trained_recipe_a_line() -> None:
    drawn = figures.training_curves(make_report().results)
    assert "cca (closed form)" in drawn
    assert "stroke-dasharray" in drawn
    assert ">default<" in drawn


def test_largest_confusions_leave_out_the_diagonal_and_zeros() -> None:
    counts = np.array([[5, 1, 0], [2, 6, 3], [0, 0, 4]])
    assert largest_confusions(counts, CLASSES) == [
        ("fish", "tree", 3, 11),
        ("fish", "bird", 2, 11),
        ("bird", "fish", 1, 6),
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.84, "0.8 s"), (42.4, "42 s"), (59.7, "1 min"), (125.2, "2 min 5 s")])
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
