"""Evaluate a model: retrieval, zero-shot classification and more, with 95 % intervals.

example:
  isthmus eval model/ retrieval test.parquet --json result.json
  isthmus eval model/ retrieval store/ --split test
  isthmus eval model/ zeroshot labelled.parquet --classes classnames.txt --templates 'a drawing of {}.'
  isthmus eval model/ winoground winoground/ --images winoground/images
  isthmus eval model/ longtext Urban1k/ --report lengths.html
  isthmus eval model/ multilingual XTD10/ --languages en,de,ko
  isthmus eval model/ segmentation scenes/ --size 448 --window 224 --threshold 0.5
  isthmus eval model/ suite --data datasets/ --only-sets sail --out results/ --beside hf:openai/clip-vit-base-patch32

DATA is pairs (images run through the model), a store (its cached features), or what the task reads.

tasks:
  retrieval, zeroshot               pairs or a store; zeroshot needs labels
  suite                             a folder of data sets, as published or as CLIP_benchmark has them
  knn, linear_probe, fewshot        labelled pictures, before and after the projector
  winoground, mmvp, sugarcrepe, aro, whatsup      composition, in the public layouts
  longtext, multilingual            captions by length, by language
  segmentation                      pictures with masks
  diagnose                          gap, hubs, calibration, near-duplicates of training data
"""

from __future__ import annotations

import argparse
from itertools import product

from isthmus.cli import common
from isthmus.errors import UsageError

# Options of tasks: what is not given on the command line is left to the task's own default.
OWN = (
    "split",
    "only",
    "classes",
    "bootstrap",
    "against",
    "report",
    "precision",
    "images",
    "only_sets",
    "protocol",
    "out",
    "max_tokens",
    "languages",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder, or a ready dual encoder: hf:…, open_clip:…, st:…")
    parser.add_argument("task", metavar="TASK", help="retrieval, zeroshot, suite, winoground, longtext, diagnose, …")
    parser.add_argument("data", metavar="DATA", nargs="*", default=[])
    parser.add_argument("--data", metavar="DATA", dest="more_data", nargs="+", default=[], help="the same as DATA")
    parser.add_argument("--beside", metavar="MODEL", nargs="+", default=[], help="more models, for the same table")
    parser.add_argument("--split", metavar="NAME", help="train, val, test, or one of the set's own")
    parser.add_argument("--only", metavar="PARQUET", help="evaluate only on the ids in this file")
    parser.add_argument("--classes", metavar="FILE", help="names, one a line; multilingual: a folder of LANG.json")
    common.add_templates_argument(parser)
    parser.add_argument("--descriptions", metavar="JSON", help="{class: [sentences]} in place of templates")
    parser.add_argument(
        "--only-sets", metavar="A,B", type=_listed, help="suite: these sets, or a paper's: sail, freeze-align"
    )
    parser.add_argument("--protocol", metavar="PAPER", help="suite, retrieval, segmentation: as in sail, freeze-align")
    parser.add_argument(
        "--out", metavar="DIR", help="suite, knn, linear_probe, fewshot: keep features, go on from them"
    )
    parser.add_argument("--bootstrap", type=int, metavar="N", help="resamples behind the intervals (1,000)")
    parser.add_argument("--images", metavar="FOLDER", help="where the images are, if not in the set's usual place")
    parser.add_argument("--against", metavar="TRAIN", help="diagnose: the training data; what of DATA do they hold?")
    parser.add_argument("--report", metavar="HTML", help="diagnose, longtext: also write a page with plots")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longtext: read this much of the longest captions")
    parser.add_argument("--languages", metavar="en,de", type=_listed, help="multilingual: these alone")
    parser.add_argument("--precision", type=float, help="diagnose: the share of right answers to abstain for (0.9)")
    common.add_segmentation_arguments(parser)
    common.add_encoder_arguments(parser)
    common.add_run_arguments(parser)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def run(args: argparse.Namespace) -> int:
    from isthmus.api import evaluate
    from isthmus.metrics.results import details, table

    given = {name: getattr(args, name) for name in OWN if getattr(args, name) is not None}
    given |= common.segmentation_options(args)
    if args.templates or args.descriptions:
        given["templates"] = args.descriptions or common.templates(args)
    data = [*args.data, *args.more_data]
    if not data:
        raise UsageError("DATA is missing: pairs, a store, or what the task reads.")
    results = []
    for model, one in product([args.model, *args.beside], data):
        loading = {"device": args.device, "trust_remote_code": args.trust_remote_code}
        found = evaluate(model, args.task, one, seed=args.seed, **loading, **given)
        results += found if isinstance(found, list) else [found]
    common.say(table(results))
    if below := details(results):
        common.say("\n" + below)
    common.write_result(args, results[0] if len(results) == 1 else results)
    return 3 if any(result.get("skipped") for result in results) else 0
