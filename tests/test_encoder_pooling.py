"""Pooling against loops over single items."""

from __future__ import annotations

import pytest
import torch

from isthmus.encoders.pooling import pool_tokens
from isthmus.errors import InputError

TOKENS = torch.arange(2 * 4 * 3, dtype=torch.float32).reshape(2, 4, 3)
RIGHT = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
LEFT = RIGHT.flip(1)


def naive(tokens: torch.Tensor, mask: torch.Tensor, pool: str) -> torch.Tensor:
    real = [row[keep] for row, keep in zip(tokens, mask, strict=True)]
    one = {
        "cls": lambda r: r[0],
        "last": lambda r: r[-1],
        "mean": lambda r: r.mean(0),
        "max": lambda r: r.amax(0),
    }
    return torch.stack([torch.cat([one[part](row) for part in pool.split("+")]) for row in real])


def test_every_pooling_ignores_padding_on_either_side() -> None:
    tokens = TOKENS.sin() - 2  # negative, so that a padded zero would win a maximum
    for mask in (RIGHT, LEFT):
        for pool in ("cls", "last", "mean", "max", "cls+mean", "max+last+cls"):
            torch.testing.assert_close(pool_tokens(tokens, pool, mask), naive(tokens, mask, pool))


def test_prefix_tokens_are_left_out_of_mean_and_max_only() -> None:
    assert pool_tokens(TOKENS, "cls", prefix=2)[0].tolist() == [0, 1, 2]
    assert pool_tokens(TOKENS, "mean", prefix=2)[0].tolist() == [7.5, 8.5, 9.5]
    assert pool_tokens(-TOKENS, "max", prefix=2)[0].tolist() == [-6, -7, -8]


def test_a_row_without_tokens_pools_to_zeros() -> None:
    pooled = pool_tokens(TOKENS, "cls+last+mean+max", torch.zeros(2, 4, dtype=torch.bool))
    assert pooled.tolist() == torch.zeros(2, 12).tolist()


def test_half_precision_is_pooled_in_float32() -> None:
    tokens = torch.full((1, 4096, 1), 40.0, dtype=torch.float16)  # the sum overflows fp16
    pooled = pool_tokens(tokens, "mean")
    assert pooled.dtype == torch.float32
    assert pooled.item() == 40.0


def test_patches_of_images_that_differ_in_their_number_are_not_taken_with_their_padding() -> None:
    assert pool_tokens(TOKENS, "patches", torch.ones_like(RIGHT)).shape == (2, 12)
    for pool in ("patches", "cls+grid4"):
        with pytest.raises(InputError, match="differ in their number of patches: use pool=mean"):
            pool_tokens(TOKENS, pool, RIGHT)
