"""Evaluation tasks: the registry, and what it reads from each task's file.

A task is one function of a model and data. Its name, its docstring and its signature are all that the command line,
the help and the tables of results are made of. `inputs.opened` loads the model that `Given` may only name:

    @task(primary="mean_recall@1")
    def retrieval(model: Given, data: Data, *, split: str | None = None, bootstrap: int = 1000) -> Result:
        \"\"\"R@k in both directions.

        Args:
            split: train, val, test or whatever the data name.
        \"\"\"

Every parameter after `*` is an option: `--split NAME`, `--bootstrap N`. It may be `int`, `float`, `str`, `bool` (a
flag: `--x`, or `--no-x` where True is the default), `Literal["a", "b"]` (where None is the default, the flag without a
value is the first), `Path` or a union with it (a path), `Sequence[str]` or `Sequence[int]` (`a,b`), or `Prompts`;
`| None` is ignored. One name means one kind of option in every task; options in `SHARED` need no description. For the
help, the file is parsed and nothing is imported.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, update_wrapper
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, ParamSpec, TypeVar

from isthmus.errors import UsageError
from isthmus.registry import Registry

TASKS = Registry(
    "isthmus.tasks",
    {
        "retrieval": "isthmus.evaluation.retrieval:retrieval",
        "zeroshot": "isthmus.evaluation.zeroshot:zeroshot",
        "suite": "isthmus.evaluation.suite.run:suite",
        "knn": "isthmus.evaluation.knn:knn",
        "linear_probe": "isthmus.evaluation.linear_probe:linear_probe",
        "fewshot": "isthmus.evaluation.fewshot:fewshot",
        "segmentation": "isthmus.evaluation.segmentation:segmentation",
        "diagnose": "isthmus.evaluation.diagnose:diagnose",
        "winoground": "isthmus.evaluation.winoground:winoground",
        "mmvp": "isthmus.evaluation.mmvp:mmvp",
        "sugarcrepe": "isthmus.evaluation.sugarcrepe:sugarcrepe",
        "aro": "isthmus.evaluation.aro:aro",
        "whatsup": "isthmus.evaluation.whatsup:whatsup",
        "longtext": "isthmus.evaluation.longtext:longtext",
        "multilingual": "isthmus.evaluation.multilingual:multilingual",
        "vqa": "isthmus.evaluation.vqa:vqa",
        "entailment": "isthmus.evaluation.entailment:entailment",
        "matching": "isthmus.evaluation.matching:matching",
        "layers": "isthmus.evaluation.layers:layers",
        "captions": "isthmus.evaluation.captions:captions",
        "speech": "isthmus.evaluation.speech:speech",
    },
    noun="task",
)

# What an option of a task can be; `Prompts` is a list of prompts with a `{}` slot, the file or the name of a set of
# them, or descriptions {class: [sentences]}.
Prompts = str | Path | Sequence[str] | Mapping[str, Sequence[str]]
TaskOption = str | Path | int | float | bool | Sequence[str] | Sequence[float] | Mapping[str, object] | None

# Options that mean the same in most tasks: their help, where a docstring leaves them out.
SHARED = {
    "split": "use only this split of the data: train, val or test",
    "only": "use only the ids in this Parquet file (column `id`)",
    "classes": "names of the classes, in a file with one a line; default: the labels that occur",
    "templates": "prompts with a {} slot, a file of them, or the name of a packaged set",
    "images": "the folder of images, where it is not in its usual place",
    "columns": "which column of a table is which field: image=filepath,caption=title",
    "pages": "pages of a TIFF to read: all, or the N-th (the first)",
    "range": "black and white level of grey with more than 8 bits: 0:4095 for 12 bits in 16",
    "report": "also write an HTML page with plots there",
    "unseen": "only what neither trained nor validated the model",
    "bootstrap": "resamples of groups behind the 95 % intervals, 0 for none (1,000)",
    "seed": "seed of everything random (0)",
}

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A function that evaluates, its primary metric, and the columns of its table.

    primary: the metric that two models are compared by; None if no single metric can do that.
    columns: the metrics in the table, if they occur; default: the primary one. A result with none of them is listed one
        metric a line.
    """

    def __init__(self, function: Callable[P, R], primary: str | None, columns: Sequence[str]) -> None:
        update_wrapper(self, function)
        self.function, self.primary = function, primary
        self.columns = tuple(columns) or (() if primary is None else (primary,))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)


def task(*, primary: str | None, columns: Sequence[str] = ()) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Mark a function as a task: see `Task` and the module."""
    return lambda function: Task(function, primary, columns)


def find_task(name: str) -> Task:
    """The task of that name; UsageError for one that does not exist."""
    found = TASKS.find(name)
    return found if isinstance(found, Task) else Task(found, None, ())


def check_options(name: str, options: Mapping[str, object]) -> None:
    """UsageError for an option that the task does not take."""
    known = list(inspect.signature(find_task(name)).parameters)[2:]
    for option in options:
        if option not in known:
            raise UsageError(f"The task {name} takes no {option!r}: it takes {', '.join(known)}.")


@dataclass(frozen=True)
class Option:
    """An option in a task's signature. kind: its annotation without `None`, in parts; default: as written."""

    name: str
    kind: tuple[str, ...]
    default: str
    help: str

    @property
    def choices(self) -> list[str]:
        """Of a `Literal`; else none."""
        literal = next((part for part in self.kind if part.startswith("Literal[")), "Literal[]")
        return list(ast.literal_eval(literal.removeprefix("Literal")))


@dataclass(frozen=True)
class Described:
    """A task's description: the first line of its docstring, its primary metric, its options."""

    summary: str
    primary: str | None
    options: tuple[Option, ...]


@cache
def describe(name: str) -> Described:
    """The description of a task, read from its file without importing it.

    Raises `UsageError` for a task that does not exist, or whose source cannot be read.
    """
    entry = TASKS.entry(name)
    try:
        tree = ast.parse(_source(entry.module).read_text(encoding="utf-8"))
        function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == entry.attr)
    except (OSError, SyntaxError, ValueError, StopIteration) as error:
        raise UsageError(f"The task {name!r}: its source cannot be read ({entry.value}).") from error
    docstring = ast.get_docstring(function) or ""
    helps = SHARED | _helps(docstring)
    arguments = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    options = [
        Option(one.arg, _kind(one.annotation), ast.unparse(default) if default else "", helps.get(one.arg, ""))
        for one, default in arguments
    ]
    return Described(docstring.partition("\n")[0], _primary(function), tuple(options))


def _source(module: str) -> Path:
    """The file of a module. Only its outermost package is looked up: looking inside would import the parents."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        raise OSError(f"no package {top}")
    place = Path(spec.origin).parent.joinpath(*inner) if inner else Path(spec.origin)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _kind(annotation: ast.expr | None) -> tuple[str, ...]:
    parts = ast.unparse(annotation).split(" | ") if annotation else ["str"]
    return tuple(part for part in parts if part != "None")


def _primary(function: ast.FunctionDef) -> str | None:
    """The primary metric that `@task(primary=…)` names."""
    marks = [mark for mark in function.decorator_list if isinstance(mark, ast.Call)]
    named = [one.value for mark in marks for one in mark.keywords if one.arg == "primary"]
    return str(named[0].value) if named and isinstance(named[0], ast.Constant) and named[0].value else None


def _helps(docstring: str) -> dict[str, str]:
    """The text of the section `Args:` for each parameter (`name: text` or `a, b: text`), in one line."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", docstring, re.MULTILINE)
    entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE) if section else []
    return {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}
