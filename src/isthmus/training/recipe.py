"""Recipes: a named set of training choices in one small TOML file, read strictly.

A table `[tune]` lists values to try, `optim.lr = [3e-4, 1e-3]` (`isthmus.training.tuning`).

An effective value comes, in this order, from the dataclass default, the file, the file's first `[[by_pairs]]`
table whose `up_to` reaches the number of training items, and `--set key=value`; in a stage, the stage's values come
before `--set`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_type_hints

from isthmus.data.text import read_text
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.registry import Registry
from isthmus.values import checked_section, keys_of, nearest_key, within

Tables = Mapping[str, Any]

# Objectives, by the name in a recipe's `objective`: modules with `recipe`, the class of its recipes, and
# `train` and `plan`, functions of a store, a recipe, a `Fitting` and what else they take; they run an `Objective`.
OBJECTIVES = Registry(
    "isthmus.objectives",
    {
        "contrastive": "isthmus.training.contrastive.train",
        "fusion": "isthmus.training.fusion.train",
        "language": "isthmus.training.language.train",
        "speech": "isthmus.training.speech.train",
    },
    noun="objective",
)


@dataclass(frozen=True)
class OptimOptions:
    """The optimizer. `warmup` below 1 is a share of all steps, otherwise a number of steps; `clip` = 0 does not clip.

    shuffle: "pairs", any pair next to any other; "blocks" for stores larger than memory (`order.block_order`).
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
    epochs: int = within(20, 0)
    shuffle: Literal["pairs", "blocks"] = "pairs"
    precision: Literal["auto", "float32", "bf16"] = "auto"


@dataclass(frozen=True)
class StopOptions:
    """Validation: every `every` epochs; stop after `patience` evaluations without improvement (0: never)."""

    every: int = within(1, 1)
    patience: int = within(0, 0)
    restore_best: bool = False


