"""Which layers should a model of questions read? One layer, all of them evenly, or a manager that weighs them.

    python benchmarks/fusion_study.py                    # goes on where it stopped; a run is minutes of one core
    python benchmarks/fusion_study.py --runs 4           # that many further runs
    python benchmarks/fusion_study.py --of statements    # of one of SETTINGS alone
    python benchmarks/fusion_study.py --render           # docs/managers.md from the committed JSON

Protocol. Scenes composed of the demo's cut-outs (`isthmus_demo.questions`), those to train on, to validate on and to
test on from different drawings; questions of eight kinds, or statements that a scene entails, contradicts or leaves
open. Layers of two image encoders are embedded once; the text encoder is MiniLM. Every run has the recipe `manager`
with another aggregator and nothing else changed; the epoch that is best on the validation scenes is kept, and the test
scenes are looked at once, at the end. `best layer` is the one of greatest accuracy on the validation scenes, by the
first seed. `wide last` is METER's input with cross-modal layers made wide enough to have as many parameters as `aaum`.
Runs of one seed see the same batches, so that differences are paired; intervals are of a bootstrap over test scenes, of
the mean of a row's seeds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import isthmus as ist
import matching_study
from isthmus.data.answers import read_written
from isthmus.data.asked import Asked
from isthmus.data.asked_table import read_asked_table
from isthmus.embedding import embed
from isthmus.fusion import FusionOptions, TwoTower
from isthmus.metrics.bootstrap import paired_bootstrap
from isthmus.models.fusion_model import FusionModel
from isthmus.store.states import rows_of
from isthmus.training.fusion.batches import StateBatches
from isthmus.training.fusion.data import LayeredPairs
from isthmus_demo.question_run import OVERRIDES, TEXT
from isthmus_demo.questions import KINDS, LABELS, write_question_scenes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "fusion_study.json"
PAGE = HERE.parent / "docs" / "managers.md"
SCENES = {"train": 700, "val": 100, "test": 250}
ROWS = ("last", "aaum", "mean", "saum", "bridge", "best layer", "wide last")


@dataclass(frozen=True)
class Setting:
    """One image encoder and what is asked. layers: their numbers in the encoder; `layer:K` counts them from 1."""

    title: str
    encoder: str
    layers: tuple[int, ...]
    statements: bool = False
    rows: tuple[str, ...] = ROWS

    @property
    def image(self) -> str:
        return f"wheel:{self.encoder}?layer={','.join(map(str, self.layers))}&pool=states"

    @property
    def kinds(self) -> tuple[str, ...]:
        return LABELS if self.statements else tuple(KINDS)

    @property
    def singles(self) -> list[str]:
        return [f"layer:{k}" for k in range(1, len(self.layers) + 1)] if "best layer" in self.rows else []


VIT = ("dinov2-small-saliency", (7, 8, 9, 10, 11, 12))
SETTINGS = {
    "ViT-S": Setting("Questions, ViT-S", *VIT),
    "EfficientNet": Setting("Questions, EfficientNet stages", "efficientnet-lite1", (5, 6, 7)),
    "statements": Setting("Statements, ViT-S", *VIT, statements=True, rows=("last", "aaum", "mean")),
}
SIZES = {"depth": 3, "width": 128, "heads": 4, "grid": 4}  # those of the recipe at this size, and OVERRIDES
SEEDS, RESAMPLES, TOGETHER = 5, 2000, 64


def main() -> None:
    options = parse()
    if options.render:
        PAGE.write_text(render(json.loads(RESULTS.read_text())))
        return
    study = Study(options.work)
    for name, setting, row, seed in study.wanted(options.of):
        if options.runs is not None and options.runs <= 0:
            break
        options.runs = None if options.runs is None else options.runs - 1
        study.add(name, study.run(setting, row, seed))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/fusion_study"), help="scenes and stores")
    parser.add_argument("--runs", type=int, help="stop after so many")
    parser.add_argument("--of", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--render", action="store_true")
    return parser.parse_args()


class Study:
    """Scenes and stores on disk, and the runs that are known."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.known = self.read()

    def read(self) -> dict[str, Any]:
        return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": {}, "tests": {}}

    def wanted(self, settings: list[str]) -> Iterator[tuple[str, str, str, int]]:
        """The runs that are missing, seed by seed; the layers by themselves before the row that takes the best."""
        for seed in range(SEEDS):
            for setting in settings:
                for row in SETTINGS[setting].rows:
                    names = SETTINGS[setting].singles if row == "best layer" and not seed else []
                    for chosen in [*names, *([] if names else [row])]:
                        if chosen == "best layer":
                            chosen = best_layer(self.known, setting)
                        name = f"{setting}/{chosen}/{seed}"
                        if name not in self.known["runs"]:
                            yield name, setting, chosen, seed

    def asked(self, setting: str) -> Sequence[Asked]:
        """What is asked in a setting; the scenes are composed if they are not there."""
        said = SETTINGS[setting].statements
        named = {"statements": True, "table": "statements.csv"} if said else {}
        self.table = write_question_scenes(self.work / "scenes", SCENES, **named)
        return read_asked_table(self.table).asked

    def store(self, setting: str) -> Any:
        """The store of a setting, embedded if it is not there."""
        folder = self.work / setting
        embed(self.table, SETTINGS[setting].image, TEXT, out=folder, states_dtype="int8", progress=True)
        return ist.open_store(folder)

    def run(self, setting: str, row: str, seed: int) -> dict[str, Any]:
        """Train with one aggregator; what every test question earned, with its own picture and another."""
        asked = self.asked(setting)
        store = self.store(setting)
        overrides = [*OVERRIDES, f'fusion.aggregator="{row.removeprefix("wide ")}"']
        if row == "wide last":
            overrides.append(f"fusion.expand={as_many_as_aaum(store)}")
        began = time.process_time()
        model: Any = ist.train(store, recipe="manager", overrides=overrides, seed=seed)
        seconds = time.process_time() - began
        told = answers(model, self.part(store, "test"))
        kind_of = {(one.image, one.question): one.kind for one in asked}
        kinds = [kind_of[one] for one in told.pop("asked")]
        test = {"kinds": kinds, "scenes": told.pop("scenes"), "guess": guess(asked, SETTINGS[setting].kinds)}
        return {
            "test": test,
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

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Keep a run, at once."""
        self.known = self.read()  # another process may run another setting
        self.known |= {"scenes": SCENES, "settings": list(OVERRIDES)}
        self.known["tests"][topic(SETTINGS[name.partition("/")[0]])] = found.pop("test")
        self.known["runs"][name] = found
        RESULTS.write_text(json.dumps(self.known, indent=1) + "\n")
        print(name, f"{100 * np.mean([int(one) for one in found['own']]):.1f} %", found["cpu_seconds"], flush=True)


def topic(setting: Setting) -> str:
    """What is asked, by which the tests are kept: it is the same for every encoder."""
    return "statements" if setting.statements else "questions"


def best_layer(study: dict[str, Any], setting: str) -> str:
    """The `layer:K` of greatest accuracy on the validation scenes, by the first seed."""
    return max(SETTINGS[setting].singles, key=lambda one: study["runs"][f"{setting}/{one}/0"]["val"])


def guess(asked: Sequence[Asked], kinds: tuple[str, ...]) -> dict[str, float]:
    """Of each kind, the share of test questions whose answer is the most frequent one of training.

    The kinds of statements are their answers, of which one is the most frequent of all.
    """
    found = {}
    for kind in kinds:
        of_kind = [one for one in asked if one.kind == kind]
        counts = Counter(
            answer for one in (asked if kinds == LABELS else of_kind) if one.split == "train" for answer in one.scores
        )
        usual = counts.most_common(1)[0][0]
        found[kind] = float(np.mean([usual in one.scores for one in of_kind if one.split == "test"]))
    return found


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


def hits(study: dict[str, Any], setting: str, row: str, view: str = "own") -> np.ndarray:
    """Right or wrong, float64 [seeds, questions], of a row's runs."""
    return np.array([[int(one) for one in run[view]] for run in runs_of(study, setting, row)], float)


def runs_of(study: dict[str, Any], setting: str, row: str) -> list[dict[str, Any]]:
    return [run for name, run in sorted(study["runs"].items()) if name.rpartition("/")[0] == f"{setting}/{row}"]


def render(study: dict[str, Any]) -> str:
    """docs/managers.md."""
    settings = [one for one in SETTINGS if runs_of(study, one, "last")]
    parts = [section(study, setting) for setting in settings] + [part for part in [matching_study.section()] if part]
    return PAGE_TEXT.format(
        sections="\n\n".join(parts) or "**No run of this study is committed yet.**",
        questions=len(study["tests"]["questions"]["kinds"]) if parts else 0,
        settings=", ".join(f"`{one}`" for one in OVERRIDES),
        resamples=RESAMPLES,
        machine=next(iter(study["runs"].values()))["machine"] if parts else platform.machine(),
        missing=missing(study),
        **SCENES,
    )


def missing(study: dict[str, Any]) -> str:
    """The rows that were not run, in words."""
    lines = []
    for name, setting in SETTINGS.items():
        lacking = [row for row in setting.rows if not any(row in found for found in rows_run(study, name))]
        lines += [f"- {setting.title}, not run: {', '.join(lacking)}.\n"] if lacking else []
    if not matching_study.RESULTS.exists():
        lines.append("- Captions, not run.\n")
    return "".join(lines) + "- More scenes were not run.\n"


def rows_run(study: dict[str, Any], setting: str) -> dict[str, str]:
    """The rows of the table that were run, and the aggregator of each."""
    chosen = SETTINGS[setting]
    known = {row: row for row in chosen.rows if row != "best layer" and runs_of(study, setting, row)}
    if chosen.singles and all(runs_of(study, setting, one) for one in chosen.singles):
        best = best_layer(study, setting)
        known[f"best layer ({chosen.layers[int(best.partition(':')[2]) - 1]})"] = best
    return known


def section(study: dict[str, Any], setting: str) -> str:
    """One setting: accuracies, differences, kinds."""
    chosen, test = SETTINGS[setting], study["tests"][topic(SETTINGS[setting])]
    kinds, rows, by_kind = np.array(test["kinds"]), [], []
    for name, aggregator in rows_run(study, setting).items():
        rows.append([name, *row_of(study, setting, aggregator, np.array(test["scenes"]))])
        own = hits(study, setting, aggregator)
        by_kind.append([name, *(f"{100 * own[:, kinds == kind].mean():.0f}" for kind in chosen.kinds)])
    head = ["reads", "accuracy [95 %]", "minus last [95 %]", "another's picture", "seeds", "M parameters", "CPU s"]
    by_kind.append(["always the most frequent answer", *(f"{100 * test['guess'][kind]:.0f}" for kind in chosen.kinds)])
    what = "statement" if chosen.statements else "question"
    return (
        f"## {chosen.title}\n\n`{chosen.image}`\n\n"
        f"{tabulate(rows, headers=head, tablefmt='github', disable_numparse=True)}\n\n"
        f"{verdict(rows)}\n\nBy kind of {what}, percent:\n\n"
        f"{tabulate(by_kind, headers=['reads', *chosen.kinds], tablefmt='github', disable_numparse=True)}"
    )


def row_of(study: dict[str, Any], setting: str, aggregator: str, scenes: np.ndarray) -> list[Any]:
    """Accuracy, its difference to `last` by the seeds that both have, and what it cost."""
    own, base, runs = (
        hits(study, setting, aggregator),
        hits(study, setting, "last"),
        runs_of(study, setting, aggregator),
    )
    shared = min(len(own), len(base))
    gap = compared(own[:shared].mean(0), base[:shared].mean(0), scenes)
    return [
        ranged(compared(own.mean(0), np.zeros(len(scenes)), scenes)),
        "" if aggregator == "last" else signed(gap),
        f"{100 * hits(study, setting, aggregator, 'shuffled').mean():.1f}",
        len(own),
        f"{runs[0]['parameters'] / 1e6:.2f}",
        f"{np.mean([run['cpu_seconds'] for run in runs]):.0f}",
    ]


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
