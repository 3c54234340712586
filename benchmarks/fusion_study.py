"""Which layers should a model of questions read? One layer, all of them evenly, or a manager that weighs them.

    python benchmarks/fusion_study.py                    # goes on where it stopped; a run is minutes of one core
    python benchmarks/fusion_study.py --runs 4           # that many further runs
    python benchmarks/fusion_study.py --render           # docs/managers.md from the committed JSON

Protocol. Scenes composed of the demo's cut-outs (`isthmus_demo.questions`), those to train on, to validate on and to
test on from different drawings; questions of eight kinds. Layers of two image encoders are embedded once; the text
encoder is MiniLM. Every run has the recipe `manager` with another aggregator and nothing else changed; the epoch that
is best on the validation scenes is kept, and the test scenes are looked at once, at the end. `best layer` is the one
of greatest accuracy on the validation scenes, by the first seed. `wide last` is METER's input with cross-modal
layers made wide enough to have as many parameters as `aaum`. Runs of one seed see the same batches, so that
differences are paired; intervals are of a bootstrap over test scenes, of the mean of a row's seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import isthmus as ist
from isthmus.data.answers import read_written
from isthmus.data.asked_table import read_asked_table
from isthmus.embedding import embed
from isthmus.fusion import FusionOptions, TwoTower
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.models.fusion_model import FusionModel
from isthmus.store.states import rows_of
from isthmus.training.fusion.batches import StateBatches
from isthmus.training.fusion.data import LayeredPairs
from isthmus_demo.question_run import OVERRIDES, TEXT
from isthmus_demo.questions import KINDS, write_question_scenes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "fusion_study.json"
PAGE = HERE.parent / "docs" / "managers.md"
SCENES = {"train": 700, "val": 100, "test": 250}
IMAGES = {
    "ViT-S": "wheel:dinov2-small-saliency?layer=7,8,9,10,11,12&pool=states",
    "EfficientNet": "wheel:efficientnet-lite1?layer=5,6,7&pool=states",
}
LAYERS = {"ViT-S": range(1, 7), "EfficientNet": range(1, 4)}  # as `layer:K` counts them
NUMBERS = {"ViT-S": (7, 8, 9, 10, 11, 12), "EfficientNet": (5, 6, 7)}
ROWS = ("last", "aaum", "mean", "saum", "bridge", "best layer", "wide last")
SIZES = {"depth": 3, "width": 128, "heads": 4, "grid": 4}  # those of the recipe at this size, and OVERRIDES
SEEDS, RESAMPLES, TOGETHER = 5, 2000, 64


def main() -> None:
    options = parse()
    if options.render:
        PAGE.write_text(render(json.loads(RESULTS.read_text())))
        return
    study = Study(options.work)
    for name, encoder, row, seed in study.wanted(options.encoders):
        if options.runs is not None and options.runs <= 0:
            break
        options.runs = None if options.runs is None else options.runs - 1
        study.add(name, study.run(encoder, row, seed))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/fusion_study"), help="scenes and stores")
    parser.add_argument("--runs", type=int, help="stop after so many")
    parser.add_argument("--encoders", nargs="+", choices=list(IMAGES), default=list(IMAGES))
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


class Study:
    """Scenes and stores on disk, and the runs that are known."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.table = write_question_scenes(work / "scenes", SCENES)
        self.asked = read_asked_table(self.table).asked
        self.kind_of = {(one.image, one.question): one.kind for one in self.asked}
        self.known = self.read()

    def read(self) -> dict[str, Any]:
        return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}}

    def wanted(self, encoders: list[str]) -> Iterator[tuple[str, str, str, int]]:
        """The runs that are missing, seed by seed; the layers by themselves before the row that takes the best."""
        for seed in range(SEEDS):
            for encoder in encoders:
                for row in ROWS:
                    names = [f"layer:{k}" for k in LAYERS[encoder]] if row == "best layer" and not seed else []
                    for chosen in [*names, *([] if names else [row])]:
                        if chosen == "best layer":
                            chosen = self.best_layer(encoder)
                        name = f"{encoder}/{chosen}/{seed}"
                        if name not in self.known["runs"]:
                            yield name, encoder, chosen, seed

    def best_layer(self, encoder: str) -> str:
        """The `layer:K` of greatest accuracy on the validation scenes, by the first seed."""
        runs = self.known["runs"]
        return max((f"layer:{k}" for k in LAYERS[encoder]), key=lambda one: runs[f"{encoder}/{one}/0"]["val"])

    def store(self, encoder: str) -> Any:
        """The store of an image encoder, embedded if it is not there."""
        folder = self.work / encoder
        embed(self.table, IMAGES[encoder], TEXT, out=folder, states_dtype="int8", progress=True)
        return ist.open_store(folder)

    def run(self, encoder: str, row: str, seed: int) -> dict[str, Any]:
        """Train with one aggregator; what every test question earned, with its own picture and another."""
        store = self.store(encoder)
        overrides = [*OVERRIDES, f'fusion.aggregator="{row.removeprefix("wide ")}"']
        if row == "wide last":
            overrides.append(f"fusion.expand={as_many_as_aaum(store)}")
        began = time.process_time()
        model: Any = ist.train(store, recipe="manager", overrides=overrides, seed=seed)
        seconds = time.process_time() - began
        told = answers(model, self.part(store, "test"))
        kinds = [self.kind_of[one] for one in told.pop("asked")]
        return {
            "kinds": kinds,
            **told,
            "val": model.summary["validation"]["val_accuracy"],
            "parameters": model.summary["parameters"],
            "epochs": model.summary["returned_epoch"],
            "cpu_seconds": round(seconds, 1),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} thread, torch {torch.__version__}",
        }

    def part(self, store: Any, split: str) -> LayeredPairs:
        states = {side: store.states(side) for side in ("image", "text")}
        pairs = store.numbered_pairs(states, split=split)
        cells = store.captions["answers"].to_pylist()
        told = [read_written(cells[row]) for row in rows_of(pairs.text).tolist()]
        return LayeredPairs(pairs, states["image"], states["text"], told)

    def guess(self) -> dict[str, float]:
        """Of each kind, the share of test questions whose answer is the most frequent one of training."""
        found = {}
        for kind in KINDS:
            told = {split: [one for one in self.asked if one.kind == kind and one.split == split] for split in SCENES}
            counts = Counter(answer for one in told["train"] for answer in one.scores)
            usual = counts.most_common(1)[0][0]
            found[kind] = float(np.mean([usual in one.scores for one in told["test"]]))
        return found

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Keep a run, at once."""
        shared = {key: found.pop(key) for key in ("kinds", "scenes")}
        self.known = self.read()  # another process may run the other encoder
        self.known |= {"scenes": SCENES, "settings": list(OVERRIDES), "test": shared | {"guess": self.guess()}}
        self.known["runs"][name] = found
        RESULTS.write_text(json.dumps(self.known, indent=1) + "\n")
        print(name, f"{100 * np.mean([int(one) for one in found['own']]):.1f} %", found["cpu_seconds"], flush=True)


def as_many_as_aaum(store: Any) -> float:
    """The width inside `last`'s cross-modal layers, in widths, that gives it as many parameters as `aaum` has."""
    widths = {side: store.states(side).widths for side in ("image", "text")}

    def size(aggregator: str, expand: float) -> int:
        options = FusionOptions(aggregator=aggregator, expand=expand, **SIZES)  # type: ignore[arg-type]
        return sum(one.numel() for one in TwoTower(widths, options).parameters())

    step = size("last", 5.0) - size("last", 4.0)
    return round(4 + (size("aaum", 4.0) - size("last", 4.0)) / step, 3)


