"""Arguments and printing that several commands share."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isthmus.evaluation.tasks import Option

from isthmus.errors import InputError

WIDTH = 80  # columns of a terminal
# C0 controls except tab and line feed, C1 controls, surrogates, and marks that change the direction of text.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def say(text: Any = "", *, error: bool = False) -> None:
    """Print a text. Control characters in it, from captions or ids, are escaped: they could act on the terminal."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def say_folded(text: Any, *, error: bool = False) -> None:
    """Print prose. On a terminal a long line continues below, indented; elsewhere it stays one line, for searching."""
    lines, stream = str(text).splitlines(), sys.stderr if error else sys.stdout
    say("\n".join(map(_folded, lines) if stream.isatty() else lines), error=error)


def _folded(line: str) -> str:
    indent = " " * (2 + len(line) - len(line.lstrip()))
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def printable(text: str) -> str:
    """`text` with control characters as `\\u001b`, which JSON reads as the same."""
    return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def prose(text: str) -> str:
    """The paragraphs of a help text in lines of 79; what is indented, such as examples, stays as it is."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(one if "\n  " in one else textwrap.fill(one, 79, break_on_hyphens=False) for one in paragraphs)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """--json and --seed: common to every command that computes something."""
    parser.add_argument("--json", metavar="FILE", help="also write the result as JSON ('-': standard output)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")


def add_reading_arguments(parser: argparse.ArgumentParser, *, images: str | None = "image_folder") -> None:
    """How pairs are read; read them with `reading`. images: what --images is called here, None where it is another."""
    group = parser.add_argument_group("reading pairs (docs/formats.md)")
    group.add_argument(
        "--columns",
        metavar="FIELD=COLUMN,…",
        help="which column of a table is which field: image=filepath,caption=title",
    )
    if images:
        group.add_argument(
            "--images", metavar="DIR", dest=images, help="the folder of a table's images, if not its own"
        )
    group.add_argument("--split", metavar="NAME", help="only this split: train, val or test")
    group.add_argument(
        "--range",
        metavar="LOW:HIGH",
        help="black and white level of grey with more than 8 bits: 0:4095 for 12 bits in 16",
    )
    group.add_argument("--pages", metavar="all|N", help="pages of a TIFF to read: all, or the N-th (the first)")


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `read_pairs` that were given."""
    named = ("columns", "split", "range", "pages")
    given = {name: getattr(args, name) for name in named if getattr(args, name, None) is not None}
    folder = getattr(args, "image_folder", None)
    return given if folder is None else given | {"images": folder}


def read_printing_notes(path: str, **options: Any) -> Any:
    """Read pairs, and print the remarks on them before any work starts."""
    from isthmus.data.pairs import read_pairs

    pairs = read_pairs(path, **options)
    print_notes(pairs.notes)
    return pairs


def print_notes(notes: list[str], printed: list[str] | None = None) -> None:
    """Print remarks, other than those that were `printed` already."""
    for note in notes:
        if note not in (printed or []):
            say_folded(f"  note: {note}", error=True)


def check_paths(*paths: str | None) -> None:
    """InputError for a path that does not exist, before anything slow is imported. URIs and patterns pass."""
    for path in paths:
        if path is None or re.match(r"[a-z_]{2,}:", path) or os.path.lexists(path) or set(path) & set("{*?["):
            continue
        folder, name = os.path.split(path)
        there = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
        near = difflib.get_close_matches(name, there[:10_000], n=1, cutoff=0.7)
        hint = f" Did you mean {os.path.join(folder, near[0])!r}?" if near else ""
        raise InputError(f"{path}: no such file or folder.{hint}")


def file_names(*names: str) -> list[str]:
    """Those of `names` that can only be files; the others may name something packaged."""
    return [name for name in names if os.path.dirname(name) or name.endswith((".toml", ".txt", ".json"))]


def add_templates_argument(parser: argparse.ArgumentParser) -> None:
    """--templates; read it with `templates`."""
    parser.add_argument("--templates", metavar="NAME|FILE|PROMPT", nargs="+", help="prompts with a {} slot")