@dataclass(frozen=True)
class Stage:
    """One part of a run in stages: what it changes, what it trains, and where it starts.

    changes: values of the recipe's sections that hold in this stage. train: patterns (`fnmatch`) of the names of the
    parameters that are trained; () trains all. start: module → the earlier stage whose module of that name it starts
    as.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    train: tuple[str, ...] = ()
    start: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """All choices of one training run; `resolve` gives the effective ones for a number of training items.

    Each objective has a subclass, whose fields named in `sections` are the tables that its recipes may have.
    """

    objective: ClassVar[str] = ""
    sections: ClassVar[tuple[str, ...]] = ("optim", "stop")

    name: str
    description: str = ""
    optim: OptimOptions = OptimOptions()
    stop: StopOptions = StopOptions()
    by_pairs: tuple[dict[str, Any], ...] = ()
    stages: tuple[Stage, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    @classmethod
    def classes(cls) -> dict[str, type]:
        """The dataclass of each section."""
        hints = get_type_hints(cls)
        return {section: hints[section] for section in cls.sections}

    def conflicts(self) -> Iterator[str]:
        """Choices that are valid alone but contradict each other."""
        if self.optim.min_lr > self.optim.lr:
            yield f"optim.min_lr = {self.optim.min_lr:g} is above optim.lr = {self.optim.lr:g}."

    def resolve(self, items: int) -> Self:
        """The effective recipe for `items` training items: tier and overrides applied, `by_pairs` empty."""
        tier = next((tier for tier in self.by_pairs if items <= tier["up_to"]), {})
        changes = {key: value for key, value in tier.items() if key != "up_to"}
        found = self._changed(_merge(changes, self.overrides), where=f"recipe {self.name!r} for {items:,} pairs")
        return dataclasses.replace(found, stages=self.stages)

    def having(self, settings: Mapping[str, Any]) -> Self:
        """The recipe with values by dotted key, which override all others."""
        changes = self.overrides
        for key, value in settings.items():
            section, _, name = key.partition(".")
            changes = _merge(changes, {section: {name: value}})
        return dataclasses.replace(self, overrides=changes)

    def at(self, stage: Stage) -> Self:
        """The recipe of one stage, itself without stages. Its tiers by number of items apply too."""
        where = f"recipe {self.name!r}, stage {stage.name!r}"
        found = self._changed(_merge(stage.changes, self.overrides), where)
        return dataclasses.replace(found, by_pairs=self.by_pairs, overrides=_merge(stage.changes, self.overrides))

    def to_dict(self) -> dict[str, Any]:
        """The values alone, as JSON takes them."""
        values = {section: _plain(dataclasses.asdict(getattr(self, section))) for section in self.sections}
        named = {} if self.objective == DEFAULT_OBJECTIVE else {"objective": self.objective}
        return {"name": self.name, "description": self.description, **named, **values}

    def identity(self) -> dict[str, Any]:
        """The values that a run follows from, without those that only act after it."""
        return {name: value for name, value in self.to_dict().items() if name not in ("name", "description")}

    def _changed(self, changes: Tables, where: str) -> Self:
        tables = {key: value for key, value in self.to_dict().items() if key != "objective"}
        return _build(type(self), self.name, _merge(tables, changes), where)


DEFAULT_OBJECTIVE = "contrastive"


def recipe_names() -> list[str]:
    """Names of the recipes that come with isthmus."""
    files = resources.files(__package__).joinpath("recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read a shipped recipe by name, or any recipe by path, with `overrides` such as `["optim.lr=1e-3"]`.

    Returns the subclass of `Recipe` that its objective has; the contrastive one where none is named. An override's
    value is read as TOML; a bare word is a string. Raises `UsageError` for an unknown recipe, objective or key (the
    nearest is named), a value of the wrong type or out of range, and choices that contradict.
    """
    where, text = _read(name)
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not valid TOML: {error}.") from None
    tables = {"name": Path(name).stem, **tables}
    cls = _class_of(tables.pop("objective", DEFAULT_OBJECTIVE), where)
    tiers, stages, tune = tables.pop("by_pairs", []), tables.pop("stages", []), tables.pop("tune", {})
    changes: dict[str, Any] = {}
    for override in overrides:
        changes = _merge(changes, _parse_override(cls, override))
    recipe = _build(cls, tables["name"], _merge(tables, changes), where)
    recipe = dataclasses.replace(recipe, by_pairs=_check_tiers(tiers, where), overrides=changes)
    for tier in recipe.by_pairs:  # every tier must be valid now, not only with that much data
        values = _merge(_merge(tables, tier), changes)
        _build(cls, recipe.name, values, f"{where}: by_pairs up_to = {tier['up_to']}")
    recipe = dataclasses.replace(recipe, stages=_check_stages(stages, where), tune=_check_tune(cls, tune, where))
    for stage in recipe.stages:
        recipe.at(stage)
    return recipe


def _class_of(objective: Any, where: str) -> type[Recipe]:
    if not isinstance(objective, str):
        raise UsageError(f"{where}: objective must be a string.")
    try:
        return OBJECTIVES.find(objective).recipe
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _read(name: str | Path) -> tuple[str, str]:
    """(the recipe's name in messages, its text)."""
    if str(name) in recipe_names():
        file = resources.files(__package__).joinpath("recipes", f"{name}.toml")
        return f"recipe {str(name)!r}", file.read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        near = did_you_mean(str(name), recipe_names())
        raise UsageError(f"{str(name)!r} is neither a recipe nor a file.{near}")
    try:
        return str(path), read_text(path)
    except InputError as error:
        raise UsageError(f"{path}: cannot be read as a recipe ({error}).") from None


def _parse_override(cls: type[Recipe], override: str) -> dict[str, Any]:
    """`"optim.lr=1e-3"` as `{"optim": {"lr": 1e-3}}`."""
    key, equals, text = (part.strip() for part in override.partition("="))
    if not equals or not key:
        raise UsageError(f"--set {override}: expected key=value, such as optim.lr=1e-3.")
    if key not in keys_of(cls.classes()):
        raise UsageError(f"--set {override}: unknown key {key!r}.{nearest_key(key, cls.classes())}")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    value = parsed["value"] if len(parsed) == 1 else text
    section, _, name = key.partition(".")
    checked_section(cls.classes(), section, {name: value}, where=f"--set {override}")
    return {section: {name: value}}


