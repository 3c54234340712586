"""What fusion is trained with, part by part: answers in tables, grids, hard negatives, hidden words, shared means."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from isthmus.data.answers import read_written
from isthmus.data.pairs import read_pairs
from isthmus.errors import InputError, UsageError
from isthmus.fusion import side_states
from isthmus.fusion.sides import SideStates, joined
from isthmus.training.fusion.negatives import draw_negatives


def read(folder: Path, rows: list[dict], name: str = "table.jsonl") -> list[dict[str, float]]:
    """The answers of a table's questions."""
    path = folder / name
    if name.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    captions = read_pairs(path).captions
    cells = captions["answers"].to_pylist() if "answers" in captions.column_names else [None] * len(captions)
    return [read_written(cell) for cell in cells]


def test_answers_are_read_beside_questions(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "question": "what?", "answer": "red"},
        {"image": "a.png", "question": "how many?", "answer": 2},
        {"image": "b.png", "question": "what?", "answers": ["cat", "kitten"], "scores": [1, 0.3]},
        {"image": "b.png", "question": "which?", "answers": ["cat", "cat", "dog"]},
        {"image": "c.png", "question": "why?"},
    ]
    expected = [{"red": 1}, {"2": 1}, {"cat": 1, "kitten": 0.3}, {"cat": 1, "dog": 1}, {}]
    assert read(tmp_path, rows) == expected


def test_answers_of_a_csv_are_written_out(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": "what?", "answers": '["cat", "kitten"]', "scores": "[1, 0.3]"}]
    assert read(tmp_path, rows, "table.csv") == [{"cat": 1, "kitten": 0.3}]


def test_answers_of_tables_without_questions_are_left_alone(tmp_path: Path) -> None:
    assert read(tmp_path, [{"image": "a.png", "caption": "a cat", "answers": {"anything": 1}}]) == [{}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answers": ["a", "b"], "scores": [1]}, "2 answers, but 1 scores"),
        ({"answer": "a", "scores": [2]}, "from 0 to 1"),
        ({"answer": "a", "scores": "many"}, "not a list of numbers"),
        ({"answers": [["a"], {"b": 1}]}, "Write it as text"),
    ],
)
def test_bad_answers_name_the_row(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(InputError, match=rf"line 1.*{message}"):
        read(tmp_path, [{"image": "a.png", "question": "what?", **row}])


def test_patches_are_averaged_on_a_grid_behind_the_first_token() -> None:
    states = torch.randn(2, 3, 1 + 16, 5)
    found = side_states(states, torch.ones(2, 17, dtype=torch.bool), 1, 2)
    assert found.mask.shape == (2, 5)
    torch.testing.assert_close(found.values[:, :, 0], states[:, :, 0])
    torch.testing.assert_close(found.values[:, :, 1], states[:, :, 1:].unflatten(2, (4, 4))[:, :, :2, :2].mean((2, 3)))


def test_stages_of_a_cnn_get_one_grid_and_a_token_for_the_whole() -> None:
    stages = [torch.randn(2, 64, 4), torch.randn(2, 16, 6)]
    found = side_states(stages, [torch.ones(2, 64), torch.ones(2, 16)], 0)
    assert [one.shape for one in found.values] == [(2, 17, 4), (2, 17, 6)] and found.mask.shape == (2, 17)
    torch.testing.assert_close(found.values[0][:, 0], stages[0].mean(1))
    torch.testing.assert_close(found.values[1][:, 1:], stages[1])
    with pytest.raises(UsageError, match="no square"):
        side_states([torch.randn(2, 6, 4)], [torch.ones(2, 6)], 0)


def test_batches_are_joined_with_padding_and_trimmed() -> None:
    parts = [SideStates(torch.ones(1, 2, t, 3), torch.ones(1, t, dtype=torch.bool)) for t in (2, 4)]
    whole = joined(parts)
    assert whole.mask.sum(1).tolist() == [2, 4] and float(whole.values[0].sum()) == 2 * 2 * 3
    assert whole.take(torch.tensor([0])).trimmed().mask.shape == (1, 2)


def test_negatives_are_no_positives_and_mostly_alike() -> None:
    logits = torch.zeros(400, 5)
    logits[:, 0], logits[:, 3] = 9.0, 4.0  # the most alike of all belongs to it
    positive = torch.zeros(400, 5, dtype=torch.bool)
    positive[:, 0] = True
    numbers = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    picked, there = draw_negatives(logits, positive, numbers)
    assert there.all() and 0 not in picked
    assert 0.9 < (picked == 3).float().mean() < 1  # e⁴ of e⁴ + 3
    even, _ = draw_negatives(None, positive, numbers)
    assert set(even.tolist()) == {1, 2, 3, 4}
    some, _ = draw_negatives(logits[100:200], positive[100:200], numbers[100:200])
    assert torch.equal(some, picked[100:200])  # whoever draws them
    nothing, there = draw_negatives(logits[:1], torch.ones(1, 5, dtype=torch.bool), numbers[:1])
    assert not there and int(nothing) == 0


def test_the_last_negative_is_drawn_by_the_largest_number() -> None:
    positive = torch.tensor([[False, False, True]])
    picked, _ = draw_negatives(None, positive, torch.tensor([1 - 1e-16], dtype=torch.float64))
    assert int(picked) == 1
