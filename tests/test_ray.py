"""The Ray engine: two local workers write the store that one process writes, byte for byte."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from isthmus.cli import main
from isthmus.data.pairs import pairs_from_lists, read_pairs
from isthmus.embedding import embed, work_plan
from isthmus.encoders.callables import from_callable
from isthmus.errors import InputError, UsageError
from isthmus.store import open_store
from store_cases import snapshot
from tiny_encoders import save_dinov2, save_sentence_pipeline
from toys import pixel_encoder, word_encoder, write_pairs

starts_ray = pytest.mark.slow  # about ten seconds


@pytest.fixture(scope="module")
def ray():
    """Two workers on this machine, which can import what the tests import."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Many units, and one thread, so that this machine has room for two workers of as many threads."""
    monkeypatch.setattr(work_plan, "LEAST_ITEMS", 24)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """192 pictures, one of them damaged, one missing, and one there twice."""
    table = write_pairs(tmp_path / "data")
    (table.parent / "0-030.png").write_bytes(b"not a picture")
    (table.parent / "2-001.png").unlink()
    (table.parent / "1-010.png").write_bytes((table.parent / "0-002.png").read_bytes())
    return table


@starts_ray
def test_workers_write_the_bytes_that_one_process_writes(ray, table: Path, tmp_path: Path) -> None:
    vit = f"hf:{save_dinov2(tmp_path / 'vit')}"
    image = [f"{vit}?pool=cls", f"{vit}?layer=2&pool=mean", pixel_encoder()]
    text = f"st:{save_sentence_pipeline(tmp_path / 'text')}"
    options = {"batch_size": 7, "max_skip": 0.1}
    here = embed(table, image, text, out=tmp_path / "local", **options)
    there = embed(table, image, text, out=tmp_path / "ray", engine="ray", **options)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    assert (there.encoded, there.skipped) == (here.encoded, here.skipped)
    assert len(here.skipped) == 2 and len(list((tmp_path / "ray").rglob("shard-*"))) > 3 * 7


@starts_ray
def test_workers_write_the_states_that_one_process_writes(ray, table: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(work_plan, "UNIT_BYTES", 40_000)
    encoders = [f"hf:{save_dinov2(tmp_path / 'vit')}?layer=1,2&pool=states"]
    encoders += [f"st:{save_sentence_pipeline(tmp_path / 'text')}?layer=2&pool=states"]
    options = {"encoders": encoders, "batch_size": 7, "max_skip": 0.1, "states_dtype": "int8"}
    embed(table, out=tmp_path / "local", **options)
    embed(table, out=tmp_path / "ray", engine="ray", **options)
    assert snapshot(tmp_path / "ray") == snapshot(tmp_path / "local")
    assert len(list((tmp_path / "ray").rglob("shard-*"))) > 12


@starts_ray
def test_both_workers_work(ray, table: Path, tmp_path: Path) -> None:
    def tell(images: list) -> np.ndarray:
        (tmp_path / f"worker-{os.getpid()}").touch()
        begun = time.monotonic()
        while len(list(tmp_path.glob("worker-*"))) < 2 and time.monotonic() - begun < 30:
            time.sleep(0.02)  # the other worker may still be starting
        return np.ones((len(images), 2), np.float32)

    image = from_callable(tell, "image", "tells its process", width=2)
    embed(table, image, word_encoder(), out=tmp_path / "store", batch_size=4, max_skip=0.1, engine="ray")
    assert len(list(tmp_path.glob("worker-*"))) == 2


@starts_ray
def test_an_error_on_a_worker_is_told_here_and_the_rest_is_kept(ray, table: Path, tmp_path: Path) -> None:
    pixels = pixel_encoder()

    def fails(images: list) -> np.ndarray:
        if (tmp_path / "broken").exists() and np.asarray(images[0])[0, 0, 0] % 3 == 0:
            raise InputError("the disk of this worker is gone")
        return pixels.encode(images)

    image, out = from_callable(fails, "image", "fails at times", width=108), tmp_path / "store"
    (tmp_path / "broken").touch()
    with pytest.raises(InputError, match="the disk of this worker is gone"):
        embed(table, image, word_encoder(), out=out, batch_size=8, max_skip=0.1, engine="ray")
    (tmp_path / "broken").unlink()
    embed(table, image, word_encoder(), out=out, batch_size=8, max_skip=0.1)
    embed(table, image, word_encoder(), out=tmp_path / "whole", batch_size=8, max_skip=0.1)
    assert snapshot(out) == snapshot(tmp_path / "whole")


@starts_ray
def test_the_command_line_takes_the_engine(ray, table: Path, tmp_path: Path, capsys) -> None:
    encoders = ["--image-encoder", f"hf:{save_dinov2(tmp_path / 'vit')}"]
    encoders += ["--text-encoder", f"st:{save_sentence_pipeline(tmp_path / 'text')}"]
    arguments = ["embed", str(table), *encoders, "--max-skip", "0.1", "--out", str(tmp_path / "store")]
    assert main([*arguments, "--engine", "ray"]) == 3
    assert "192 images" not in capsys.readouterr().out
    assert len(open_store(tmp_path / "store", verify=True)) == 190


def test_pairs_of_every_kind_travel_to_another_process(table: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in table.read_text().splitlines()[:9]]
    data = [(table.parent / row["image"]).read_bytes() for row in rows]
    pq.write_table(pa.table({"image": data, "caption": ["a square"] * 9}), tmp_path / "pairs.parquet", row_group_size=4)
    with tarfile.open(tmp_path / "pairs.tar", "w") as tar:
        for row in rows:
            tar.add(table.parent / row["image"], row["image"])
            tar.addfile(tarfile.TarInfo(row["image"].replace("png", "txt")), io.BytesIO())
    sources = (table, tmp_path / "pairs.parquet", tmp_path / "pairs.tar", table.parent)
    for pairs in [*(read_pairs(source, captions="optional") for source in sources), pairs_from_lists(data)]:
        travelled = pickle.loads(pickle.dumps(pairs))
        assert travelled.read_bytes(7) == pairs.read_bytes(7)


def test_an_unknown_engine_and_a_missing_ray_are_wrong_usage(table: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"'rey'.*Did you mean 'ray'"):
        embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store", engine="rey")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'isthmus\[ray\]'"):
        embed(table, pixel_encoder(), word_encoder(), out=tmp_path / "store", engine="ray")