def _check_tiers(tiers: Any, where: str) -> tuple[dict[str, Any], ...]:
    if not isinstance(tiers, list) or not all(isinstance(tier, dict) for tier in tiers):
        raise UsageError(f"{where}: write each tier as a table of its own, [[by_pairs]].")
    bounds = [tier.get("up_to") for tier in tiers]
    if not all(type(bound) is int for bound in bounds) or bounds != sorted(set(bounds)):
        raise UsageError(f"{where}: [[by_pairs]] needs up_to, whole numbers in rising order; got {bounds}.")
    return tuple(tiers)


def _check_stages(stages: Any, where: str) -> tuple[Stage, ...]:
    """`UsageError` for a stage without a unique name, or one that starts from a stage that is not before it."""
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise UsageError(f"{where}: write each stage as a table of its own, [[stages]].")
    found: list[Stage] = []
    for table in stages:
        changes = dict(table)
        name, train, start = changes.pop("name", None), changes.pop("train", []), changes.pop("start", {})
        before = [stage.name for stage in found]
        if not (isinstance(name, str) and name and "/" not in name) or name in before:
            raise UsageError(f"{where}: every stage needs a name of its own, which is also a folder's; got {name!r}.")
        if not isinstance(train, list) or not all(isinstance(one, str) for one in train):
            raise UsageError(f"{where}, stage {name!r}: train must be a list of parameter names, such as ['fusion.*'].")
        if not isinstance(start, dict) or not all(isinstance(one, str) for one in start.values()):
            raise UsageError(f"{where}, stage {name!r}: start must be a table of modules and earlier stages.")
        for other in start.values():
            if other not in before:
                raise UsageError(f"{where}, stage {name!r}: starts from {other!r}, no stage before it.")
        found.append(Stage(name, changes, tuple(train), start))
    return tuple(found)


def _check_tune(cls: type[Recipe], tune: Any, where: str) -> dict[str, tuple[Any, ...]]:
    """The values to try, by dotted key, each as its section takes it."""
    found = {}
    for section, keys in tune.items() if isinstance(tune, dict) else [("tune", None)]:
        for name, values in keys.items() if isinstance(keys, dict) else [("", None)]:
            key = f"{section}.{name}"
            if not isinstance(values, list) or not values:
                raise UsageError(f"{where}: tune.{key.rstrip('.')} must list values, as in optim.lr = [3e-4, 1e-3].")
            if key not in keys_of(cls.classes()):
                raise UsageError(f"{where}: tune: unknown key {key!r}.{nearest_key(key, cls.classes())}")
            each = [checked_section(cls.classes(), section, {name: value}, f"{where}: tune") for value in values]
            found[key] = tuple(one[name] for one in each)
    return found


def _merge(base: Tables, changes: Tables) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), Mapping)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _build(cls: type[Recipe], name: str, tables: Tables, where: str) -> Any:
    """Check every table and value, then make the recipe."""
    classes = cls.classes()
    known = {"name", "description", "up_to", *classes}
    for key in tables:
        if key not in known:
            near = did_you_mean(key, [*classes, "by_pairs", "tune", *keys_of(classes)])
            raise UsageError(f"{where}: unknown key {key!r}.{near}")
    description = tables.get("description", "")
    if not isinstance(name, str) or not isinstance(description, str):
        raise UsageError(f"{where}: name and description must be strings.")
    checked = {section: checked_section(classes, section, tables.get(section, {}), where) for section in classes}
    recipe = cls(name, description, **{section: classes[section](**checked[section]) for section in classes})
    for problem in recipe.conflicts():
        raise UsageError(f"{where}: {problem}")
    return recipe
