"""Do pictures without captions and texts without pictures help a model of few pairs? (docs/unpaired.md)

    python benchmarks/unpaired_study.py --store out/demo/store    # goes on where it stopped; half an hour of one core
    python benchmarks/unpaired_study.py --render                  # the page again, from the committed JSON

Of the demo's pictures some are drawn with their captions as all pairs that a user has; a fifth of them validates. The
other training pictures, and the other training captions, are there too, but nobody says which belong together; so are
names of things from WordNet (Debian's `wordnet-base`, which `apt-get download` fetches; nothing is installed). The
recipe `default` is trained as it is, and with SOTAlign's loss (arXiv 2602.23353, `transport.py`): the closed form of
the pairs, which stands beside the heads anyway, is the teacher of the heads on what is unpaired. Weight, texts, the
order of both ε and the number of epochs are chosen one after the other on validation pairs, averaged over the draws.
What was chosen is refitted on everything, as `default` is, and measured on the demo's test split. Also tried: CCA with
the covariances of everything instead of the pairs'.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import isthmus as ist
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.matrix import rows
from isthmus.files import write_json
from isthmus.projectors.closed_form import ClosedForm, Spectra, choose
from isthmus.projectors.closed_form import fit as solved
from isthmus.projectors.projector import project
from isthmus.training.contrastive.ensemble import best_share, join
from isthmus.training.contrastive.objective import Batch, ContrastiveObjective
from isthmus.training.contrastive.refit import RefitObjective
from isthmus.training.fit import Fitting, fit
from isthmus.training.run import Run
from recipe_runs import CPU, RESAMPLES, Hits, difference, drawn, hits, mean_recall, test_part
from transport import divergence, plan
from unpaired_page import render

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "unpaired_study.json"
PAGE = HERE.parent / "docs" / "unpaired.md"
WORK = Path("out/unpaired_study")
SIZES, SEEDS = (500, 1000), 3
ROWS = 512  # unpaired pictures, and texts, of a step
WORDNET, NOUNS = "usr/share/wordnet/data.noun", 10_000
DRAWABLE = ("05", "06", "08", "13", "17", "18", "20", "25")  # animals, artifacts … shapes: lexnames(5WN)
WEIGHTS = (0.1, 1.0, 10.0)
CHANGES: tuple[dict[str, Any], ...] = ({"wordnet": True}, {"student": 0.005, "teacher": 0.05})


@dataclass(frozen=True)
class Way:
    """How `default` is trained. weight: of the loss on what is unpaired; 0 is `default` as it is. student, teacher: ε
    of their plans, first as the authors' code has them. wordnet: with its texts. own: nothing but the pairs' own
    pictures and captions, to see what the teacher does without more data.
    """

    weight: float = 0.0
    student: float = 0.05
    teacher: float = 0.005
    wordnet: bool = False
    own: bool = False

    @property
    def name(self) -> str:
        return hashlib.blake2b(repr(self).encode(), digest_size=6).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="out/demo/store")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    if not options.render:
        Study(ist.open_store(options.store).pairs()).measure()
    PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")


# --- what is unpaired ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unpaired:
    """Features of pictures [n, Dx] and of texts [m, Dy], of which no pairs are known."""

    image: Tensor
    text: Tensor


def wordnet(uri: str) -> np.ndarray:
    """Features of the names of drawable things, each with the name of its kind, as captions of clip art have them."""
    path = WORK / "wordnet.npy"
    if not path.exists():
        np.save(path, ist.load_encoder(uri).encode(names(WORK)))
    return np.load(path)


def names(folder: Path) -> list[str]:
    """`NOUNS` of WordNet's nouns, by a hash: "guitar, stringed instrument"."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / WORDNET).exists():
        subprocess.run(["apt-get", "download", "wordnet-base"], cwd=folder, check=True)
        subprocess.run(["dpkg", "-x", next(folder.glob("wordnet-base*.deb")).name, "."], cwd=folder, check=True)
    found = parsed((folder / WORDNET).read_text(encoding="utf-8").splitlines())
    return sorted(found, key=lambda name: hashlib.blake2b(name.encode()).digest())[:NOUNS]


def parsed(lines: list[str]) -> list[str]:
    """Names of the drawable entries of WordNet's `data.noun` (wndb(5WN)), without repetition."""
    entries = {fields[0]: fields for fields in (line.split() for line in lines if not line.startswith(" "))}

    def words(fields: list[str]) -> list[str]:
        return [word.replace("_", " ") for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]

    made: dict[str, None] = {}
    for fields in entries.values():
        if fields[1] in DRAWABLE:
            kinds = [fields[at + 1] for at, field in enumerate(fields[: fields.index("|")]) if field in ("@", "@i")]
            kind = words(entries[kinds[0]])[:1] if kinds and kinds[0] in entries else []
            made[", ".join([*words(fields)[:3], *kind])] = None
    return list(made)


