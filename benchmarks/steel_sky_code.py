"""The prefix code of Beneath a Steel Sky's texts, found in the bits alone by what English letters follow each other.

    apt-get download beneath-a-steel-sky fillets-ng-data     # the bits; English lines of another game, GPL-2
    python benchmarks/steel_sky_code.py DEBS OUT [--seed 3]

Expectation maximisation: a message is a chain of characters (bigrams of Fish Fillets' English lines, each also with two
words in five in capitals, as the game marks what is stressed); each character emits one of all words of 2 to 12 bits,
with a prior on how many bits by how frequent it is. Then what is sure is fixed, and what is left competes for the
leaves of the tree that are free. The end needs no learning: every message ends in 1 and at least five zeros.

Prints how many of the codes in steel_sky.py it found, what share of all that is said these are, and which are missing:
with seed 3, 34 of 64 codes and 78 %, and none that differs. The others came from transcripts of 53 lines by Whisper,
and by hand, in lines that are otherwise plain, as in "Please insert Disk _", which counts up from 0. No other source of
the table was looked at. It takes half a minute of one core.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import speech_text
import steel_sky

SIGNS = " ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.,!?'-`"
LONGEST = 12
CODES = 2 << LONGEST  # a code is numbered by its bits behind a 1
LENGTHS = torch.tensor([max(1, number).bit_length() - 1 for number in range(CODES)])
LEARNED, ROUNDS = 40, (8, 8)  # steps with all free, then of each round with more that is fixed


def bigrams(texts: list[str], seed: int) -> tuple[Tensor, Tensor]:
    """How often a sign follows another, rows and columns 0 to C − 1, row C the start, column C the end; frequencies."""
    drawn, counts = random.Random(seed), torch.zeros(len(SIGNS) + 1, len(SIGNS) + 1)
    for text in texts:
        plain = text.replace("’", "'").replace("‘", "`")
        stressed = " ".join(word.upper() if drawn.random() < 0.4 else word for word in plain.split())
        for one in (plain, stressed):
            row = [len(SIGNS), *(SIGNS.index(sign) for sign in one if sign in SIGNS), len(SIGNS)]
            for before, after in pairwise(row):
                counts[before, after] += 1
    frequency = counts[:, :-1].sum(0) + 1
    frequency /= frequency.sum()
    counts[:, :-1] += 0.1 * len(SIGNS) * frequency
    counts[:-1, -1] += 0.01
    return counts / counts.sum(1, keepdim=True), frequency


def unread(game: Path) -> list[str]:
    """Different messages of middle length, without their ends."""
    held = steel_sky.files(game)
    found = [bits for section in range(6) for bits in steel_sky.messages(held[60600 + section])]
    if any(len(bits) - len(bits.rstrip("0")) < 5 for bits in found):
        raise SystemExit("A message that does not end in 1 and five zeros: this is another edition of the game.")
    bodies = {bits.rstrip("0")[:-1] for bits in found}
    return sorted(one for one in bodies if 90 <= len(one) <= 260)


def numbered(messages: list[str]) -> Tensor:
    """int64 [J, N, L]: the numbers of the codes of 1 to L bits that begin at bit j of a message; 0 beyond its end."""
    ends = torch.tensor([len(one) for one in messages])
    rows = [torch.tensor([int(bit) for bit in one]) for one in messages]
    bits = torch.nn.functional.pad(torch.nn.utils.rnn.pad_sequence(rows), (0, 0, 0, LONGEST))
    number, table = torch.ones(int(ends.max()), len(messages), dtype=torch.int64), []
    for length in range(LONGEST):
        number = 2 * number + bits[length : length + len(number)]
        table.append(number * (torch.arange(len(number))[:, None] + length < ends))
    return torch.stack(table, 2)


def expected(codes: Tensor, ends: Tensor, follows: Tensor, emits: Tensor) -> Tensor:
    """[CODES, C]: how often each sign is expected to be written as each code. emits: [CODES, C], times 2 ^ bits."""
    steps, count, signs = len(codes), len(ends), emits.shape[1]
    ending, inner = follows[:-1, -1], follows[:-1, :-1]
    before = torch.zeros(steps + LONGEST + 1, count, signs)  # a sign ends here
    behind, begun = torch.zeros_like(before), torch.zeros_like(before)
    for at in range(steps):
        begun[at] = before[at] @ inner if at else follows[-1, :-1]
        before[at + 1 : at + 1 + LONGEST] += (begun[at][:, None] * emits[codes[at]]).transpose(0, 1)
    rows = torch.arange(count)
    total = (before[ends, rows] @ ending).clamp_min(1e-30)
    behind[ends, rows] = ending / total[:, None]
    counts = torch.zeros_like(emits)
    for at in reversed(range(steps)):
        ahead = emits[codes[at]] * behind[at + 1 : at + 1 + LONGEST].transpose(0, 1)
        counts.index_add_(0, codes[at].reshape(-1), (begun[at][:, None] * ahead).reshape(-1, signs))
        behind[at] += ahead.sum(1) @ inner.T
    return counts


def prior(frequency: Tensor, width: float, free: Tensor) -> Tensor:
    """[CODES, C]: of the free codes, by how far their length is from the information of a sign."""
    misfit = (LENGTHS[:, None] + frequency.log2()) / width
    chance = torch.exp(-0.5 * misfit.square()) * 0.5 ** LENGTHS[:, None] * free[:, None]
    return chance / chance.sum(0)


def related(code: int) -> list[int]:
    """A code, what it begins with and what begins with it."""
    found = [code >> bits for bits in range(code.bit_length() - 1)]
    low = high = code
    while (low := 2 * low) < CODES:
        high = 2 * high + 1
        found += range(low, high + 1)
    return found


def sure(counts: Tensor) -> dict[int, int]:
    """Sign → code, of signs with more than half of their uses in one code that leaves others a fifth of its branch."""
    used, found = counts.sum(1), {}
    for sign, code in enumerate(counts.argmax(0).tolist()):
        own = counts[code, sign]
        if float(own) > max(4.0, 0.5 * float(counts[:, sign].sum())) and own > 0.8 * used[related(code)].sum():
            found[sign] = code
    return found


def learned(messages: list[str], texts: list[str], seed: int) -> dict[str, str]:
    """Sign → code."""
    follows, frequency = bigrams(texts, seed)
    random.Random(seed).shuffle(messages)
    some, free = messages[:400], torch.ones(CODES)
    free[: 1 << 2] = 0
    start = prior(frequency, 0.5, free)
    start *= torch.exp(0.3 * torch.randn(start.shape, generator=torch.Generator().manual_seed(seed)))
    start /= start.sum(0)
    codes, ends = numbered(some), torch.tensor([len(one) for one in some])
    emits, scale, fixed = start, 2.0 ** LENGTHS[:, None], dict[int, int]()
    for steps in (LEARNED, *ROUNDS):
        for step in range(steps):
            part = slice(100 if not fixed and step < 8 else len(some))
            counts = expected(codes[:, part], ends[part], follows, emits * scale)
            emits = (counts + 0.5 * start) / (counts.sum(0) + 0.5)
        fixed = sure(counts)
        print(f"{len(fixed)} of {len(SIGNS)} signs are sure", flush=True)
        free[related(int("1" + steel_sky.END, 2))] = 0
        for code in fixed.values():
            free[related(code)] = 0
        start = prior(frequency, 1.5, free)
        for sign, code in fixed.items():
            start[:, sign] = 0
            start[code, sign] = 1
        emits = start
    return {SIGNS[sign]: f"{code:b}"[1:] for sign, code in fixed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("debs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    texts = [text for _, _, text, _ in speech_text.lines_of("fillets-cs", given.debs, given.out / "text")]
    game = speech_text.extracted("steel-sky", given.debs, given.out / "game") / steel_sky.GAME
    found = learned(unread(game), texts, given.seed)
    held = steel_sky.files(game)
    spoken = Counter("".join(steel_sky.spoken(held).values()))
    right = [sign for code, sign in steel_sky.CODE.items() if found.get(sign) == code]
    share = sum(spoken[sign] for sign in right) / spoken.total()
    print(f"{len(right)} of {len(steel_sky.CODE)} codes, {share:.2%} of signs said")
    for code, sign in steel_sky.CODE.items():
        if sign not in right:
            print(f"by hand: {sign!r} {code}, said {spoken[sign]} times; found {found.get(sign)}")


if __name__ == "__main__":
    main()
