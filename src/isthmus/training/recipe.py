"""Recipes: a named set of training choices in one small TOML file, read strictly.

An effective value comes, in this order, from the dataclass default, the file, the file's first `[[by_pairs]]`
table whose `up_to` reaches the number of training pairs, and `--set key=value`.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from isthmus.errors import UsageError, did_you_mean

Tables = Mapping[str, Any]

INF = math.inf


def within(default: Any, low: float, high: float = INF) -> Any:
    """A field whose numbers must lie in [low, high]."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class Head:
    """The two projectors.

    `width` "auto": the closed form's best on held-out pairs. `expand` None: the kind's own, unless `budget`,
    the parameters of each, sets it. `init`: start from a closed form. `beside`: when training is over, a closed
    form stands beside the trained head, in the proportion that is best on held-out pairs. `norm`: a LayerNorm on each
    part of the features, such as CLS and the mean of patches ("layer"), one over all of them ("whole"), or none.
    """

    image: str = "linear"
    text: str = "linear"
    width: int | Literal["auto"] = within(512, 1)
    expand: float | None = within(None, 1e-6)
    budget: int | None = within(None, 1)
    dropout: float = within(0.0, 0, 0.99)
    norm: Literal["layer", "whole", "none"] = "layer"
    init: Literal["random", "cca", "ridge", "procrustes"] = "random"
    beside: Literal["none", "cca", "ridge", "procrustes"] = "none"


@dataclass(frozen=True)
class Loss:
    """What pulls together and pushes apart.

    `scale` is 1 / temperature at the start ("auto": the closed form's best on held-out pairs); `learn` its
    logarithm ("log"), the temperature itself ("raw"), or neither.
    `positives`: a caption's own image ("pair"), also equal images and captions ("equal"), or also the
    near-duplicates that the data groups together ("group"). `bias` and `normalize` are the sigmoid loss's.
    `matryoshka`: widths below the head's at which the first dimensions alone shall serve too; the losses of these
    prefixes and of the whole are summed (Kusupati et al., NeurIPS 2022, arXiv:2205.13147).
    """

    name: Literal["infonce", "sigmoid"] = "infonce"
    scale: float | Literal["auto"] = within(1 / 0.07, 1e-3, 1e4)
    learn: Literal["log", "raw", "no"] = "log"
    min_scale: float = within(1.0, 1e-3, 1e4)
    max_scale: float = within(100.0, 1e-3, 1e4)
    bias: float | Literal["auto"] = "auto"
    normalize: Literal["batch", "pairs"] = "batch"
    positives: Literal["pair", "equal", "group"] = "equal"
    matryoshka: tuple[int, ...] = within((), 1)


@dataclass(frozen=True)
class Optim:
    """How it learns. `warmup` below 1 is a share of all steps, else a count; `clip` = 0 does not clip.

    unit: what a batch counts: "pairs" of a caption and its image, or "images", each with all of its captions, which are
        then positives of one image and no negatives (SAIL).
    shuffle: "pairs", any pair next to any other; "blocks" where the store is larger than memory (`order.block_order`).
    """

    name: Literal["adamw", "lion"] = "adamw"
    lr: float = within(1e-3, 0, 10)
    min_lr: float = within(0.0, 0, 10)
    warmup: float = within(0.0, 0)
    warmup_lr: float = within(0.0, 0, 10)
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = within(0.0, 0, 10)
    decay_all: bool = False
    betas: tuple[float, float] = within((0.9, 0.999), 0, 0.999999)
    clip: float = within(0.0, 0)
    batch: int = within(1024, 2)
    unit: Literal["pairs", "images"] = "pairs"
    epochs: int = within(20, 0)
    shuffle: Literal["pairs", "blocks"] = "pairs"
    precision: Literal["auto", "float32", "bf16"] = "auto"


@dataclass(frozen=True)
class Stop:
    """Validation: every `every` epochs; stop after `patience` evaluations without a better one (0: never)."""

    every: int = within(1, 1)
    patience: int = within(0, 0)
    restore_best: bool = False


@dataclass(frozen=True)
class Data:
    """What the encoder sees. `augment` "crop": a random part of each picture, flipped half of the time, every time
    anew; only where images are encoded while training (`PixelFeatures`)."""

    augment: Literal["none", "crop"] = "none"


@dataclass(frozen=True)
class Recipe:
    """All choices of one training run; `resolve` gives the ones in force for a number of training pairs."""

    name: str
    description: str = ""
    head: Head = Head()
    loss: Loss = Loss()
    optim: Optim = Optim()
    stop: Stop = Stop()
    data: Data = Data()
    by_pairs: tuple[dict[str, Any], ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)

    def resolve(self, pairs: int) -> Recipe:
        """The recipe in force for `pairs` training pairs: tier and overrides applied, `by_pairs` empty."""
        tier = next((tier for tier in self.by_pairs if pairs <= tier["up_to"]), {})
        changes = {key: value for key, value in tier.items() if key != "up_to"}
        tables = _merge(_merge(self.to_dict(), changes), self.overrides)
        return _build(self.name, tables, where=f"recipe {self.name!r} for {pairs:,} pairs")

    def to_dict(self) -> dict[str, Any]:
        """The values alone, as JSON takes them."""
        values = {section: dataclasses.asdict(getattr(self, section)) for section in SECTIONS}
        values["optim"]["betas"] = list(values["optim"]["betas"])
        values["loss"]["matryoshka"] = list(values["loss"]["matryoshka"])
        return {"name": self.name, "description": self.description, **values}


