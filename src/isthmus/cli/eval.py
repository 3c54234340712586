"""Evaluate a model: retrieval, zero-shot classification and more, with 95 % intervals.

example:
  isthmus eval model/ retrieval test.parquet --json result.json
  isthmus eval model/ retrieval store/ --split test
  isthmus eval model/ retrieval dataset_flickr30k.json --images flickr30k-images/ --split test
  isthmus eval model/ zeroshot labelled.parquet --classes classnames.txt --templates 'a drawing of {}.'
  isthmus eval model/ winoground winoground/ --images winoground/images
  isthmus eval model/ longtext Urban1k/ --report lengths.html
  isthmus eval model/ multilingual XTD10/ --languages en,de,ko
  isthmus eval model/ segmentation scenes/ --size 448 --window 224 --threshold 0.5
  isthmus eval model/ suite --data datasets/ --only-sets sail --out results/ --beside hf:openai/clip-vit-base-patch32

DATA is pairs (images run through the model), a store (its cached features), or what the task reads.
`isthmus eval MODEL TASK --help` shows a task's own options.
"""

from __future__ import annotations

import argparse
import textwrap
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings

from isthmus.cli import common
from isthmus.errors import UsageError

if TYPE_CHECKING:
    from isthmus.evaluation.tasks import Option

READING = ("columns", "images", "pages", "range")  # options of reading pairs


class Help(argparse.Action):
    """`--help`: after the name of a task, the options of that task; otherwise all tasks and their common options."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        from isthmus.evaluation.tasks import TASKS

        (_task_parser(namespace.task) if namespace.task in TASKS.names() else parser).print_help()
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from isthmus.evaluation.tasks import TASKS, describe

    parser.add_argument("model", metavar="MODEL", help="a folder, or a ready dual encoder: hf:…, open_clip:…, st:…")
    parser.add_argument("task", metavar="TASK", help="one of those below")
    parser.add_argument("data", metavar="DATA", nargs="*", default=[])
    parser.add_argument("--data", metavar="DATA", dest="more_data", nargs="+", default=[], help="the same as DATA")
    parser.add_argument("--beside", metavar="MODEL", nargs="+", default=[], help="more models, for the same table")
    common.add_encoder_arguments(parser)
    common.add_run_arguments(parser)
    options: dict[str, Option] = {}
    lines = ["tasks:"]
    for name in TASKS.names():
        summary = "(its source file cannot be read)"
        with suppress(UsageError):  # a broken task of another package must not hide the others
            described = describe(name)
            summary = described.summary
            options |= {option.name: option for option in described.options if option.name not in options}
        lines.append(textwrap.fill(f"  {name:<14}{summary}", 79, subsequent_indent=" " * 16))
    parser.epilog = "\n".join([parser.epilog or "", "", *lines])
    for option in options.values():  # of all tasks; `evaluate` refuses those of other tasks
        with suppress(argparse.ArgumentError):  # an option that all commands have, such as --seed
            common.add_option(parser, option, hidden=True)
    parser.set_defaults(options=list(options.values()))


def run(args: argparse.Namespace) -> int:
    data: list[Any] = [*args.data, *args.more_data]
    if not data:
        raise UsageError("DATA is missing: pairs, a store, or what the task reads.")
    common.check_paths(args.model, *args.beside, *data, *_paths(args))
    from isthmus.api import evaluate
    from isthmus.evaluation.exposure import SeenWarning, told
    from isthmus.evaluation.tasks import check_options, find_task
    from isthmus.metrics.results import details, table

    given = _given(args)
    check_options(args.task, given)
    if args.task in ("retrieval", "zeroshot"):  # whose data are always pairs: read once, whatever the models
        reading = {name: given.pop(name) for name in READING if name in given}
        data = [_read(one, reading) for one in data]
    printed = [note for one in data if not isinstance(one, str) for note in one.notes]
    results = []
    for model, one in product([args.model, *args.beside], data):
        loading = {"device": args.device, "trust_remote_code": args.trust_remote_code}
        with catch_warnings(action="ignore", category=SeenWarning):  # said below the table, where it is read
            found = evaluate(model, args.task, one, **loading, **given)
        results += found if isinstance(found, list) else [found]
    for found in results if printed else ():
        found["notes"] = [note for note in found["notes"] if note not in printed]
    common.say(table(results, find_task(args.task).columns))
    if below := details(results):
        common.say("\n" + below)
    for line in told(results):
        common.say_folded(line)
    for warning in dict.fromkeys(f"{one['dataset']}: {text}" for one in results for text in one.get("warnings", [])):
        common.say_folded(f"WARNING: {warning}", error=True)
    common.write_result(args, results[0] if len(results) == 1 else results)
    return 3 if any(result.get("skipped") for result in results) else 0


def _paths(args: argparse.Namespace) -> list[str]:
    """The values of options that must be existing files or folders."""
    given = [getattr(args, name, None) for name in ("only", "images", "against", "classes", "descriptions")]
    return [path for path in given if path] + common.file_names(*args.templates or [])


def _read(path: str, reading: dict[str, Any]) -> Any:
    """Read pairs and print their remarks; return a store's path as it is."""
    from isthmus.store.opening import holds_features

    if not holds_features(path):
        return common.read_printing_notes(path, captions="optional", **reading)
    if reading:
        raise UsageError(f"{path}: a store, which holds features: {', '.join(reading)} are for reading pairs.")
    return path


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The options on the command line; for the others the task's own default holds."""
    from isthmus.evaluation.tasks import describe

    given = {}
    for option in args.options:
        value = getattr(args, option.name, None)
        if value is not None:
            given[option.name] = common.prompts(value) if "Prompts" in option.kind else value
    if args.descriptions:
        given["templates"] = args.descriptions
    if not args.seed and all(option.name != "seed" for option in describe(args.task).options):
        given.pop("seed")
    return given


def _task_parser(name: str) -> argparse.ArgumentParser:
    """The parser behind `isthmus eval MODEL NAME --help`."""
    from isthmus.evaluation.tasks import describe

    described = describe(name)
    primary = f"primary metric: {described.primary}. " if described.primary else ""
    parser = argparse.ArgumentParser(
        usage=f"isthmus eval MODEL {name} DATA [DATA ...] [options]",
        description=described.summary,
        epilog=f"{primary}What every task takes: isthmus eval --help",
        add_help=False,
    )
    parser.add_argument("data", metavar="DATA", nargs="+", help="what the task reads")
    for option in described.options:
        common.add_option(parser, option)
    return parser
