"""The verbs of isthmus, exported lazily by the package: `import isthmus as ist; ist.train(...)`."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from isthmus.curation import curate
from isthmus.data.asked import AskedQuestions
from isthmus.data.columns import Columns
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.data.images import MAX_PIXELS
from isthmus.data.pairs import Pairs, read_pairs
from isthmus.data.tables import Frame
from isthmus.embedding import embed as _embed
from isthmus.encoders import Encoder, load_encoder
from isthmus.errors import UsageError
from isthmus.evaluation.datasets.questions import Questions
from isthmus.evaluation.exposure import SeenWarning
from isthmus.evaluation.inputs import Data, Saved
from isthmus.evaluation.shown import shown
from isthmus.evaluation.tasks import TaskOption, check_options, find_task
from isthmus.exports.run import export
from isthmus.image_search.run import search
from isthmus.index import build_index, is_index, open_index
from isthmus.index.checkup import doctor_index
from isthmus.inference.ask import ask, caption
from isthmus.inference.classify import classify
from isthmus.inference.encode import encode
from isthmus.inference.transcribe import transcribe
from isthmus.metrics.results import Result
from isthmus.models.checkup import doctor as _doctor
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.fusion_model import FusionModel
from isthmus.models.language_model import VisionLanguageModel
from isthmus.models.speech_model import SpeechModel
from isthmus.segmentation.data import MaskedImages
from isthmus.segmentation.run import segment
from isthmus.selection.run import select
from isthmus.serving.run import serve
from isthmus.store import Store, open_store
from isthmus.store.checkup import Finding
from isthmus.store.joining import choose_ids
from isthmus.store.opening import first_choice
from isthmus.training import Recipe, load_recipe
from isthmus.training.contrastive.folds import cross_validate as _cross_validate
from isthmus.training.fit import Fitting
from isthmus.training.recipe import DEFAULT_OBJECTIVE, OBJECTIVES

__all__ = [
    "ask",
    "build_index",
    "caption",
    "classify",
    "cross_validate",
    "curate",
    "doctor",
    "embed",
    "encode",
    "evaluate",
    "export",
    "load_encoder",
    "load_recipe",
    "open_index",
    "open_store",
    "read_pairs",
    "search",
    "segment",
    "select",
    "serve",
    "train",
    "transcribe",
]


def embed(
    pairs: Pairs | Frame | str | Path,
    image: str | Encoder | Sequence[str | Encoder] | None = None,
    text: str | Encoder | Sequence[str | Encoder] | None = None,
    *,
    out: str | Path,
    encoders: str | Encoder | Sequence[str | Encoder] = (),
    only: str | Path | Sequence[str] | None = None,
    batch_size: int | None = None,
    max_skip: float = 0.01,
    max_pixels: int = MAX_PIXELS,
    precision: Literal["auto", "float32", "bf16"] = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
    engine: Literal["local", "ray"] = "local",
    states_dtype: Literal["float16", "int8"] = "float16",
    test: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
    columns: str | Columns | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    pages: str | int | None = None,
    range: str | Sequence[float] | None = None,
) -> Store:
    """Write the features of `pairs` by every named encoder into a store and open it.

    Use this when you have images with captions and want to train on them: every later step reads the store, and no
    encoder runs twice over the same picture. Call it again to continue where it stopped, or to add an encoder.

        >>> store = ist.embed("captions.parquet", "hf:facebook/dinov2-base", "st:all-MiniLM-L6-v2", out="store/")
        >>> store.skipped  # what was left out, and why

    Arguments and errors are those of `isthmus.embedding.embed`, which returns counts in place of the store.
    """
    _embed(
        pairs,
        image,
        text,
        out=out,
        encoders=encoders,
        only=only,
        batch_size=batch_size,
        max_skip=max_skip,
        max_pixels=max_pixels,
        precision=precision,
        device=device,
        trust_remote_code=trust_remote_code,
        engine=engine,
        states_dtype=states_dtype,
        test=test,
        seed=seed,
        progress=progress,
        columns=columns,
        images=images,
        split=split,
        pages=pages,
        range=range,
    )
    return open_store(out)


def train(
    store: Store | FeaturePairs | str | Path,
    *,
    recipe: str = "default",
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    image: str | Sequence[str] | None = None,
    text: str | Sequence[str] | None = None,
    pixels: Pairs | str | Path | None = None,
    only: str | Path | Sequence[str] | None = None,
    val: FeaturePairs | None = None,
    init: DualEncoder | str | Path | None = None,
    freeze: str | None = None,
    modalities: tuple[str, str] | None = None,
    audio: str | None = None,
    video: str | None = None,
    recordings: Pairs | str | Path | None = None,
    noise: Pairs | str | Path | None = None,
    remember: bool = True,
    seed: int = 0,
    max_seconds: float | None = None,
    tune: float | None = None,
    resume: bool = True,
    progress: bool | None = None,
    log: Sequence[str] = (),
    device: str | None = None,
    checkpoint_seconds: float = 60.0,
) -> DualEncoder:
    """Train projectors on the train split of a store (or on arrays) and return the dual encoder.

    Use this when the features are there (`embed`, or arrays of your own): it takes minutes on a CPU. Call it again with
    the same `out` to continue where it stopped. With fewer than about 1,000 pairs, see `cross_validate` too.

        >>> model = ist.train("store/", recipe="default", out="model/")
        >>> model.encode_text(["a red bicycle"]).shape
        (1, 512)

    Args:
        store: a store, its folder, the folder of a selection (its first choice is trained), or
            `FeaturePairs.from_arrays(...)` for features made elsewhere.
        recipe: a recipe's name or a path to a TOML file.
        out: folder for the model, its history and checkpoints; None keeps all in memory.
        overrides: "section.key=value" strings that override the recipe.
        image, text: which of the store's encoders (URI or fingerprint prefix); several stand side by side.
            Needed only if the store holds more than one of a modality.
        pixels: where the pictures of the store's images are (see `read_pairs`): then `image`, one encoder that the
            store need not hold, encodes them while training, with augmentation if the recipe has `data.augment`. Of a
            language model that sees: what tiles are cut from, for `picture.grids`.
        only: ids to train on (a list, or a Parquet file with an `id` column). The validation split stays whole, so that
            runs on different selections are comparable.
        val: validation pairs where `store` is `FeaturePairs`; a store brings its own validation split.
        init, freeze: a trained model (or its folder), and the side of it ("image" or "text") that is frozen; the other
            side's encoder joins its space. Its features must be those of the model's own encoder.
        modalities: of the store, which two are joined; default image and text. Wherever arguments and the model say
            image, the first is meant; wherever they say text, the second.
        audio, video: of a recipe for speech, which encoder's states, if the store holds those of several.
        recordings, noise: of a recipe for speech, pairs with the recordings of the store's lines, and a recording, or a
            folder or table of them, that is mixed with them as the recipe says.
        remember: keep eight bytes of the hash of each item that trains and validates with the model, so that
            evaluation can say which of its items are new.
        seed: of the order of samples, initial weights, dropout and the validation split.
        max_seconds: stop after this time; the model's summary says at which epoch.
        tune: minutes of trials before, of values that the recipe lists in `[tune]`; the best on the validation pairs
            are trained with. `out`/tune keeps all trials. Interrupted trials go on; a larger number adds more.
        resume: continue from a checkpoint in `out`.
        progress: a bar on a terminal or in a notebook, plain lines elsewhere; None: in a notebook alone.
        log: "tensorboard" and/or "wandb", besides the history; each is an extra.
        device: default: the GPU when there is one. checkpoint_seconds: time between checkpoints.

    Raises:
        InputError: features, splits or checkpoints that cannot be used; the message says why.
        UsageError: an unknown recipe, key or encoder.
    """
    choices = load_recipe(recipe, overrides)
    folder = None if out is None else Path(out)
    how = Fitting(folder, seed, resume, max_seconds, progress, log, device, checkpoint_seconds)
    chosen: dict[str, Any] = {"image": image, "text": text, "pixels": pixels, "only": only, "val": val, "init": init}
    chosen |= {"freeze": freeze, "modalities": modalities, "remember": None if remember else False, "tune": tune}
    chosen |= {"audio": audio, "video": video, "recordings": recordings, "noise": noise}
    return _objective(choices).train(store, choices, how, **_given(choices, chosen))


def cross_validate(
    store: Store | FeaturePairs | str | Path,
    *,
    folds: int = 5,
    recipe: str = "default",
    overrides: Sequence[str] = (),
    image: str | Sequence[str] | None = None,
    text: str | Sequence[str] | None = None,
    only: str | Path | Sequence[str] | None = None,
    modalities: tuple[str, str] | None = None,
    seed: int = 0,
    bootstrap: int = 1000,
    max_seconds: float | None = None,
    device: str | None = None,
    progress: bool | None = None,
) -> Result:
    """Estimate how good a model trained on these pairs is: every pair is tested once, by a model that never saw it.

    Use this when a test split would be too small to say, below about 1,000 pairs. All pairs but those of a test split
    are split into `folds` by groups.

        >>> found = ist.cross_validate("small/", folds=5)
        >>> found["metrics"]["mean_recall@10"], found["ci95"]["mean_recall@10"]

    bootstrap: resamples of groups behind the intervals. max_seconds: of each fold. The other arguments are those of
    `train`. Raises UsageError for fewer than two folds, InputError for fewer groups than folds.
    """
    choices = load_recipe(recipe, overrides)
    if choices.objective != DEFAULT_OBJECTIVE:
        raise UsageError(f"folds are for contrastive recipes; {recipe!r} has objective = {choices.objective!r}.")
    if isinstance(store, FeaturePairs):
        pairs = store if only is None else choose_ids(store, only)
    else:
        chosen: dict[str, Any] = {"image": image, "text": text, "only": only}
        chosen |= {} if modalities is None else {"modalities": modalities}
        if isinstance(store, str | Path):
            store, chosen = first_choice(store, chosen)
            store = open_store(store)
        pairs = store.pairs(**chosen)
    kept = np.array([split != "test" for split in pairs.splits or [None] * len(pairs)])
    return _cross_validate(
        pairs.subset(kept),
        choices,
        folds=folds,
        seed=seed,
        bootstrap=bootstrap,
        max_seconds=max_seconds,
        device=device,
        progress=progress,
    )


def training_plan(
    store: Store | FeaturePairs | str | Path,
    *,
    recipe: str = "default",
    overrides: Sequence[str] = (),
    image: str | Sequence[str] | None = None,
    text: str | Sequence[str] | None = None,
    pixels: Pairs | str | Path | None = None,
    only: str | Path | Sequence[str] | None = None,
    init: DualEncoder | str | Path | None = None,
    freeze: str | None = None,
    modalities: tuple[str, str] | None = None,
    audio: str | None = None,
    video: str | None = None,
    recordings: Pairs | str | Path | None = None,
    noise: Pairs | str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What `train` with the same arguments would do: the effective recipe, pairs, steps and parameters."""
    choices = load_recipe(recipe, overrides)
    chosen = {"image": image, "text": text, "pixels": pixels, "only": only, "init": init, "freeze": freeze}
    chosen |= {"modalities": modalities, "audio": audio, "video": video, "recordings": recordings, "noise": noise}
    return _objective(choices).plan(store, choices, Fitting(seed=seed), **_given(choices, chosen))