def answers(model: FusionModel, data: LayeredPairs) -> dict[str, Any]:
    """Of every question, whether its answer is right with its own picture, with that of the scene before, and blind."""
    batches = StateBatches(data, model.network.plan.options.grid, model.device)
    own = data.pairs.image_of
    others = (own - 1) % len(data.pairs)
    found: dict[str, Any] = {}
    for name, pictures in (("own", own), ("shuffled", others)):
        right = ""
        for start in range(0, len(data), TOGETHER):
            rows = np.arange(start, min(start + TOGETHER, len(data)))
            told = model.answer(batches.take("image", pictures[rows]), batches.take("text", rows)).argmax(1)
            right += "".join(str(int(model.answers[k] in data.answers[row])) for row, k in zip(rows, told, strict=True))
        found[name] = right
    ids = [data.pairs.image_ids[k] for k in own.tolist()]
    return found | {"scenes": own.tolist(), "asked": list(zip(ids, data.pairs.captions or [], strict=True))}


# --- the page ---------------------------------------------------------------------------------------------------------


def hits(study: dict[str, Any], encoder: str, row: str, view: str = "own") -> np.ndarray:
    """Right or wrong, float64 [seeds, questions], of a row's runs."""
    runs = [run for name, run in sorted(study["runs"].items()) if name.rpartition("/")[0] == f"{encoder}/{row}"]
    return np.array([[int(one) for one in run[view]] for run in runs], float)


