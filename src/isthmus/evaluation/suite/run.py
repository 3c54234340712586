"""`isthmus eval MODEL suite ROOT`: every data set in turn, each done once, its features kept in a store."""

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
from isthmus.evaluation.inputs import Given, opened, repeated_embeddings
from isthmus.evaluation.labelled import embedded, fingerprints, from_store, skipped, stored_pairs
from isthmus.evaluation.retrieval import COLUMNS as RETRIEVAL
from isthmus.evaluation.suite.sets import BenchmarkSet, choose_sets, open_set
from isthmus.evaluation.tasks import Prompts, task
from isthmus.evaluation.zeroshot import COLUMNS as ZEROSHOT
from isthmus.metrics.results import Result, kept, result, write
from isthmus.metrics.retrieval import retrieval
from isthmus.metrics.zeroshot import Templates, load_templates, zeroshot
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
    split: str = "test",
    bootstrap: int = 1000,
    seed: int = 0,
) -> list[Result]:
    """Zero-shot classification and retrieval on every data set below a folder, in CLIP_benchmark's layout.

    A set that is missing or cannot be used has a row without metrics, whose `skipped` says why. A set whose result is
    in `out`, by this model and on these data, is not done again.

    Args:
        only_sets: names of sets, or of a paper's list (freeze-align, sail); default: all that are known or there.
        out: keep results, a JSON each in CLIP_benchmark's words, and features in this folder; go on from them.
        templates: prompts in place of the sets' own: with a {} slot, a file, a packaged set's name, or descriptions
            {class: [sentences]}, which may stand below the sets' names.
        split: of every set (test); val where a set has no test.

    Raises UsageError for an unknown set, InputError where nothing at all could be evaluated.
    """
    model, name = opened(model)
    chosen = choose_sets(Path(data), only_sets)
    prompts = load_templates(templates) if isinstance(templates, str | Path) else templates
    with ExitStack() as stack:
        folder = Path(out) if out is not None else Path(stack.enter_context(TemporaryDirectory()))
        check_owned(folder, {"results", "features"})
        runner = _Runner(model, name, folder, prompts, {"bootstrap": bootstrap, "seed": seed})
        results = [runner.evaluate(one, path, split) for one, path in chosen.items()]
    if not any(found["metrics"] for found in results):
        reasons = [": ".join(found["skipped"][0]) for found in results]
        there = next((one for one in reasons if not one.endswith(MISSING)), reasons[0])
        raise InputError(f"{data}: nothing could be evaluated; {there}")
    return results


MISSING = "not there"


class _Runner:
    """One model on one data set after another."""

    def __init__(self, model: DualEncoder, name: str, out: Path, prompts: Any, options: dict[str, Any]) -> None:
        self.model, self.name, self.out, self.prompts, self.options = model, name, out, prompts, options
        projectors = [module_digest(head) for head in (model.image_projector, model.text_projector)]
        self.identity = [projectors, [fingerprints(model, modality) for modality in model.records]]

    def evaluate(self, name: str, path: Path | None, split: str) -> Result:
        """The result of one set, from `out` where it is there; without metrics where the set cannot be had."""
        try:
            if path is None:
                raise InputError(MISSING)
            one = open_set(name, path, split)
            templates = self._templates(one)
            key = digest([self.identity, self.options, one.task, one.classes, templates, _contents(one)])
            file = self.out / "results" / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', f'{name}_{self.name}')}.json"
            if done := kept(file, key):
                return done
            found = self._retrieval(one) if one.task == "zeroshot_retrieval" else self._classify(one, templates)
            return write(file, found | {"key": key}, dataset=name, model=self.name, task=one.task)
        except InputError as error:
            return result(
                {"metrics": {}, "skipped": [(name, str(error))]}, dataset=name, model=self.name, task="skipped"
            )

    def _templates(self, one: BenchmarkSet) -> Templates:
        given = self.prompts
        if isinstance(given, Mapping) and any(isinstance(value, Mapping) for value in given.values()):
            given = given.get(one.name)
        return one.templates if given is None or one.task == "zeroshot_retrieval" else given

    def _store(self, one: BenchmarkSet) -> Store:
        return embedded(self.model, one.pairs, self.out / "features" / one.name)

    def _classify(self, one: BenchmarkSet, templates: Templates) -> dict[str, Any]:
        store = self._store(one)
        images = from_store(self.model, one.pairs, store)
        found = zeroshot(
            self.model.project("image", images.features),
            repeated_embeddings(self.model.encode_text, one.classes, templates),
            images.labels.astype(np.int64),
            classnames=one.classes,
            groups=images.groups,
            **self.options,
        )
        if len(one.classes) > MOST_CONFUSED:
            found.pop("confusion")
        return found | {"classes": one.classes, "templates": templates, **_told(one, store)}

    def _retrieval(self, one: BenchmarkSet) -> dict[str, Any]:
        store = self._store(one)
        pairs = stored_pairs(self.model, store, only=one.pairs.images["id"].to_pylist())
        image, text = self.model.project("image", pairs.image), self.model.project("text", pairs.text)
        found = retrieval(image, text, pairs.image_of, groups=pairs.bootstrap_group, **self.options)
        return found | _told(one, store)


def _told(one: BenchmarkSet, store: Store) -> dict[str, Any]:
    """What was left out of a set, and what a user should know of it."""
    return {"skipped": skipped(one.pairs, store), "notes": one.pairs.notes}


def _contents(one: BenchmarkSet) -> list[Any]:
    """What tells other data from these without reading a picture."""
    images = one.pairs.images.select(["id", "label"]).to_pydict()
    return [images, one.pairs.captions["caption"].to_pylist(), one.pairs.signatures()]
