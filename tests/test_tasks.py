"""Tasks, projectors and losses by name: what a file says is what the command line offers; other packages add theirs."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

import isthmus as ist
from isthmus.api import One, Several
from isthmus.cli import main
from isthmus.errors import UsageError
from isthmus.evaluation.tasks import TASKS, describe, find_task
from isthmus.losses import LOSSES
from isthmus.projectors import KINDS
from isthmus.registry import Registry

HEAVY = ("torch", "transformers", "pyarrow", "numpy", "PIL")
TASK = '''
"""A task of another package."""
from typing import Literal
import torch  # heavy on purpose: help must not need it
from isthmus.evaluation.tasks import task


@task(primary="score")
def colours(model, data, *, shade: str = "red", levels: int = 3, plain: bool = False,
            mix: Literal["add", "over"] | None = None):
    """How colourful a model is.

    Args:
        shade: the colour that counts,
            as a word.
        levels: how many (3).
    """
    metrics = {"score": levels / 10, "other": 1.0}
    return {"model": str(model), "dataset": str(data), "task": "colours", "metrics": metrics,
            "shade": shade, "mix": mix}
'''
LOSS = """
import torch

def spread(x, y, scale, bias, *, groups=None, process_group=None, positives):
    assert positives == "equal"
    return -(x * y).sum(1).mean() * scale + bias**2
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder in which paths named model and data exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("model", "data"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another package on the path, installed as far as its entry points go."""
    (tmp_path / "paint.py").write_text(TASK)
    (tmp_path / "spread.py").write_text(LOSS)
    described = tmp_path / "paint-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: paint\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text(
        "[isthmus.tasks]\ncolours = paint:colours\ngone = paint:nothing\nretrieval = paint:colours\n"
        "[isthmus.losses]\nspread = spread:spread\nbroken = no_such_module:loss\n"
        "[isthmus.projectors]\nsquare = isthmus.projectors.blocks:Linear\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in (TASKS, LOSSES, KINDS):
        monkeypatch.delitem(registry.__dict__, "_entries", raising=False)
    describe.cache_clear()
    yield tmp_path
    for registry in (TASKS, LOSSES, KINDS):
        registry.__dict__.pop("_entries", None)
    describe.cache_clear()
    sys.modules.pop("paint", None)
    sys.modules.pop("spread", None)


def shown(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(["eval", *arguments])
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", TASKS.names())
def test_the_help_of_a_task_shows_its_own_options_with_a_text_each(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown("model", name, "--help", capsys=capsys)
    own = list(inspect.signature(find_task(name)).parameters)[2:]
    described = describe(name)
    assert [option.name for option in described.options] == own
    assert all(option.help for option in described.options), described.options
    flags = {f"--no-{o.name}" if o.default == "True" else f"--{o.name.replace('_', '-')}" for o in described.options}
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("  --")}
    assert listed - {"--descriptions"} == flags


@pytest.mark.parametrize("name", TASKS.names())
def test_what_a_file_says_is_what_its_task_is(name: str) -> None:
    found, described = find_task(name), describe(name)
    assert found.__name__ == name and found.primary == described.primary
    assert found.primary is None or found.primary in found.columns
    assert described.summary == found.__doc__.partition("\n")[0]
    signature = inspect.signature(found)
    assert signature.return_annotation == ("Result" if name in typing.get_args(One) else "list[Result]")


def test_evaluate_knows_the_type_of_every_task_of_ours() -> None:
    assert {*typing.get_args(One), *typing.get_args(Several)} == set(TASKS.own)


@pytest.mark.parametrize("arguments", [["eval", "--help"], ["eval", "m", "segmentation", "--help"]])
def test_help_reads_tasks_without_importing_them(arguments: list[str], package: Path) -> None:
    code = (
        f"import sys\nsys.path.insert(0, {str(package)!r})\nfrom isthmus.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert end.code == 0\n"
        f"print('HEAVY', [m for m in {(*HEAVY, 'paint')!r} if m in sys.modules])"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert out.strip().endswith("HEAVY []")
    assert ("colours" in out) == (arguments == ["eval", "--help"])


def test_the_help_of_all_lists_tasks_and_none_of_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("--help", capsys=capsys)
    for name in TASKS.names():
        assert " ".join(f"{name} {describe(name).summary}".split()) in " ".join(text.split())
    assert "--beside" in text and "--max-tokens N" not in text


def test_an_option_of_another_task_is_refused_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "model", "retrieval", "data", "--max-tokens", "3"]) == 2
    takes = "split, only, columns, images, pages, range, rerank, protocol, unseen, bootstrap, seed"
    assert f"retrieval takes no 'max_tokens': it takes {takes}." in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["eval", "model", "retrieval", "data", "--no-such-option"])
    assert end.value.code == 2


def test_a_task_of_another_package_runs_is_listed_and_has_help(
    here: Path, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "model", "colours", "data", "--levels", "7", "--shade", "blue", "--json", "-"]) == 0
    out = capsys.readouterr().out
    assert "score" in out and "70.0" in out and '"shade": "blue"' in out
    assert "How colourful a model is." in shown("--help", capsys=capsys)
    text = shown("model", "colours", "--help", capsys=capsys)
    assert "--shade NAME" in text and "the colour that counts, as a word" in text and "primary metric: score" in text
    assert "--split" not in text and "--plain" in text
    assert main(["eval", "model", "colours", "data", "--seed", "3"]) == 2  # not passed over in silence
    assert "takes no 'seed'" in capsys.readouterr().err
    assert ist.evaluate("model", "colours", "data", levels=2)["metrics"]["score"] == 0.2
    for given, read in ((["--mix"], "add"), (["--mix", "over"], "over")):
        assert main(["eval", "model", "colours", "data", "--json", "-", *given]) == 0
        assert f'"mix": "{read}"' in capsys.readouterr().out


def test_another_package_cannot_replace_a_task_of_ours_nor_break_the_others(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_task("retrieval").__module__ == "isthmus.evaluation.retrieval"
    assert "(its source file cannot be read)" in shown("--help", capsys=capsys)
    with pytest.raises(UsageError, match="'gone' of the package paint cannot be loaded"):
        find_task("gone")


def test_a_loss_of_another_package_trains(package: Path) -> None:
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((200, 6)).astype(np.float32)
    pairs = ist.FeaturePairs.from_arrays(latent, latent @ rng.standard_normal((6, 5)).astype(np.float32))
    overrides = ["loss.name=spread", "optim.epochs=2", "optim.batch=50", "head.width=4", "head.init=random"]
    model = ist.train(pairs, recipe="linear", overrides=overrides)
    assert model.summary["recipe"]["loss"]["name"] == "spread"
    assert model.bias is not None  # it names a bias, so it has one that is learned
    with pytest.raises(UsageError, match=r"no loss 'spraed'\. Did you mean 'spread'"):
        ist.load_recipe("linear", ["loss.name=spraed"])
    with pytest.raises(UsageError, match="loss 'broken' of the package paint cannot be loaded"):
        LOSSES.find("broken")


def test_a_projector_of_another_package_is_built(package: Path) -> None:
    from isthmus.projectors import build_projector

    assert build_projector("square", [3], 2)(torch.zeros(4, 3)).shape == (4, 2)
    with pytest.raises(UsageError, match=r"no kind 'sqaure'\. Did you mean 'square'"):
        build_projector("sqaure", [3], 2)


def test_a_registry_names_what_is_near_and_what_has_to_be_installed() -> None:
    known = Registry("isthmus.none", {"parse": "json:loads"}, noun="reader", elsewhere={"wheel": "wheels (pip …)"})
    assert known.names() == ["wheel", "parse"]
    assert known.find("parse")("[1]") == [1]
    with pytest.raises(UsageError, match=r"no reader 'prase'\. Did you mean 'parse'"):
        known.find("prase")
    with pytest.raises(UsageError, match=r"reader 'wheel' comes with the package wheels \(pip"):
        known.find("wheel")


VERBS = ("embed", "select", "curate", "train", "cross_validate", "evaluate", "search", "segment", "doctor")


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_says_what_it_takes_and_when_to_use_it(name: str) -> None:
    verb = getattr(ist, name)
    for parameter in inspect.signature(verb).parameters.values():
        assert "Any" not in str(parameter.annotation).replace("|", " ").split(), parameter
        assert parameter.annotation is not inspect.Parameter.empty
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:  # the options are the task's: what they may be is typed
            assert (name, parameter.annotation) == ("evaluate", "TaskOption")
    assert "Use this when" in verb.__doc__ and ">>> " in verb.__doc__


def test_the_package_lists_its_public_names_alone() -> None:
    assert dir(ist) == sorted([*ist.__all__, "__version__"])
    assert set(VERBS) <= set(ist.__all__)
