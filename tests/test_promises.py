"""What the source may not do: no pickle, no code from strings, no network but where a user names a remote encoder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import isthmus
import isthmus_demo

SOURCES = [Path(str(package.__file__)).parent for package in (isthmus, isthmus_demo)]
FILES = sorted(file for source in SOURCES for file in source.rglob("*.py"))
FORBIDDEN = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle", "yaml"}
NETWORK = {"socket", "ssl", "http", "urllib.request", "requests", "httpx", "aiohttp", "ftplib", "fsspec"}
# Ray moves work between its processes by cloudpickle, in memory; the hub and pip are what the user names.
CLOUDPICKLE, HUB = "isthmus/ray_data.py", "isthmus/encoders/hub.py"
PIP, CONVERTER = "isthmus_demo/encoders/download.py", "isthmus_demo/encoders/wheel_conversion.py"
LISTENING = "isthmus/serving/addresses.py"  # `serve` listens where it is told to, and calls nobody
COMPILER = "isthmus/losses/compiled.py"  # runs the machine's own, on one file of ours
# Rendered faces of the demo: Debian packages are fetched and unpacked, one speaks, and our rasteriser is compiled.
FACES = tuple(f"isthmus_demo/talking/{name}.py" for name in ("parts", "lines", "rasterise"))


def name_of(path: Path) -> str:
    return next(path.relative_to(s.parent).as_posix() for s in SOURCES if path.is_relative_to(s))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere, also inside functions, and every name taken from one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, call) of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def option(call: ast.Call, name: str) -> object:
    return next((ast.unparse(one.value) for one in call.keywords if one.arg == name), None)


def broken(tree: ast.AST, name: str) -> list[str]:
    """What a source file does that it may not."""
    found = [
        module
        for module in imports(tree)
        if module.split(".")[0] in FORBIDDEN or any(module == one or module.startswith(f"{one}.") for one in NETWORK)
    ]
    found += [one for one in imports(tree) if one.endswith("cloudpickle") and name != CLOUDPICKLE]
    found += [one for one in imports(tree) if one.split(".")[0] == "huggingface_hub" and name != HUB]
    found += [one for one in imports(tree) if one.split(".")[0] == "subprocess" and name not in (PIP, COMPILER, *FACES)]
    for function, call in calls(tree):
        if function in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            found.append(function)
        if function == "torch.load" and option(call, "weights_only") != "True":
            found.append("torch.load without weights_only=True")
        if function in ("np.load", "numpy.load") and option(call, "allow_pickle") != "False":
            found.append("np.load without allow_pickle=False")
        if option(call, "shell") == "True" or option(call, "autoescape") == "False":
            found.append(f"{function} with shell=True or autoescape=False")
    return found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_source_keeps_the_promises(path: Path) -> None:
    found = broken(ast.parse(path.read_text(encoding="utf-8")), name_of(path))
    allowed = {CLOUDPICKLE: "ray.cloudpickle", LISTENING: "socket"}.get(name_of(path))
    assert [one for one in found if one != allowed] == []


@pytest.mark.parametrize(
    "code",
    [
        "def f():\n    import pickle",
        "from dill import loads",
        "eval('1')",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load('x', allow_pickle=True)",
        "import urllib.request",
        "from huggingface_hub import snapshot_download",
        "subprocess.run('x', shell=True)",
        "from ray import cloudpickle",
    ],
)
def test_the_scan_finds_each_of_them(code: str) -> None:
    assert broken(ast.parse(code), "somewhere.py")


def test_methods_called_eval_are_none() -> None:
    assert not broken(ast.parse("model.eval()\nfrom urllib.parse import unquote"), "somewhere.py")


def test_there_is_one_torch_load_and_it_is_the_converter_of_wheels() -> None:
    trees = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
    assert [name for name, tree in trees.items() for one, _ in calls(tree) if one == "torch.load"] == [CONVERTER]