def render(study: dict[str, Any]) -> str:
    """docs/managers.md."""
    encoders = [one for one in IMAGES if len(hits(study, one, "last"))]
    parts = [section(study, encoder) for encoder in encoders]
    return PAGE_TEXT.format(
        sections="\n\n".join(parts) or "**No run of this study is committed yet.**",
        questions=len(study["test"]["kinds"]) if parts else 0,
        settings=", ".join(f"`{one}`" for one in OVERRIDES),
        resamples=RESAMPLES,
        machine=next(iter(study["runs"].values()))["machine"] if parts else platform.machine(),
        missing=missing(study),
        **SCENES,
    )


def missing(study: dict[str, Any]) -> str:
    """The rows that were not run, in words."""
    lacking = {one: [row for row in ROWS if not any(row in name for name in rows_run(study, one))] for one in IMAGES}
    lines = [f"- Not run with {one}: {', '.join(rows)}.\n" for one, rows in lacking.items() if rows]
    return "".join(lines) + "- Not run at all: matching, re-ranked retrieval and entailment, and more scenes.\n"


def rows_run(study: dict[str, Any], encoder: str) -> dict[str, str]:
    """The rows of the table that were run, and the aggregator of each."""
    single = {f"layer:{k}": len(hits(study, encoder, f"layer:{k}")) for k in LAYERS[encoder]}
    known = {row: row for row in ROWS if row != "best layer" and len(hits(study, encoder, row))}
    if all(single.values()):
        runs = study["runs"]
        best = max(single, key=lambda one: runs[f"{encoder}/{one}/0"]["val"])
        number = NUMBERS[encoder][int(best.partition(":")[2]) - 1]
        known[f"best layer ({number})"] = best
    return known


