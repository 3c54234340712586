"""The Python blocks of the guide run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isthmus as ist

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "guide.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 6
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)  # our own page


@pytest.mark.slow
def test_a_loop_of_ones_own_trains_a_model_that_loads_and_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's blocks, in order; what they train is far above chance and comes back from its folder."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "own-loop.md"
    namespace: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        exec(compile(block, str(page), "exec"), namespace)  # our own page
    found = namespace["found"]
    assert found["metrics"]["mean_recall@10"] > 1.5 * found["chance"]["mean_recall@10"]
    given = {"image": [namespace["thumbnails"]]}
    again = ist.DualEncoder.from_pretrained("model", encoders=given)
    picture = namespace["some"][0]["image"]
    whole = namespace["model"].with_encoders(**given)
    np.testing.assert_allclose(again.encode_image(picture), whole.encode_image(picture), atol=1e-6)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_promise_has_the_tests_it_names() -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, f"no test is named: {row}"
        for file, test in named:
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", source, re.M), f"{file} has no {test}"
