"""Run as a program: kill a writer at its k-th durable step, for every k, and look at what is left.

The steps are every fsync, rename and deletion. Each writer is a forked process that ends by SIGKILL, so
nothing of it gets to clean up. Prints the number of kills.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from isthmus.errors import InputError
from isthmus.store import Store, doctor, open_store
from isthmus.store import stream as stream_module
from store_cases import IMAGE, OTHER, TEXT, shards_of, snapshot, write


def kill_at(step: int) -> None:
    """Arrange for this process to die at the `step`-th durable step."""
    count = 0

    def counted(real):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in ("replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


def killed(work, step: int) -> bool:
    """Run `work` in a forked process that dies at `step`; False if it got to its end before."""
    child = os.fork()
    if child == 0:
        kill_at(step)
        try:
            work()
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 7
    return False


def content(store: Store) -> dict:
    """Everything a reader can see, independent of which shard holds a row."""
    seen = {name: getattr(store, name).to_pylist() for name in ("images", "captions", "skipped")}
    for one in store.encoders:
        matrix = store.features(one["modality"], one["fingerprint"])
        seen[one["uri"]] = matrix.gather(range(len(matrix))).tolist()
    return seen


def check_every_kill(root: Path, start, work) -> int:
    """`start` makes the old store, if there is one; `work` makes the new one. Returns the number of kills."""
    old = None
    if start:
        start(root / "old")
        old = content(open_store(root / "old"))
        shutil.copytree(root / "old", root / "reference")
    work(root / "reference")
    new, files = content(open_store(root / "reference")), snapshot(root / "reference")
    assert old != new
    step = 1
    while True:
        path = root / f"kill{step}"
        if old:
            shutil.copytree(root / "old", path)
        if not killed(lambda path=path: work(path), step):
            return step - 1
        try:
            seen = content(open_store(path, verify=True))
        except InputError:
            seen = None
        assert seen in (old, new), f"step {step}: neither old nor new"
        work(path)
        assert content(open_store(path, verify=True)) == new, f"step {step}: another store"
        assert snapshot(path) == files, f"step {step}: other files"
        assert all(finding["ok"] for finding in doctor(path)), f"step {step}: {doctor(path)}"
        shutil.rmtree(path)
        step += 1


def main(root: Path) -> None:
    os.fsync = lambda handle: None  # the disk itself does not fail here, and waiting for it is slow
    stream_module.SHARD_BYTES = 2 * 6 * 2  # two images a shard: several shards a run
    first, more = ["a", "b", "c"], ["a", "b", "c", "d"]
    kills = check_every_kill(root / "new", None, lambda path: write(path, first, (IMAGE,)))
    kills += check_every_kill(
        root / "append",
        lambda path: write(path, first, (IMAGE, TEXT), captions_each=1),
        lambda path: write(path, more, (IMAGE, OTHER, TEXT), captions_each=1, skipped=(("z", "not an image"),)),
    )
    assert len(shards_of(root / "append/reference", IMAGE)) == 3
    print(kills)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
