"""Arguments and printing that several commands share."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

# Of C0 all but tab and line feed, C1, halves of characters, and what turns the direction of the text around it.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def say(text: Any = "", *, error: bool = False) -> None:
    """Print a text. What data brought into it, captions or ids, cannot command the terminal."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def printable(text: str) -> str:
    """`text` with control characters as `\\u001b`, which JSON reads as the same."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """--json and --seed: common to every command that computes something."""
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random (0)")


def add_templates_argument(parser: argparse.ArgumentParser) -> None:
    """--templates; read it with `templates`."""
    parser.add_argument("--templates", metavar="NAME|FILE|PROMPT", nargs="+", help="prompts with a {} slot")


def templates(args: argparse.Namespace) -> str | list[str]:
    """The prompts given, or the name or file of a set of them."""
    given = args.templates or ["default"]
    return given[0] if len(given) == 1 and "{" not in given[0] else given


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """--device and --trust-remote-code."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …; default: the GPU when there is one")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that a hub encoder brings with it (it can do anything)",
    )


SEGMENTING = ("size", "window", "stride", "threshold", "attention", "alone", "cls")


def add_segmentation_arguments(parser: argparse.ArgumentParser) -> None:
    """How an image is segmented; read them with `segmentation_options`."""
    group = parser.add_argument_group("segmentation")
    group.add_argument("--size", type=int, metavar="PX", help="shorter side as the encoder sees it (its own)")
    group.add_argument("--window", type=int, metavar="PX", help="slide a square over the image (the whole at once)")
    group.add_argument("--stride", type=int, metavar="PX", help="from window to window (half a window)")
    group.add_argument("--threshold", type=float, metavar="P", help="less probable pixels are the class 'background'")
    group.add_argument("--attention", choices=["qk", "qq"], help="of the last block: its own (qk), or among queries")
    group.add_argument(
        "--alone",
        nargs="?",
        const="attention",
        choices=["attention", "residual"],
        help="last block: the attention without MLP and residuals (ClearCLIP's), or with its own residual (SAIL's)",
    )
    group.add_argument("--no-cls", dest="cls", action="store_false", default=None, help="token heads: patches alone")


def segmentation_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those given, as keywords."""
    return {name: getattr(args, name) for name in SEGMENTING if getattr(args, name) is not None}


def progress_wanted() -> bool:
    """A bar on a terminal, plain lines otherwise."""
    return sys.stderr.isatty()


def write_result(args: argparse.Namespace, result: Any) -> None:
    """Honour --json."""
    if args.json == "-":
        import json

        say(json.dumps(result, indent=2, ensure_ascii=False))
    elif args.json:
        from isthmus.files import write_json

        write_json(args.json, result)


def print_skipped(store: str, skipped: list[tuple[str, str]]) -> None:
    """The first few skipped items; the store's `skipped.parquet` has all."""
    for item, reason in skipped[:5]:
        say(f"  skipped {item}: {reason}", error=True)
    if len(skipped) > 5:
        say(f"  … and {len(skipped) - 5:,} more in {store}/skipped.parquet", error=True)


def lines(facts: dict[str, Any], indent: str = "") -> str:
    """Nested facts as `name: value` lines."""
    out = []
    for name, value in facts.items():
        if isinstance(value, dict):
            out += [f"{indent}{name}:", lines(value, indent + "  ")] if value else []
        else:
            out.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(out)
