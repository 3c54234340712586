"""Do two work trees give the same results? Every command on a small fixed input, byte by byte.

    python benchmarks/same_results.py OLD_TREE NEW_TREE [--keep DIR] [--only PATTERN]

Each tree is a folder with `src/` (and `demo/src/`). Both run the same steps (`same_results_cases.py`) in scratch
folders of their own, with the same relative paths; then the new tree also goes on from the stores, models and
checkpoints that the old one wrote. Compared are exit codes, standard output and error, and every byte of every file
written, apart from what `same_results_normal.py` lists. One line per comparison; exit code 1 if anything differs.

A step runs in a fork of this process, which has imported PyTorch and other packages but not isthmus: importing them
anew takes longer than most steps. `--help` and `--version` run as `python -m isthmus`.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from same_results_cases import LONG_STEPS, Step, checkpointed, first, then
from same_results_normal import file_difference, normal_text, text_difference

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    "COLUMNS": "120",
    "HF_HUB_OFFLINE": "1",
    "ISTHMUS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
}
SHARED = (
    *("torch.utils.flop_counter", "numpy", "scipy.stats", "pyarrow.parquet", "pyarrow.compute", "PIL.Image"),
    *("sentence_transformers", "transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2"),
    *("transformers.models.dinov2.modeling_dinov2", "transformers.models.bit.image_processing_pil_bit"),
    *("matplotlib.pyplot", "jinja2", "tabulate", "tqdm", "filelock", "tokenizers"),
)
DEADLINE = 120  # seconds for one step
LOST = 99  # exit code of a step that used another isthmus than the tree's


@dataclass(frozen=True)
class Side:
    """A tree, and the folder in which it works."""

    tree: Path
    folder: Path

    def stream(self, step: Step, end: str) -> Path:
        return self.folder / "streams" / f"{step.name.replace(' ', '_')}.{end}"

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.tree / "src", self.tree / "demo" / "src") if path.is_dir()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, metavar="OLD_TREE")
    parser.add_argument("new", type=Path, metavar="NEW_TREE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="an empty folder in which all that was written stays")
    parser.add_argument("--only", default="", metavar="PATTERN", help="of the later steps, those with such a name")
    args = parser.parse_args()
    for tree in (args.old, args.new):
        if not (tree / "src" / "isthmus").is_dir():
            parser.error(f"{tree}: no src/isthmus in it.")
    if args.keep and args.keep.exists() and any(args.keep.iterdir()):
        parser.error(f"--keep {args.keep}: is not empty.")
    prepare()
    work = args.keep or Path(tempfile.mkdtemp())  # no TemporaryDirectory: a fork that ends would remove it
    try:
        return compare(args.old.resolve(), args.new.resolve(), work.resolve(), args.only)
    finally:
        if not args.keep:
            shutil.rmtree(work)


def prepare() -> None:
    """The environment, and the packages that all steps share."""
    os.environ |= ENVIRONMENT
    given = [Path(path).resolve() for path in os.environ.pop("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [path for path in sys.path if Path(path).resolve() not in given]
    for name in SHARED:
        importlib.import_module(name)
    if "isthmus" in sys.modules:
        raise SystemExit("isthmus was imported before the steps: they would all use that one.")


def compare(old_tree: Path, new_tree: Path, work: Path, only: str) -> int:
    """Run everything and print the comparisons; 1 if anything differs."""
    old, new = Side(old_tree, work / "old"), Side(new_tree, work / "new")
    mixed = Side(new_tree, work / "mix")  # the new tree, with what the old one wrote
    make_input(work)
    for side in (old, new):
        shutil.copytree(work / "input", side.folder / "input")
    beginning, rest = first(), then(only)
    common = [step for step in rest if step.across]
    run_all(old, beginning)
    shutil.copytree(old.folder, mixed.folder)
    run_all(new, beginning)
    run_all(old, rest)
    run_all(new, rest)
    run_all(mixed, common)
    found = [
        *(line for step in (*beginning, *rest) for line in differences("", step, old, new)),
        *(line for step in common for line in differences("from the old one's files: ", step, old, mixed)),
        *(resumed(old, new, mixed) if any(step.name == "uninterrupted" for step in rest) else ()),
    ]
    bad = sum(different for different, _ in found)
    print(f"{len(found) - bad} comparisons are the same, {bad} differ.")
    print("Left out: `isthmus demo` with its pictures, wheel: encoders, engine=ray, several processes, a GPU.")
    return int(bad > 0)


def make_input(work: Path) -> None:
    """By this repository's own tests' helpers, once for both trees."""
    work.mkdir(parents=True, exist_ok=True)

    def make(_: str) -> None:
        sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
        importlib.import_module("same_results_input").make_input(Path("input"))

    code = run(Side(HERE.parent, work), Step("input", make))
    if code:
        raise SystemExit(f"The input cannot be made:\n{(work / 'streams' / 'input.err').read_text()}")


# --- running ----------------------------------------------------------------------------------------------------------


def run_all(side: Side, steps: list[Step]) -> None:
    started = time.monotonic()
    for step in steps:
        code = run(side, step)
        if step.stop and not 0 < inside(side.folder, lambda: checkpointed(f"out/{step.name}")) < LONG_STEPS:  # noqa: B023
            raise SystemExit(f"{side.tree}: {step.name}: exit code {code}; the run was not stopped between two steps.")
        side.stream(step, "code").write_text(f"{code}\n")
    print(f"{side.folder.name}: {len(steps)} steps in {time.monotonic() - started:.0f} s", file=sys.stderr)


def run(side: Side, step: Step) -> int:
    """The exit code of a step; minus a signal's number where that ended it. Its streams go to files."""
    out, err = side.stream(step, "out"), side.stream(step, "err")
    out.parent.mkdir(exist_ok=True)
    for folder in ("json", "out", "tmp"):
        (side.folder / folder).mkdir(exist_ok=True)
    if step.new_process:
        with out.open("wb") as stdout, err.open("wb") as stderr:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, side.paths))}
            command = [sys.executable, "-m", "isthmus", *step.run]  # type: ignore[misc]
            return subprocess.call(command, cwd=side.folder, env=environment, stdout=stdout, stderr=stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        in_child(side, step, out, err)
    return wait(child, side, step)


def in_child(side: Side, step: Step, out: Path, err: Path) -> None:
    """Never returns: the forked process ends here."""
    code = 1
    try:
        for path, number in ((out, 1), (err, 2)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(side.folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        tempfile.tempdir = None
        os.environ |= {"ISTHMUS_CACHE": str(side.folder / "cache"), "TMPDIR": str(side.folder / "tmp")}
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, side.paths))
        sys.path[:0] = map(str, side.paths)
        code = act(step)
    except BaseException:
        traceback.print_exc()
    finally:
        used = sys.modules.get("isthmus")
        if used is not None and not Path(str(used.__file__)).is_relative_to(side.tree):
            print(f"not the tree's own isthmus: {used.__file__}", file=sys.stderr)
            code = LOST
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def act(step: Step) -> int:
    """What the step is: a function, or `python -m isthmus …`."""
    if callable(step.run):
        step.run(f"out/{step.name}")
        return 0
    sys.argv = ["isthmus", *step.run]
    try:
        runpy.run_module("isthmus", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def wait(child: int, side: Side, step: Step) -> int:
    """Until the child has ended; a step that is to be stopped is sent its signal when the time has come."""
    began, signalled = time.monotonic(), step.stop is None
    while True:
        ended, status = os.waitpid(child, 0 if signalled and not step.stop else os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if not signalled and step.until and inside(side.folder, step.until):
            os.kill(child, step.stop)  # type: ignore[arg-type]
            signalled = True
        if time.monotonic() - began > DEADLINE:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def inside(folder: Path, question: Callable[[], Any]) -> Any:
    with contextlib.chdir(folder):
        return question()


# --- comparing --------------------------------------------------------------------------------------------------------


def differences(prefix: str, step: Step, one: Side, other: Side) -> Iterator[tuple[bool, str]]:
    """(whether it differs, the line that was printed) of a step's exit code and streams, and of its files."""
    found = None
    for end, what in (("code", "exit code"), ("out", "stdout"), ("err", "stderr")):
        pair = [normal_stream(side, step, end) for side in (one, other)]
        found = found or text_difference(*pair, what)
    yield compared(f"{prefix}{step.name}", found)
    for name in step.writes:
        yield compared(f"{prefix}{step.name}: {name}", tree_difference(one, other, name, name))


def normal_stream(side: Side, step: Step, end: str) -> str:
    return normal_text(side.stream(step, end).read_text(), side.folder, side.tree)


def tree_difference(one: Side, other: Side, name: str, other_name: str) -> str | None:
    """The first file below `name` that is another, or is missing, in the other side's `other_name`."""
    roots = one.folder / name, other.folder / other_name
    if roots[0].is_file() and roots[1].is_file():
        return file_difference(*roots, (one.folder, one.tree), (other.folder, other.tree))
    listed = [sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) for root in roots]
    for file in sorted({*listed[0], *listed[1]}):
        missing = [side.folder.name for side, files in zip((one, other), listed, strict=True) if file not in files]
        if missing:
            return f"{file} is missing in {missing[0]}"
        if found := file_difference(
            roots[0] / file, roots[1] / file, (one.folder, one.tree), (other.folder, other.tree)
        ):
            return f"{file}: {found}"
    return None if all(root.exists() for root in roots) or not any(root.exists() for root in roots) else "not written"


def resumed(*sides: Side) -> Iterator[tuple[bool, str]]:
    """A run that was stopped, and went on, against one that never was; last, from the old tree to the new one."""
    whole = sides[0]
    for side in sides:
        for name in ("interrupted", "killed"):
            found = tree_difference(whole, side, "out/uninterrupted", f"out/{name}")
            yield compared(f"{side.folder.name}: {name}, then resumed, is the uninterrupted run of the old tree", found)


def compared(what: str, difference: str | None) -> tuple[bool, str]:
    line = f"same     {what}" if difference is None else f"DIFFERS  {what}: {difference}"
    print(line, flush=True)
    return difference is not None, line


if __name__ == "__main__":
    sys.exit(main())
