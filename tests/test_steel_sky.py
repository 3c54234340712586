"""The reader of a game's recorded lines: files, lengths and the prefix code of the texts, on bytes made here."""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import steel_sky

WRITTEN = {sign: code for code, sign in steel_sky.CODE.items()}
LONG = "EMPHASIS in capitals, and so long that its length counts sixteen bits - no. " * 3


def section(texts: list[str]) -> bytes:
    """Messages as the game keeps them: even numbers of bits, a long one in units of sixteen."""
    lengths, blocks, bits = [], [0], ""
    for row, text in enumerate(texts):
        one = "".join(WRITTEN[sign] for sign in text) + steel_sky.END
        unit = 16 if len(one) > 254 else 2
        one += "0" * (-len(one) % unit)
        lengths.append(len(one) // unit | (0x80 if unit == 16 else 0))
        if row % 32 == 0 and row:
            blocks.append(0)
        blocks[-1] += len(one) // 2
        bits += one
    bits += "0" * (-len(bits) % 8)
    begin = 4 + 2 * (len(blocks) - 1)
    head = [begin, begin + len(lengths), *blocks[:-1]]
    stream = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return b"".join(one.to_bytes(2, "little") for one in head) + bytes(lengths) + stream


def game(folder: Path, held: dict[int, bytes]) -> Path:
    """sky.dnr and sky.dsk of some files; every second place is given in units of 16 bytes, with flags on its size."""
    listed, content = len(held).to_bytes(4, "little"), b""
    for row, (number, data) in enumerate(held.items()):
        content += b"." * (-len(content) % 16)
        place = len(content) if row % 2 else len(content) // 16 | 1 << 23
        listed += number.to_bytes(2, "little") + place.to_bytes(3, "little")
        listed += (len(data) | row % 4 << 22).to_bytes(3, "little")
        content += data
    (folder / "sky.dnr").write_bytes(listed)
    (folder / "sky.dsk").write_bytes(content)
    return folder


def test_no_code_begins_another() -> None:
    codes = sorted([*steel_sky.CODE, steel_sky.END])
    assert len(codes) == 65
    assert not [one for one, following in pairwise(codes) if following.startswith(one)]


def test_spoken_lines_are_read_with_their_text_and_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Line {'x' * row}" for row in range(32)] + ["I don't KNOW...", LONG, "", "So - `Reich's lock', is it?"]
    held = {60600 + row: section(texts if row == 1 else ["None."]) for row in range(8)}
    held |= {50000 + 600 + row: bytes(22) + bytes([128, 0, 255, 128 + row]) for row in (3, 32, 33, 35)}
    monkeypatch.setattr(steel_sky, "unpacked", lambda packed: packed)
    found = list(steel_sky.steel_sky(game(tmp_path, held), tmp_path / "out"))
    assert [(one[0], one[2]) for one in found] == [
        ("50603", "Line xxx"), ("50632", "I don't KNOW..."), ("50633", LONG),
        ("50635", "So - “Reich's lock”, is it?"),
    ]  # fmt: skip
    samples, rate = soundfile.read(found[1][1], dtype="int16")
    assert rate == 11025
    np.testing.assert_array_equal(samples >> 8, [0, -128, 127, 32])


def test_unknown_code_is_told() -> None:
    with pytest.raises(ValueError, match="not a code"):
        steel_sky.decoded(WRITTEN["a"] + "1" * 16)