SECTIONS = {"head": Head, "loss": Loss, "optim": Optim, "stop": Stop, "data": Data}
KEYS = [f"{section}.{entry.name}" for section, cls in SECTIONS.items() for entry in dataclasses.fields(cls)]


def recipe_names() -> list[str]:
    """Names of the recipes that come with isthmus."""
    files = resources.files(__package__).joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or any recipe by path, with `overrides` such as `["optim.lr=1e-3"]`.

    An override's value is read as TOML; a bare word is a string. Raises `UsageError` for an unknown recipe or
    key (the nearest is named), a value of the wrong type or out of range, and choices that contradict.
    """
    where, text = _read(name)
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid TOML: {error}.") from None
    tables = {"name": Path(name).stem, **tables}
    tiers = tables.pop("by_pairs", [])
    changes: dict[str, Any] = {}
    for override in overrides:
        changes = _merge(changes, _parse_override(override))
    recipe = _build(tables["name"], _merge(tables, changes), where)
    recipe = dataclasses.replace(recipe, by_pairs=_check_tiers(tiers, where), overrides=changes)
    for tier in recipe.by_pairs:  # every tier must be valid now, not only once someone has that much data
        values = _merge(_merge(tables, tier), changes)
        _build(recipe.name, values, f"{where}: by_pairs up_to = {tier['up_to']}")
    return recipe


def _read(name: str | Path) -> tuple[str, str]:
    """(how to call the recipe in messages, its text)."""
    if str(name) in recipe_names():
        file = resources.files(__package__).joinpath("recipes", f"{name}.toml")
        return f"recipe {str(name)!r}", file.read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        near = did_you_mean(str(name), recipe_names())
        raise UsageError(f"{str(name)!r} is neither a recipe nor a file.{near}")
    try:
        return str(path), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a recipe ({error}).") from None


def _parse_override(override: str) -> dict[str, Any]:
    """`"optim.lr=1e-3"` as `{"optim": {"lr": 1e-3}}`."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise UsageError(f"--set {override}: expected key=value, such as optim.lr=1e-3.")
    if key not in KEYS:
        raise UsageError(f"--set {override}: unknown key {key!r}.{_nearest(key)}")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    value = parsed["value"] if len(parsed) == 1 else text
    section, _, name = key.partition(".")
    _check_section(section, {name: value}, where=f"--set {override}")
    return {section: {name: value}}


def _nearest(key: str) -> str:
    """A hint for an unknown dotted key: the same last part in another section first, then the spelling."""
    same = [known for known in KEYS if known.partition(".")[2] == key.rpartition(".")[2]]
    return f" Did you mean {same[0]!r}?" if len(same) == 1 else did_you_mean(key, KEYS)


def _check_tiers(tiers: Any, where: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in tiers):
        raise UsageError(f"{where}: write each tier as a table of its own, [[by_pairs]].")
    bounds = [tier.get("up_to") for tier in tiers]
    if not all(type(bound) is int for bound in bounds) or bounds != sorted(set(bounds)):
        raise UsageError(f"{where}: [[by_pairs]] needs up_to, whole numbers in rising order; got {bounds}.")
    return tuple(tiers)


def _merge(base: Tables, changes: Tables) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _build(name: str, tables: Tables, where: str) -> Recipe:
    """Check every table and value, then make the recipe."""
    known = {"name", "description", "up_to", *SECTIONS}
    for key in tables:
        if key not in known:
            near = did_you_mean(key, [*SECTIONS, "by_pairs", *KEYS])
            raise UsageError(f"{where}: unknown key {key!r}.{near}")
    description = tables.get("description", "")
    if not isinstance(name, str) or not isinstance(description, str):
        raise UsageError(f"{where}: name and description must be strings.")
    checked = {section: _check_section(section, tables.get(section, {}), where) for section in SECTIONS}
    recipe = Recipe(name, description, **{section: SECTIONS[section](**checked[section]) for section in SECTIONS})
    for problem in _conflicts(recipe):
        raise UsageError(f"{where}: {problem}")
    return recipe


