"""Result files: CLIP_benchmark's schema, plain JSON, tables with intervals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from isthmus.errors import InputError
from isthmus.metrics.results import read, result, table, write
from isthmus.metrics.retrieval import retrieval
from isthmus.metrics.zeroshot import zeroshot

ORIGIN = {"dataset": "drawings", "model": "small", "task": "zeroshot_classification"}


def test_the_file_has_clip_benchmark_s_keys_and_ours_beside_them(tmp_path):
    path = tmp_path / "result.json"
    evaluation = zeroshot(np.eye(6), np.eye(6), np.arange(6), bootstrap=20)
    written = write(path, evaluation, **ORIGIN, command="isthmus eval")
    loaded = json.loads(path.read_text(encoding="utf-8"))
    assert loaded.pop("seal") and loaded == written == read(path)
    assert list(loaded)[:6] == ["dataset", "model", "pretrained", "task", "metrics", "language"]
    assert loaded["metrics"] == {"acc1": 1.0, "acc5": 1.0, "mean_per_class_recall": 1.0}
    assert loaded["confusion"] == np.eye(6).astype(int).tolist()
    assert {"ci95", "n", "definition", "seed", "command"} <= set(loaded)


def test_metrics_are_numbers_only_as_clip_benchmark_s_csv_builder_expects():
    evaluation = retrieval(np.eye(3), np.eye(3), np.arange(3), bootstrap=20)
    made = result(evaluation, **ORIGIN)
    assert all(type(value) is float for value in made["metrics"].values())
    assert not set(made["metrics"]) & set(made)


def test_a_table_shows_percent_with_intervals_and_ranks_as_they_are():
    metrics = {"mean_recall@1": 0.434, "image_retrieval_median_rank": 3.5}
    ci95 = {"mean_recall@1": [0.412, 0.456]}
    rows = [
        {"model": "a", "dataset": "x", "metrics": metrics, "ci95": ci95},
        {"model": "b", "dataset": "x", "metrics": {"mean_recall@1": 0.5}},
    ]
    text = table(rows, ["mean_recall@1", "image_retrieval_median_rank"])
    assert text.splitlines() == [
        "model    mean_recall@1      image_retrieval_median_rank",
        "-------  -----------------  -----------------------------",
        "a        43.4 [41.2, 45.6]  3.5",
        "b        50.0               –",
    ]


def test_a_table_names_the_data_where_rows_differ_in_it():
    rows = [{"model": "a", "dataset": name, "task": "t", "metrics": {"acc1": 0.1}} for name in ("x", "y")]
    header = table(rows, ["acc1"], tablefmt="tsv").splitlines()[0]
    assert [cell.strip() for cell in header.split("\t")] == ["model", "dataset", "acc1"]


@pytest.mark.parametrize("content", ["[]", '{"acc1": 1}', '{"metrics": 3}', "not json"])
def test_a_file_that_holds_no_results_is_named(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"other\.json"):
        read(path)
