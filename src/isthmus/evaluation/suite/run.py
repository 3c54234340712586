"""`isthmus eval MODEL suite ROOT`: every data set in turn; results and features are kept for the next run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from isthmus.encoders.fingerprint import digest, module_digest
from isthmus.errors import InputError
from isthmus.evaluation.datasets.registry import PUBLIC
from isthmus.evaluation.exposure import Exposure
from isthmus.evaluation.inputs import Given, opened
from isthmus.evaluation.labelled import embedded, fingerprints, from_store, skipped, stored_pairs
from isthmus.evaluation.protocols import Protocol, find_protocol
from isthmus.evaluation.retrieval import COLUMNS as RETRIEVAL
from isthmus.evaluation.suite.sets import BenchmarkSet, choose_sets, open_set
from isthmus.evaluation.tasks import Prompts, task
from isthmus.evaluation.zeroshot import COLUMNS as ZEROSHOT
from isthmus.metrics.results import Result, kept, result, write
from isthmus.metrics.retrieval import retrieval
from isthmus.metrics.zeroshot import Templates, as_dot_products, class_embeddings, load_templates, zeroshot
from isthmus.models.dual_encoder import DualEncoder
from isthmus.owned import check_owned
from isthmus.store import Store

MOST_CONFUSED = 100  # classes: a larger confusion matrix is left out of the results


@task(primary="acc1", columns=(*RETRIEVAL, *ZEROSHOT))
def suite(
    model: Given,
    data: str | Path,
    *,
    only_sets: Sequence[str] | None = None,
    out: str | Path | None = None,
    templates: Prompts | None = None,
    split: str | None = None,
    protocol: str | None = None,
    unseen: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Zero-shot classification and retrieval on every data set in a folder, as published or as CLIP_benchmark has it.

    A set that was named but is missing, or that is known but cannot be used, has a row without metrics; its `skipped`
    says why. A set whose result is in `out`, by this model and on these data, is not done again.

    Args:
        only_sets: names of sets, or of a paper's list (freeze-align, sail); default: what is there.
        out: keep results, a JSON each in CLIP_benchmark's words, and features in this folder; go on from them.
        templates: prompts in place of the sets' own: with a {} slot, a file, a packaged set's name, or descriptions
            {class: [sentences]}, which may stand below the sets' names.
        split: of every set; default: the one that papers report (docs/datasets.md), test where nothing is published,
            val where a set has no test.
        protocol: evaluate as a paper does, sail or freeze-align, by default on its sets.

    Raises UsageError for an unknown set, InputError where nothing at all could be evaluated.
    """
    model, name = opened(model)
    preset = find_protocol(protocol)
    if preset is not None and only_sets is None:
        only_sets = [preset.name]
    chosen = choose_sets(Path(data), only_sets)
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    with ExitStack() as stack:
        folder = Path(out) if out is not None else Path(stack.enter_context(TemporaryDirectory()))
        check_owned(folder, {"results", "features"})
        runner = _Runner(model, name, folder, prompts, {"bootstrap": bootstrap, "seed": seed}, preset, unseen)
        results = [runner.evaluate(one, path, split, only_sets is not None) for one, path in chosen.items()]
    return _without_odd(results, data, preset.remarks() if preset else [])


def _without_odd(results: list[Result], data: str | Path, remarks: list[str]) -> list[Result]:
    """The results of data sets only; what is no data set, and `remarks`, become notes of the first result. Raises
    `InputError` where nothing has a metric.
    """
    odd = [found for found in results if not found["metrics"] and not found["skipped"]]
    odd_notes = [note for found in odd for note in found["notes"]]
    if not any(found["metrics"] for found in results):
        reasons = [*(": ".join(one) for found in results for one in found["skipped"]), *odd_notes]
        there = [one for one in reasons if not one.endswith(MISSING)] or reasons or ["no data set is there."]
        raise InputError(f"{data}: nothing could be evaluated; {there[0]}")
    sets = [found for found in results if found not in odd]
    sets[0]["notes"] = [*sets[0].get("notes", []), *remarks, *odd_notes]
    return sets


MISSING = "not there"