# --- training -----------------------------------------------------------------------------------------------------


class UnpairedObjective(ContrastiveObjective):
    """The contrastive objective, and the divergence from the teacher on what is unpaired, where it has a weight."""

    teacher: tuple[Tensor, Tensor]  # unit rows of the unpaired pictures and texts
    way: Way
    unpaired: Unpaired

    def told(self, way: Way, unpaired: Unpaired, form: ClosedForm) -> UnpairedObjective:
        """form: the teacher."""
        self.way, self.unpaired = way, unpaired
        sides = zip(form.to_projectors(), (unpaired.image, unpaired.text), strict=True)
        x, y = (project(head.eval(), features.numpy(), CPU) for head, features in sides)
        self.teacher = x, y
        return self

    def losses(self, batch: Batch, group: Any) -> dict[str, Tensor]:
        found = super().losses(batch, group)
        if self.way.weight:
            i, j = (torch.randperm(len(side))[:ROWS] for side in self.teacher)  # the run seeds every step
            target = plan(self.teacher[0][i], self.teacher[1][j], self.way.teacher)
            x, y = self.module(self.unpaired.image[i], self.unpaired.text[j])
            found["transport"] = divergence(x, y, target, self.way.student)
            found["loss"] = found["loss"] + self.way.weight * found["transport"]
        return found


class UnpairedRefit(RefitObjective, UnpairedObjective):
    """The same, again on all pairs."""


