"""The documentation: its code runs as it stands, its commands are ours, its links lead somewhere."""

from __future__ import annotations

import ast
import csv
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import isthmus as ist
import isthmus_demo
from isthmus.cli import build_parser

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def in_order(nav: Any) -> list[str]:
    """The pages of a navigation, as a reader goes through them."""
    if isinstance(nav, str):
        return [nav]
    return list(chain.from_iterable(map(in_order, nav.values() if isinstance(nav, dict) else nav)))


def blocks(page: Path, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


def commands(page: Path, *languages: str) -> list[list[str]]:
    found = [block for language in languages or ("", "console") for block in blocks(page, language)]
    lines = "\n".join(found).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.match(r"isthmus [a-z]", line)]


def run_python(page: Path) -> dict[str, Any]:
    """What the blocks of a page, in their order, leave behind by name."""
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), namespace)  # our own page
    return namespace


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pages_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page by itself, in one folder: a page goes on with the files that earlier ones of the guide wrote."""
    monkeypatch.chdir(tmp_path)
    apart = ("tutorial.md", "own-loop.md")  # which have tests of their own
    pages = [DOCS / name for name in in_order(SITE["nav"]) if blocks(DOCS / name, "python") and name not in apart]
    assert len(pages) >= 12
    for page in sorted(pages, key=lambda page: page.parent.name != "guide"):
        run_python(page)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_runs_on_a_folder_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = ist.read_pairs(isthmus_demo.PAIRS)
    some = pairs.subset(pairs.images["id"].to_pylist()[::100])
    texts = dict(zip(some.captions["id"].to_pylist(), some.captions["caption"].to_pylist(), strict=True))
    (tmp_path / "photos").mkdir()
    rows = []
    for number, name in enumerate(some.images["id"].to_pylist()):
        rows.append((f"photos/{number:04d}.png", texts[name]))
        some.decode(number).save(tmp_path / rows[-1][0])
    with open(tmp_path / "captions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    monkeypatch.chdir(tmp_path)
    for command in commands(DOCS / "tutorial.md", "console"):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").exists()
    run_python(DOCS / "tutorial.md")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        build, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\" >]*)", page.read_text("utf-8")
        )
        assert loaded == [], page.name


def test_the_pages_of_recipes_are_what_their_files_say() -> None:
    spec = importlib.util.spec_from_file_location("recipe_pages", DOCS / "recipe_pages.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "recipes").glob("*.md")}
    assert written == {file.stem: script.page(file) for file in script.RECIPES.glob("*.toml")}


def test_every_command_on_a_page_is_understood() -> None:
    found = [(page, command) for page in PAGES for command in commands(page) if "…" not in "".join(command)]
    assert len(found) >= 60
    for page, command in found:
        try:
            build_parser().parse_args(command[1:])
        except SystemExit:
            pytest.fail(f"{page.name}: {shlex.join(command)}")


def test_every_page_is_in_the_navigation() -> None:
    named = in_order(SITE["nav"])
    assert len(named) == len(set(named))
    assert {str(page.relative_to(DOCS)) for page in PAGES} == set(named)


def heading(line: str) -> str:
    """The anchor of a heading, as GitHub and Python-Markdown have it."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", re.sub(r"\]\([^)]*\)", "", line).lower()).strip())


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *(ROOT / "demo").glob("*.md"), *PAGES], ids=lambda page: page.stem
)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        other = page.parent / path if path else page
        assert other.exists(), target
        assert page not in PAGES or other.resolve().is_relative_to(DOCS), f"{target} is not on the site"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.M)
            assert anchor in map(heading, headings), target


@pytest.mark.slow
def test_a_loop_of_ones_own_trains_a_model_that_loads_and_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's blocks, in order; what they train is far above chance and comes back from its folder."""
    monkeypatch.chdir(tmp_path)
    namespace = run_python(DOCS / "own-loop.md")
    found = namespace["found"]
    assert found["metrics"]["mean_recall@10"] > 1.5 * found["chance"]["mean_recall@10"]
    given = {"image": [namespace["thumbnails"]]}
    again = ist.DualEncoder.from_pretrained("model", encoders=given)
    picture = namespace["some"][0]["image"]
    whole = namespace["model"].with_encoders(**given)
    np.testing.assert_allclose(again.encode_image(picture), whole.encode_image(picture), atol=1e-6)


def test_every_promise_has_the_tests_it_names() -> None:
    page = (DOCS / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| guarantee")]
    assert len(rows) >= 20
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, f"no test is named: {row}"
        for file, test in named:
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", source, re.M), f"{file} has no {test}"


def texts_of(source: Path) -> Iterator[str]:
    """The texts in a file, with `…` for what an f-string puts in."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_message_that_is_quoted_is_one_of_ours() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8").partition("## Speed")[0]
    quoted = re.findall(r"^\| (?:``(.+?)``|`(.+?)`) \|", page, re.M)
    assert len(quoted) >= 35
    known = {text.replace("`", "") for source in (ROOT / "src").rglob("*.py") for text in texts_of(source)}
    for message in ("".join(found).replace("`", "") for found in quoted):
        parts = [re.escape(part.strip()) for part in message.split("…") if part.strip()]
        assert any(re.search(".*".join(parts), text) for text in known), message