def _objective(recipe: Recipe) -> Any:
    """The module with `train` and `plan` of a recipe's objective."""
    return OBJECTIVES.find(recipe.objective)


def _given(recipe: Recipe, options: dict[str, Any]) -> dict[str, Any]:
    """The options that are given; `UsageError` for one that the recipe's objective does not take."""
    given = {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(_objective(recipe).train).parameters
    for name in given:
        if name not in known:
            raise UsageError(f"A recipe with objective = {recipe.objective!r} takes no {name!r}.")
    return given


Model = DualEncoder | FusionModel | VisionLanguageModel | SpeechModel | str | Path
Evaluated = Data | Store | MaskedImages | Questions | AskedQuestions
One = Literal[
    "retrieval", "zeroshot", "segmentation", "diagnose", "vqa", "entailment", "matching", "layers", "captions"
]
Several = Literal[
    "suite",
    "knn",
    "linear_probe",
    "fewshot",
    "winoground",
    "mmvp",
    "sugarcrepe",
    "aro",
    "whatsup",
    "longtext",
    "multilingual",
    "speech",
]


@overload
def evaluate(
    model: Model,
    task: One,
    data: Evaluated,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options: TaskOption,
) -> Result: ...


@overload
def evaluate(
    model: Model,
    task: Several,
    data: Evaluated,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options: TaskOption,
) -> list[Result]: ...


@overload
def evaluate(
    model: Model,
    task: str,
    data: Evaluated,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options: TaskOption,
) -> Result | list[Result]: ...


def evaluate(
    model: Model,
    task: str,
    data: Evaluated,
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options: TaskOption,
) -> Result | list[Result]:
    """Evaluate a model on pairs, or on a store's cached features.

    Use this when you want numbers with intervals that compare with other people's: the JSON is CLIP_benchmark's. To
    look at what a model finds, see `search` and `segment`; for bare arrays, `isthmus.metrics`.

        >>> found = ist.evaluate("model/", "retrieval", "store/", split="test")
        >>> found["metrics"]["mean_recall@1"], found["ci95"]["mean_recall@1"]
        >>> rows = ist.evaluate("hf:openai/clip-vit-base-patch32", "winoground", "winoground/")

    Args:
        model: a `DualEncoder`, its folder, or the URI of a pretrained one (`hf:openai/clip-vit-base-patch32`).
        task: one of `isthmus eval --help`, to which other packages may add.
        data: what the task takes: pairs (images run through the model), a store, `FeaturePairs`, a data frame or a
            folder.
        device, trust_remote_code: for loading a model that is given by its folder or URI.
        options: the task's own, `split`, `bootstrap`, `seed`, `classes`, …, and for pairs those of `read_pairs`:
            `isthmus eval MODEL TASK --help`, or the signature of the task's function.

    Returns:
        A `Result`, CLIP_benchmark's dictionary: dataset, model, pretrained, task, metrics, language, and our additions
        (ci95, n, definition, skipped, seed); a list of them where a task gives several. Printed, they are the table of
        `isthmus eval`; `to_pandas()` makes a data frame of them. `seen_items` counts what trained or validated the
        model, of which a `SeenWarning` warns; `unseen=True` leaves it out.

    Raises:
        UsageError: an unknown task, split or set of templates, or an option that the task does not take.
        InputError: data that cannot be used: no captions, no labels, a store of other encoders.
    """
    check_options(task, options)
    given = Saved(model, device, trust_remote_code) if isinstance(model, str | Path) else model
    run = find_task(task)
    found = run(given, data.path if isinstance(data, Store) else data, **options)
    for one in found if isinstance(found, list) else [found]:
        for text in one.get("warnings", []):
            warnings.warn(f"{one['dataset']}: {text}", SeenWarning, stacklevel=2)
    return shown(found, run.columns, options.get("report"))  # type: ignore[arg-type]


def doctor(
    path: str | Path, *, deep: bool = False, device: str | None = None, trust_remote_code: bool = False
) -> list[Finding]:
    """Findings `{"ok", "what", "remedy"}` about a store, a model or an index; it is sound if all are ok.

    Use this when one of them was copied, a disk was full or a run was killed, or before results are published: it reads
    everything and changes nothing.

        >>> [finding["what"] for finding in ist.doctor("store/") if not finding["ok"]]
        []

    Of a model: its files, that weights and configuration fit, and that every encoder is available and the one it was
    trained on (encoders that are callables cannot be checked). deep: read the encoders' weights again, also where a
    digest of the same files is remembered. device, trust_remote_code: for loading them.

    Raises:
        InputError: `path` is none of these.
    """
    if is_index(path):
        return doctor_index(Path(path))
    return _doctor(path, deep=deep, device=device, trust_remote_code=trust_remote_code)