class Draw:
    """The pairs that a user has, and their closed forms."""

    def __init__(self, pairs: FeaturePairs, size: int, seed: int, overrides: Sequence[str] = ()) -> None:
        self.pairs, self.seed, self.recipe = pairs, seed, ist.load_recipe("default", overrides)
        self.train, self.val = drawn(pairs, size, seed)

    @cached_property
    def form(self) -> ClosedForm:
        return choose("cca", self.train, self.val)

    @cached_property
    def again(self) -> ClosedForm:
        """The same, of training and validation pairs."""
        settings: dict[str, Any] = self.form.settings
        return solved("cca", self.train.joined(self.val), **settings)

    def unpaired(self, way: Way) -> Unpaired:
        """Everything else outside the test split, as `way` wants it."""
        ids = {*self.train.image_ids, *self.val.image_ids}
        told = zip(self.pairs.splits or [], self.pairs.image_ids, strict=True)
        kept = self.pairs.subset(np.array([split != "test" and (id in ids) == way.own for split, id in told]))
        image, text = (torch.from_numpy(rows(side, slice(None))) for side in (kept.image, kept.text))
        if way.wordnet:
            text = torch.cat([text, torch.from_numpy(wordnet(self.pairs.text_encoder[0]["uri"]))])
        return Unpaired(image, text)

    def tried(self, way: Way) -> tuple[Run, float, dict[str, float]]:
        """The run of the heads, the share of the closed form beside them, and the recalls of both together on `val`."""
        objective = UnpairedObjective(self.train, self.val).told(way, self.unpaired(way), self.form)
        run = fit(objective, self.recipe, Fitting(seed=self.seed))
        run.finish()
        return run, *best_share(self.form.to_projectors(), objective.result()[:2], self.val)

    def refitted(self, run: Run, share: float) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Heads trained again on training and validation pairs, as `refit` does it, alone and with the closed form."""
        first = run.objective
        assert isinstance(first, UnpairedObjective)
        objective = UnpairedRefit(first, first.module.start, run.plan, run.returned)
        fit(objective.told(first.way, first.unpaired, self.again), run.plan.recipe, Fitting(seed=self.seed)).finish()
        heads = objective.result()[:2]
        image, text = (join(*sides, share) for sides in zip(self.again.to_projectors(), heads, strict=True))
        return heads, (image, text)


# --- what is compared ---------------------------------------------------------------------------------------------


class Study:
    """All systems at all sizes; whatever was run is remembered in `WORK`."""

    def __init__(self, pairs: FeaturePairs) -> None:
        self.pairs, self.test = pairs, test_part(pairs)
        self.draw = cache(lambda size, seed: Draw(pairs, size, seed))

    @cached_property
    def everything(self) -> Spectra:
        """Of all pictures and captions outside the test split."""
        return Spectra.of(self.pairs.subset(np.array([split != "test" for split in self.pairs.splits or []])))

    def measure(self) -> None:
        """Choose on validation pairs at the first size, measure what was chosen at all sizes, and write it."""
        tried = self._searched(SIZES[0])
        way = max(tried, key=tried.__getitem__)
        listed = [{**dataclasses.asdict(one), "val_recall": score} for one, score in tried.items()]
        encoders = [record["uri"] for record in (*self.pairs.image_encoder, *self.pairs.text_encoder)]
        counts = {"test": len(self.test), "usable": len(self.pairs) - len(self.test), "nouns": NOUNS, "batch": ROWS}
        facts = {**counts, "encoders": encoders, "seeds": SEEDS, "resamples": RESAMPLES, "tried": listed}
        sizes: dict[str, Any] = {}
        for size in SIZES:
            sizes[str(size)] = self._compared(size, {"default": Way(), "unpaired": way})
            write_json(RESULTS, {**facts, "chosen": dataclasses.asdict(way), "sizes": sizes})
        own = Way(way.weight, way.student, way.teacher, own=True)
        sizes[str(SIZES[0])] = self._compared(SIZES[0], {"default": Way(), "unpaired": way, "own": own})
        write_json(RESULTS, {**facts, "chosen": dataclasses.asdict(way), "sizes": sizes})

    def _compared(self, size: int, ways: dict[str, Way]) -> dict[str, Any]:
        runs = {name: [self._measured(size, seed, one) for seed in range(SEEDS)] for name, one in ways.items()}
        closed = {"cca": self._cca, "spread": self._spread}
        found = {name: [made(size, seed) for seed in range(SEEDS)] for name, made in closed.items()}
        found |= {name: [one["joined"] for one in listed] for name, listed in runs.items()}
        heads = {name: [one["heads"] for one in listed] for name, listed in runs.items()}
        shares = {name: [one["share"] for one in listed] for name, listed in runs.items()}
        return {
            "shares": shares,
            "rows": self._rows(found, "default", "cca"),
            "heads": self._rows(heads, "default"),
        }

    def _rows(self, found: dict[str, list[Hits]], *over: str) -> list[dict[str, Any]]:
        """Mean recalls of every draw, and how far each is above some of them."""

        def gaps(runs: list[Hits]) -> dict[str, Any]:
            return {f"over {name}": difference(runs, found[name], self.test) for name in over}

        recalls = {name: [mean_recall(one) for one in runs] for name, runs in found.items()}
        return [{"system": name, "recalls": recalls[name], **gaps(runs)} for name, runs in found.items()]

    def _searched(self, size: int) -> dict[Way, float]:
        """Ways tried, and their mean recall on validation pairs: first weights, then one change after the other."""
        found = {way: self._score(size, way) for way in map(Way, WEIGHTS)}
        for changed in CHANGES:
            way = dataclasses.replace(max(found, key=found.__getitem__), **changed)
            found[way] = self._score(size, way)
        return found

    def _score(self, size: int, way: Way) -> float:
        return float(np.mean([self._tried(size, seed, way)["val_recall"] for seed in range(SEEDS)]))

    def _tried(self, size: int, seed: int, way: Way) -> dict[str, Any]:
        def made() -> dict[str, Any]:
            run, share, metrics = self.draw(size, seed).tried(way)
            heads = run.summary()["validation"]["val_recall"]
            return {"val_recall": metrics["val_recall"], "heads": heads, "share": share}

        return remembered(f"{size}-{seed}-{way.name}-tried", made)

    def _measured(self, size: int, seed: int, way: Way) -> dict[str, Any]:
        def made() -> dict[str, Any]:
            draw = self.draw(size, seed)
            run, share, _ = draw.tried(way)
            heads, joined = draw.refitted(run, share)
            return {"share": share, "heads": hits(*heads, self.test), "joined": hits(*joined, self.test)}

        return remembered(f"{size}-{seed}-{way.name}-measured", made)

    def _cca(self, size: int, seed: int) -> Hits:
        def made() -> Hits:
            image, text = self.draw(size, seed).again.to_projectors()
            return hits(image.eval(), text.eval(), self.test)

        return remembered(f"{size}-{seed}-cca", made)

    def _spread(self, size: int, seed: int) -> Hits:
        """CCA with the covariances within each side of everything outside the test split; refitted, too."""

        def made() -> Hits:
            train, val = self.draw(size, seed).train, self.draw(size, seed).val
            sides = self.everything.image, self.everything.text
            chosen: dict[str, Any] = choose("cca", train, val, spectra=Spectra.of(train, *sides)).settings
            every = train.joined(val)
            image, text = solved("cca", every, **chosen, spectra=Spectra.of(every, *sides)).to_projectors()
            return hits(image.eval(), text.eval(), self.test)

        return remembered(f"{size}-{seed}-spread", made)


def remembered(name: str, made: Callable[[], Any]) -> Any:
    """What `made` gives, from a file where it was made before; the CPU seconds that it took are printed."""
    path = WORK / f"{name}.json"
    if not path.exists():
        began = time.process_time()
        write_json(path, made())
        print(name, f"{time.process_time() - began:.0f} s", flush=True)
    return json.loads(path.read_text())


if __name__ == "__main__":
    main()