def _check_section(section: str, values: Any, where: str) -> dict[str, Any]:
    """The values of one section, converted to their declared types."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: {section} must be a table, [{section}].")
    cls = SECTIONS[section]
    hints = get_type_hints(cls)
    entries = {entry.name: entry for entry in dataclasses.fields(cls)}
    checked = {}
    for key, value in values.items():
        if key not in entries:
            raise UsageError(f"{where}: unknown key {f'{section}.{key}'!r}.{_nearest(f'{section}.{key}')}")
        try:
            checked[key] = _convert(value, hints[key])
        except TypeError:
            wanted = " or ".join(_kinds(hints[key]))
            raise UsageError(f"{where}: {section}.{key} must be {wanted}, not {value!r}.") from None
        _check_range(f"{where}: {section}.{key}", checked[key], entries[key].metadata)
    return checked


def _convert(value: Any, hint: Any) -> Any:
    """`value` as the type `hint` declares; TypeError when it is not one."""
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            try:
                return _convert(value, option)
            except TypeError:
                continue
    elif get_origin(hint) is Literal:
        if isinstance(value, str) and value in get_args(hint):
            return value
    elif get_origin(hint) is tuple and get_args(hint)[-1] is Ellipsis:
        if isinstance(value, list | tuple):
            return tuple(_convert(item, get_args(hint)[0]) for item in value)
    elif get_origin(hint) is tuple:
        if isinstance(value, list | tuple) and len(value) == len(get_args(hint)):
            return tuple(_convert(item, kind) for item, kind in zip(value, get_args(hint), strict=True))
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif type(value) is hint:  # not isinstance: True is no whole number
        return value
    raise TypeError


def _kinds(hint: Any) -> Iterator[str]:
    """What `hint` accepts, in words."""
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a string"}
    if get_origin(hint) in (Union, UnionType):
        for option in get_args(hint):
            yield from _kinds(option)
    elif get_origin(hint) is Literal:
        yield " or ".join(f'"{choice}"' for choice in get_args(hint))
    elif get_origin(hint) is tuple:
        yield "a list of whole numbers" if ... in get_args(hint) else f"a list of {len(get_args(hint))} numbers"
    elif hint in words:
        yield words[hint]


def _check_range(what: str, value: Any, bounds: Mapping[str, float]) -> None:
    low, high = bounds.get("low", -INF), bounds.get("high", INF)
    for number in value if isinstance(value, tuple) else [value]:
        if isinstance(number, float | int) and not (math.isfinite(number) and low <= number <= high):
            wanted = f"at least {low:g}" if high == INF else f"from {low:g} to {high:g}"
            raise UsageError(f"{what} must be {wanted if low > -INF else 'finite'}, not {number}.")


def _conflicts(recipe: Recipe) -> Iterator[str]:
    """Choices that are each valid and make no sense together."""
    head, loss, optim = recipe.head, recipe.loss, recipe.optim
    if head.budget is not None and head.expand is not None:
        yield "head.budget and head.expand both fix the size; give one."
    if optim.epochs == 0 and head.init == "random":
        yield 'optim.epochs = 0 leaves a random head; set head.init = "cca", "ridge" or "procrustes".'
    if head.init == "random":
        for key, value in (("head.width", head.width), ("loss.scale", loss.scale)):
            if value == "auto":
                yield f'{key} = "auto" is taken from a closed form; set head.init, or give a number.'
    if head.width == "auto" and (head.image, head.text, head.norm) != ("linear", "linear", "layer"):
        yield 'head.width = "auto" needs linear heads with norm = "layer"; give a number.'
    if any(":" in kind for kind in (head.image, head.text)) and (head.init != "random" or head.beside != "none"):
        yield 'closed forms are of pooled features: token heads need head.init = "random" and head.beside = "none".'
    if head.beside != "none" and (loss.name, head.norm) != ("infonce", "layer"):
        yield 'head.beside needs loss.name = "infonce", by which the scale of both is set, and head.norm = "layer".'
    yield from _prefix_conflicts(head, loss)
    if recipe.data.augment != "none" and (head.init != "random" or head.beside != "none"):
        yield 'data.augment changes features from step to step: a closed form needs data.augment = "none".'
    if loss.min_scale > loss.max_scale:
        yield f"loss.min_scale = {loss.min_scale:g} is above loss.max_scale = {loss.max_scale:g}."
    elif loss.scale != "auto" and not loss.min_scale <= loss.scale <= loss.max_scale:
        bounds = f"min_scale = {loss.min_scale:g} to max_scale = {loss.max_scale:g}"
        yield f"loss.scale = {loss.scale:g} lies outside {bounds}."
    if optim.min_lr > optim.lr:
        yield f"optim.min_lr = {optim.min_lr:g} is above optim.lr = {optim.lr:g}."


def _prefix_conflicts(head: Head, loss: Loss) -> Iterator[str]:
    """What `loss.matryoshka` cannot go with."""
    widths = loss.matryoshka
    if not widths:
        return
    if list(widths) != sorted(set(widths)) or (isinstance(head.width, int) and widths[-1] >= head.width):
        yield f"loss.matryoshka = {list(widths)} must rise and stay below head.width = {head.width}."
    if head.width == "auto" or head.beside != "none":
        yield 'loss.matryoshka trains prefixes of one head: give head.width a number and set head.beside = "none".'