class _Runner:
    """One model on one data set after another."""

    def __init__(
        self,
        model: DualEncoder,
        name: str,
        out: Path,
        prompts: Any,
        options: dict[str, Any],
        protocol: Protocol | None = None,
        unseen: bool = False,
    ) -> None:
        self.model, self.name, self.out, self.prompts, self.options = model, name, out, prompts, options
        self.protocol, self.unseen = protocol, unseen
        projectors = [module_digest(head) for head in (model.image_projector, model.text_projector)]
        self.identity: list[Any] = [projectors, [fingerprints(model, modality) for modality in model.records]]
        if model.seen is not None:
            self.identity += [model.seen.identity, unseen]

    def evaluate(self, name: str, path: Path | None, split: str | None, wanted: bool) -> Result:
        """The result of one set, from `out` where it is there; without metrics if the set cannot be opened.

        A folder that is neither named nor known and is no data set gets a remark, not a row.
        """
        try:
            if path is None:
                raise InputError(MISSING)
            one = self._opened(name, path, split)
            templates = self._templates(one)
            preset = self.protocol.name if self.protocol else None
            key = digest([self.identity, self.options, preset, one.task, one.classes, templates, _contents(one)])
            file = self.out / "results" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', f'{name}_{self.name}')}.json"
            if done := kept(file, key):
                return done
            found = self._retrieval(one) if one.task == "zeroshot_retrieval" else self._classify(one, templates)
            found["key"] = key
            return write(file, found, dataset=name, model=self.name, task=one.task)
        except InputError as error:
            gap = wanted or name in PUBLIC
            why = {"skipped": [(name, str(error))]} if gap else {"skipped": [], "notes": [f"no data set: {error}"]}
            return result({"metrics": {}, **why}, dataset=name, model=self.name, task="skipped")

    def _opened(self, name: str, path: Path, split: str | None) -> BenchmarkSet:
        """The set as the protocol uses it."""
        if self.protocol is None:
            return open_set(name, path, split)
        one = open_set(name, path, split or self.protocol.splits.get(name))
        one.pairs = self.protocol.prepared(one.pairs)
        return one

    def _templates(self, one: BenchmarkSet) -> Templates:
        given = self.prompts
        if given is None and self.protocol is not None and self.protocol.templates and one.classes:
            return list(self.protocol.templates)
        if isinstance(given, Mapping) and any(isinstance(value, Mapping) for value in given.values()):
            given = given.get(one.name)
        return one.templates if given is None or one.task == "zeroshot_retrieval" else given

    def _store(self, one: BenchmarkSet) -> Store:
        return embedded(self.model, one.pairs, self.out / "features" / one.name)

    def _classify(self, one: BenchmarkSet, templates: Templates) -> dict[str, Any]:
        store = self._store(one)
        exposure = Exposure(self.model, one.name, self.unseen)
        images = exposure.unseen_of(from_store(self.model, one.pairs, store))
        rules: dict[str, Any] = {}
        if self.protocol is not None and isinstance(templates, Mapping):
            rules = {"padded": self.protocol.padded, "renormalise": self.protocol.renormalise}
        pictures = self.model.project("image", images.features)
        classes = class_embeddings(self.model.encode_text, one.classes, templates, **rules)
        if not rules.get("renormalise", True):
            pictures, classes = as_dot_products(pictures, classes)
        found = zeroshot(
            pictures,
            classes,
            images.labels.astype(np.int64),
            classnames=one.classes,
            groups=images.groups,
            **self.options,
        )
        if len(one.classes) > MOST_CONFUSED:
            found.pop("confusion")
        return found | {"classes": one.classes, "templates": templates, **exposure.report(), **_remarks(one, store)}

    def _retrieval(self, one: BenchmarkSet) -> dict[str, Any]:
        store = self._store(one)
        exposure = Exposure(self.model, one.name, self.unseen)
        pairs = exposure.rest(stored_pairs(self.model, store, only=one.pairs.images["id"].to_pylist()))
        image, text = self.model.project("image", pairs.image), self.model.project("text", pairs.text)
        found = retrieval(image, text, pairs.image_of, groups=pairs.bootstrap_group, **self.options)
        return found | exposure.report() | _remarks(one, store)


def _remarks(one: BenchmarkSet, store: Store) -> dict[str, Any]:
    """What was left out of a set, and remarks on it."""
    return {"skipped": skipped(one.pairs, store), "notes": [*one.notes, *one.pairs.notes]}


def _contents(one: BenchmarkSet) -> list[Any]:
    """A value that changes with the data; computed without reading pictures."""
    images = one.pairs.images.select(["id", "label"]).to_pydict()
    return [images, one.pairs.captions["caption"].to_pylist(), one.pairs.signatures()]
