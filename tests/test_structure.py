"""Data flows one way: no circle of files and none of folders, imports inside functions and for types counted.

The library knows the demo by its entry points alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import isthmus
import isthmus_demo

LIBRARY, DEMO = (Path(str(package.__file__)).parent for package in (isthmus, isthmus_demo))
Graph = dict[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name."""
    names = {path: path.relative_to(package.parent).with_suffix("").parts for path in package.rglob("*.py")}
    return {".".join(parts[:-1] if parts[-1] == "__init__" else parts): path for path, parts in names.items()}


def imports(path: Path, known: set[str]) -> Iterator[str]:
    """The modules of the package that a file names in an import, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            full = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in full if {name, node.module} & known)


def graph(package: Path) -> Graph:
    found = modules(package)
    return {name: set(imports(path, set(found))) - {name} for name, path in found.items()}


def rooms(files: Graph) -> Graph:
    """The same between folders (and files) directly below the package."""
    joined: Graph = {}
    for name, needed in files.items():
        mine = ".".join(name.split(".")[:2])
        others = {".".join(other.split(".")[:2]) for other in needed}
        joined.setdefault(mine, set()).update(others - {mine})
    return joined


def circle(found: Graph) -> list[str] | None:
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return error.args[1]
    return None


@pytest.mark.parametrize(("package", "least"), [(LIBRARY, 150), (DEMO, 12)], ids=["isthmus", "isthmus_demo"])
def test_no_circle_of_files_or_folders(package: Path, least: int) -> None:
    files = graph(package)
    assert len(files) > least
    assert circle(files) is None
    assert circle(rooms(files)) is None


def test_the_library_does_not_import_the_demo() -> None:
    demo = set(modules(DEMO))
    assert [path for path in LIBRARY.rglob("*.py") if set(imports(path, demo))] == []
    assert "isthmus_demo" in set(imports(DEMO / "scenes.py", demo))  # it would be seen


def listed(path: Path) -> Iterator[int]:
    """Lines with a literal list, tuple or set that has both image and text."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            firsts = (item.elts[0] if isinstance(item, ast.Tuple) and item.elts else item for item in node.elts)
            if {"image", "text"} <= {first.value for first in firsts if isinstance(first, ast.Constant)}:
                yield node.lineno


def test_modalities_are_listed_once() -> None:
    """In the registry; besides, what the two sides of pairs are called."""
    found = {str(path.relative_to(LIBRARY)): list(listed(path)) for path in LIBRARY.rglob("*.py")}
    assert {path: len(lines) for path, lines in found.items() if lines} == {"data/feature_pairs.py": 1}


LONGEST = 40  # lines of a function, from its first statement after the docstring to its last


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_function_has_more_than_40_lines_of_code() -> None:
    long = []
    for path in (*LIBRARY.rglob("*.py"), *DEMO.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > LONGEST:
                long.append(f"{path}:{node.lineno} {node.name}: {code_lines(node)}")
    assert long == []
    function = ast.parse("def f():\n    'doc'\n" + "    x = 1\n" * 41).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert code_lines(function) == 41  # it would be seen


def test_a_circle_is_noticed(tmp_path: Path) -> None:
    package = tmp_path / "toy"
    for name in ("a", "b"):
        (package / name).mkdir(parents=True)
    (package / "a" / "one.py").write_text("def f():\n    from toy.b import two\n")
    (package / "b" / "two.py").write_text("if TYPE_CHECKING:\n    from toy.a.three import x\n")
    (package / "a" / "three.py").write_text("x = 1\n")
    files = graph(package)
    assert circle(files) is None
    assert circle(rooms(files)) is not None
    (package / "a" / "three.py").write_text("import toy.a.one\nx = 1\n")
    assert circle(graph(package)) is not None


def test_classes_and_aliases_have_unique_names() -> None:
    defined: dict[str, list[str]] = {}
    for package in (LIBRARY, DEMO):
        for name, path in modules(package).items():
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                targets = node.targets if isinstance(node, ast.Assign) else []
                found = [node.name] if isinstance(node, ast.ClassDef) else []
                for one in found + [target.id for target in targets if isinstance(target, ast.Name)]:
                    if one[0].isupper() and not one.isupper():
                        defined.setdefault(one, []).append(name)
    assert {one: places for one, places in defined.items() if len(places) > 1} == {}
