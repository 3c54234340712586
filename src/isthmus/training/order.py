"""The pairs of a step and its randomness, as pure functions of (seed, epoch, position), so that nothing is saved."""

from __future__ import annotations

import numpy as np


def epoch_order(pairs: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation int64 [pairs], from a counter-based generator (Philox) keyed by (seed, epoch).

    8 bytes per pair; equal for equal arguments and NumPy version.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(pairs)


def block_order(pairs: int, seed: int, epoch: int, block: int = 4096, window: int = 16) -> np.ndarray:
    """A permutation int64 [pairs] for stores larger than memory: it shuffles blocks, and pairs within a few blocks.

    Blocks of `block` consecutive pairs come in random order; those of each `window` of blocks are shuffled together.
    So a step reads whole blocks from at most two windows, but distant pairs still share batches.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))
    starts = random.permutation(np.arange(0, pairs, block))
    order = np.concatenate([np.arange(start, min(start + block, pairs)) for start in starts])
    for first in range(0, pairs, block * window):
        random.shuffle(order[first : first + block * window])
    return order


ORDERS = {"pairs": epoch_order, "blocks": block_order}


def batch_slices(pairs: int, batch: int, processes: int = 1) -> list[slice]:
    """Consecutive batches that cover `pairs`: the last, smaller one is kept.

    A last batch of a single pair would have no negatives, so it joins the batch before; so does one with fewer pairs
    than processes.
    """
    starts = list(range(0, pairs, batch))
    if len(starts) > 1 and pairs - starts[-1] < max(2, processes):
        starts.pop()
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], pairs], strict=True)]


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of dropout at `step`, unrelated to those of other steps and processes."""
    return int(
        np.random.SeedSequence([seed, step, rank] if rank else [seed, step]).generate_state(1, np.uint64)[0]
        >> np.uint64(1)
    )
