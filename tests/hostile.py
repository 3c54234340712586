"""Files and folders of encoders, changed at random."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bounded import cost
from isthmus.encoders import load_encoder

VALUES: list[Any] = [
    None,
    -1,
    0,
    1.5,
    10**9,
    200_000,
    10**30,
    "x",
    "",
    [],
    [1, 2],
    {},
    {"a": [1]},
    True,
    "../..",
    1e308,
]


def mutated(data: bytes, draw: random.Random) -> bytes:
    place, length = draw.randrange(len(data) + 1), draw.choice([1, 2, 16, 500])
    return draw.choice(
        [
            lambda: data[:place],
            lambda: data[:place] + draw.randbytes(length) + data[place + length :],
            lambda: data[:place] + bytes(length) + data[place + length :],
            lambda: data[:place] + draw.randbytes(length) + data[place:],
            lambda: data[:place] + data[place + length :],
            lambda: data + data,
            lambda: b"",
            lambda: draw.randbytes(length),
        ]
    )()


def hostile(value: Any, draw: random.Random) -> Any:
    """A configuration with one of its values, at any depth, replaced."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        return value | {key: hostile(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.7:
        place = draw.randrange(len(value))
        return [*value[:place], hostile(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)


def attack(made: Mapping[str, tuple[str, Path]], seconds: float, scratch: Path, modality: str | None = None) -> str:
    """Load copies of encoders with one JSON file changed, and say how many loaded and how many were refused.

    made: by the family's name, the source (`hf`, `st` …) and the folder. modality: for `load_encoder`. Each load ends
    within 10 s and 2 GiB, and in no error but one of ours (`bounded.cost`).
    """
    draw, told = random.Random(0), Counter[str]()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for family, (source, folder) in made.items():
            copy = Path(shutil.copytree(folder, scratch / "copy"))
            file = draw.choice(sorted(copy.rglob("*.json")))
            before = file.read_text()
            if draw.random() < 0.7:
                text = json.dumps(hostile(json.loads(before), draw))
            else:
                text = mutated(before.encode(), draw).decode("utf-8", "replace")
            file.write_text(text)
            spent = cost(partial(load_encoder, f"{source}:{copy}", modality=modality))
            assert spent.seconds < 10 and spent.mib < 2048, (file, text[:500], spent)
            told[f"{family}: {'refused' if spent.error else 'loaded'}"] += 1
            shutil.rmtree(copy)
    return f"{told.total()} hostile folders {dict(told)}"