def templates(args: argparse.Namespace) -> str | list[str]:
    """The prompts on the command line, or the name or file of a set of prompts."""
    return prompts(args.templates or ["default"])


def prompts(given: list[str]) -> str | list[str]:
    """What follows --templates: prompts, or the one name or file of a set of them."""
    return given[0] if len(given) == 1 and "{" not in given[0] else given


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """--device and --trust-remote-code."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 …; default: the GPU when there is one")
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that a hub encoder brings with it (it can do anything)",
    )


def add_option(parser: argparse.ArgumentParser, option: Option, *, hidden: bool = False) -> None:
    """Add an option of a task to the command line."""
    name = option.name.replace("_", "-")
    text = option.help.rstrip(".").replace("%", "%%")
    shown: dict[str, Any] = {"dest": option.name, "default": None, "help": argparse.SUPPRESS if hidden else text}
    parser.add_argument(f"--no-{name}" if option.default == "True" else f"--{name}", **shown, **_parsed(option))
    if "Prompts" in option.kind:
        text = argparse.SUPPRESS if hidden else "{class: [sentences]} in place of templates"
        parser.add_argument("--descriptions", metavar="JSON", help=text)


def _parsed(option: Option) -> dict[str, Any]:
    """The argparse settings for each kind of option that `isthmus.evaluation.tasks` lists."""
    if "Prompts" in option.kind:
        return {"nargs": "+", "metavar": "NAME|FILE|PROMPT"}
    if "Path" in option.kind:
        return {"metavar": "PATH"}
    if option.choices:
        bare = {"nargs": "?", "const": option.choices[0]} if option.default == "None" else {}
        return {"choices": option.choices, **bare}
    simple: dict[str, dict[str, Any]] = {
        "bool": {"action": "store_false" if option.default == "True" else "store_true"},
        "int": {"type": int, "metavar": "N"},
        "float": {"type": float, "metavar": "X"},
        "Sequence[int]": {"type": numbers, "metavar": "1,2"},
        "Sequence[str]": {"type": names, "metavar": "A,B"},
    }
    return simple.get(option.kind[0], {"metavar": "NAME"})


def names(text: str) -> list[str]:
    """`a,b` as a list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[int]:
    """`1,2` as a list; ValueError for anything but whole numbers."""
    return [int(name) for name in names(text)]


SEGMENTING = ("size", "window", "stride", "threshold", "attention", "alone", "cls")


def add_segmentation_arguments(parser: argparse.ArgumentParser) -> None:
    """How an image is segmented, as the task takes it; read them with `segmentation_options`."""
    from isthmus.evaluation.tasks import describe

    for option in describe("segmentation").options:
        if option.name in SEGMENTING:
            add_option(parser, option)


def segmentation_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those given, as keywords."""
    return {name: getattr(args, name) for name in SEGMENTING if getattr(args, name) is not None}


def progress_wanted() -> bool:
    """A bar on a terminal, plain lines otherwise."""
    return sys.stderr.isatty()


def write_result(args: argparse.Namespace, result: Any) -> None:
    """Write the result where --json says."""
    if args.json == "-":
        import json

        say(json.dumps(result, indent=2, ensure_ascii=False))
    elif args.json:
        from isthmus.files import write_json

        write_json(args.json, result)


def print_skipped(skipped: Sequence[tuple[str, str]], listed: str | None = None) -> None:
    """The first few skipped items, all where no file has them `listed`."""
    for item, reason in skipped[:5] if listed else skipped:
        say_folded(f"  skipped {item}: {reason}", error=True)
    if listed and len(skipped) > 5:
        say(f"  … and {len(skipped) - 5:,} more in {listed}", error=True)


def lines(facts: dict[str, Any], indent: str = "") -> str:
    """A nested dictionary as `name: value` lines."""
    out = []
    for name, value in facts.items():
        if isinstance(value, dict):
            out += [f"{indent}{name}:", lines(value, indent + "  ")] if value else []
        else:
            out.append(f"{indent}{name}: {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(out)