def section(study: dict[str, Any], encoder: str) -> str:
    """One encoder: accuracies, differences, kinds."""
    scenes, kinds = np.array(study["test"]["scenes"]), np.array(study["test"]["kinds"])
    base = hits(study, encoder, "last")
    rows, by_kind = [], []
    chosen = rows_run(study, encoder)
    for name, aggregator in chosen.items():
        own = hits(study, encoder, aggregator)
        runs = [run for key, run in study["runs"].items() if key.rpartition("/")[0] == f"{encoder}/{aggregator}"]
        shared = min(len(own), len(base))
        gap = None if name == "last" else compared(own[:shared].mean(0), base[:shared].mean(0), scenes)
        shuffled = hits(study, encoder, aggregator, "shuffled")
        seconds = [run["cpu_seconds"] for run in runs]
        rows.append(
            [
                name,
                ranged(compared(own.mean(0), np.zeros(len(scenes)), scenes)),
                "" if gap is None else signed(gap),
                f"{100 * shuffled.mean():.1f}",
                len(own),
                f"{runs[0]['parameters'] / 1e6:.2f}",
                f"{np.mean(seconds):.0f}",
            ]
        )
        by_kind.append([name, *(f"{100 * own[:, kinds == kind].mean():.0f}" for kind in KINDS)])
    head = ["reads", "accuracy [95 %]", "minus last [95 %]", "another's picture", "seeds", "M parameters", "CPU s"]
    by_kind.append(["always the most frequent answer", *guesses(study)])
    return (
        f"## {encoder}\n\n`{IMAGES[encoder]}`\n\n"
        f"{tabulate(rows, headers=head, tablefmt='github', disable_numparse=True)}\n\n"
        f"{verdict(rows)}\n\nBy kind of question, percent:\n\n"
        f"{tabulate(by_kind, headers=['reads', *KINDS], tablefmt='github', disable_numparse=True)}"
    )


def guesses(study: dict[str, Any]) -> list[str]:
    """Of each kind, what its most frequent answer would reach."""
    return [f"{100 * study['test']['guess'][kind]:.0f}" for kind in KINDS]


def compared(a: np.ndarray, b: np.ndarray, scenes: np.ndarray) -> list[float]:
    """[a − b, low, high] in points, by a bootstrap over scenes."""
    found = paired_bootstrap(a, b, scenes, resamples=RESAMPLES)
    return [100 * float(value) for value in (found["difference"], *found["ci95"])]


def ranged(value: list[float]) -> str:
    return f"{value[0]:.1f} [{value[1]:.1f}, {value[2]:.1f}]"


def signed(value: list[float]) -> str:
    return f"{value[0]:+.1f} [{value[1]:+.1f}, {value[2]:+.1f}]"


def verdict(rows: list[list[Any]]) -> str:
    """Which rows are above, below or tied with `last`, in words."""
    words: dict[str, list[str]] = {"above": [], "tied with": [], "below": []}
    for name, _, gap, *_ in rows:
        if gap:
            low, high = (float(one) for one in gap.partition("[")[2].rstrip("]").split(", "))
            words["above" if low > 0 else "below" if high < 0 else "tied with"].append(name)
    return "\n".join(f"- {word} the last layer: {'; '.join(names)}." for word, names in words.items() if names)


PAGE_TEXT = """# What a manager gains

Written by `benchmarks/fusion_study.py --render` from `benchmarks/results/fusion_study.json`; do not edit.

A model that answers questions about a picture can read the last layer of its encoders (`last`, METER), one other layer,
one layer for each of its own (`bridge`, BridgeTower), all of them evenly (`mean`), or weigh them: once (`saum`), or for
each token by what is asked (`aaum`, ManagerTower). The recipe is `manager` throughout ({settings}); only the aggregator
differs.

{sections}

## How it was measured

{train} scenes to train on, {val} to choose the epoch by, {test} to test on ({questions} questions), composed of
different drawings: no drawing, and no near-duplicate, is in two of them. The bracket is the 95 % interval of a
bootstrap over test scenes ({resamples} resamples), of the mean of the seeds that were run; it includes chance in the
scenes, not in the drawings, of which there are few. Differences are paired: the same questions, the same seeds, the
same batches. *Another's picture*: the same model, asked about the scene before. CPU seconds of training, {machine},
on a machine that did other work at the same time.

## What this does not show

- Few seeds, as the tables say, and few scenes; a difference whose bracket holds 0 is a tie.
{missing}- The last layer of this ViT is unusually poor: its publisher tuned it for saliency. A gain over it says little
  of other encoders.
- Drawings on plain grounds are not photographs, and fourteen names are not a vocabulary.
"""

if __name__ == "__main__":
    main()
