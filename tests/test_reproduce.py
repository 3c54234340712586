"""docs/reproduce.md: its commands are commands of ours, and its numbers follow from their arguments."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.cli import build_parser
from isthmus.encoders.uri import EncoderURI

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")


def commands() -> list[list[str]]:
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("isthmus ")]


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command[1:3]))
def test_every_command_of_the_page_is_understood(command: list[str]) -> None:
    args = build_parser().parse_args(command[1:])
    named = [getattr(args, name, None) or [] for name in ("image_encoder", "text_encoder", "image_encoders")]
    for uri in (one for listed in named for one in listed):
        assert EncoderURI.parse(uri).source in ("hf", "st")


def test_there_are_commands_for_both_papers() -> None:
    verbs = [command[1] for command in commands()]
    assert {"select", "curate", "embed", "train", "eval"} <= set(verbs)
    assert len(verbs) >= 12


def test_the_page_is_marked_as_not_run_and_counts_the_published_heads() -> None:
    assert "Not run by us" in PAGE
    assert "11,553,792" in PAGE  # and the temperature: 11,553,793
    assert "385,988,608" in PAGE  # and scale and bias: 385,988,610


@pytest.mark.slow
def test_other_sizes_give_other_plans() -> None:
    script = str(ROOT / "benchmarks" / "plan_headlines.py")
    out = [
        subprocess.run([sys.executable, script, *more], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        for more in ([], ["--sail-pairs", "46e6"])
    ]
    bytes_of = [re.search(r"image features on disk.*\| ([\d.]+) GB \|\n", one)[1] for one in out]  # type: ignore[index]
    assert float(bytes_of[1]) == pytest.approx(2 * float(bytes_of[0]), rel=0.01)
    assert out[0].split("\n| text")[0] in PAGE
