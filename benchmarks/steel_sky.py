"""Beneath a Steel Sky: 3,491 acted English lines, 115.9 minutes, and their text, from the files of Debian's package.

    apt-get download beneath-a-steel-sky     # free to distribute and modify, all content © Revolution Software
    apt-get install ancient                  # Debian, BSD-2-clause: unpacks the sound

Used by speech_text.py and speech_study.py as `steel-sky`; nothing of the game is in this repository. The layout, as it
was read off the files (all numbers little-endian):

sky.dnr: how many files; for each its number (2 bytes), its place in sky.dsk (3; with the top bit in units of 16 bytes)
and its size (3, of which the top two bits are flags).
60600 + s, the text of section s: where the lengths begin, where the bits begin (2 bytes each); the length of every 32
messages (2); that of each message (1). Lengths count two bits, or with the top bit set sixteen. The rest is one stream.
50000 + FIRST[s] + n, message n of section s as it is spoken: 22 bytes, then 8-bit samples at 11,025 Hz packed as RNC-1.

The messages are in a prefix code whose table is part of the game's program, which was not looked at. It was found in
the data: the frequent signs by aligning the bits with transcripts of 53 lines by Whisper, the rare ones by hand, in
lines where nothing else was open. steel_sky_code.py finds half of the codes, three quarters of what is said, with no
transcript at all, and no other code for any sign.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

GAME = "share/scummvm/beneath-a-steel-sky"  # where the package has it
FIRST = (0, 600, 1100, 2430, 3380, 4530, 5080, 5230)  # where length of text and of sound go together: r = 0.75 to 0.90
RATE = 11025
HEADER = 22
# The code of each character, a space as "_". What a spoken line does not need is left out.
TABLE = """
_ 000 e 0010 t 01010 o 01000 . 01100 a 0011 h 1100001 n 01011 E 100001 I 101001 s 01001 i 01101 r 0111 T 10111 A 10011
u 10001 O 1100000 l 101000 N 101100 R 101011 S 101101 y 1101101 d 101010 ' 11101000 L 1101000 m 10010 C 1101001
D 110010 H 1110001 ! 1101100 w 11110011 c 110001 U 1101011 g 110011 f 11101001 W 11110101 ? 1110010 P 11100000
M 110111 Y 111110001 b 1110011 G 1110110 , 1110101 B 1110111 p 1101010 v 11100001 k 111100001 F 11110001 K 111101000
V 111100000 - 111101001 J 11110110 X 11111101101 j 111110010 ` 111111100001 x 11111101100 Q 1111101000 Z 1111101100
q 11110010 z 111110000 0 111111100100 4 111111110011 3 111111110000 2 11111110001
"""
CODE = {code: sign.replace("_", " ") for sign, code in re.findall(r"(\S) ([01]{3,})", TABLE)}
END = "100000"


def files(game: Path) -> dict[int, bytes]:
    """The files in sky.dsk by their numbers."""
    listed, content = (game / "sky.dnr").read_bytes(), (game / "sky.dsk").read_bytes()
    found = {}
    for at in range(4, 4 + 8 * int.from_bytes(listed[:4], "little"), 8):
        number, place, size = (int.from_bytes(listed[at + a : at + b], "little") for a, b in ((0, 2), (2, 5), (5, 8)))
        if place >> 23:
            place = (place & 0x7FFFFF) * 16
        found[number] = content[place : place + (size & 0x3FFFFF)]
    return found


def messages(section: bytes) -> list[str]:
    """The messages of a section as ones and zeros, with what fills them up behind their end."""
    begin, bits_begin = (int.from_bytes(section[at : at + 2], "little") for at in (0, 2))
    bits = "".join(f"{one:08b}" for one in section[bits_begin:])
    blocks = [0, *(int.from_bytes(section[at : at + 2], "little") for at in range(4, begin, 2))]
    found = []
    for row, length in enumerate(section[begin:bits_begin]):
        if row % 32 == 0:
            at = 2 * sum(blocks[: row // 32 + 1])
        size = 16 * (length & 0x7F) if length & 0x80 else 2 * length
        found.append(bits[at : at + size])
        at += size
    return found


def decoded(bits: str) -> str:
    """The text of a message. Raises `ValueError` for a code that is not in the table."""
    text, code = "", ""
    for bit in bits:
        code += bit
        if code == END:
            return text
        if code in CODE:
            text, code = text + CODE[code], ""
    raise ValueError(f"{code}: not a code of this table, after {text!r}.")


def caption(text: str) -> str:
    """With quotation marks for `…', so that no apostrophe is left at the end of a word."""
    return re.sub(r"`(.*?)'(?=\W|$)", r"“\1”", text)


def unpacked(packed: bytes) -> bytes:
    """The content of an RNC-1 block, by `ancient`."""
    tool = shutil.which("ancient")
    if tool is None:
        raise SystemExit("steel-sky: the sound is unpacked by `ancient`. Install Debian's package of that name.")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "packed"), Path(folder, "unpacked")
        source.write_bytes(packed)
        subprocess.run([tool, "decompress", source, target], check=True, capture_output=True)
        return target.read_bytes()


def spoken(held: dict[int, bytes]) -> dict[int, str]:
    """The text of every line that is spoken, by the number of its sound."""
    found = {}
    for section, first in enumerate(FIRST):
        for number, bits in enumerate(messages(held[60600 + section]), 50000 + first):
            if number in held:
                found[number] = decoded(bits)
    return found


def steel_sky(game: Path, out: Path) -> Iterator[tuple[str, Path, str, str]]:
    """(number, file, text, "") of every spoken line; who speaks is not in the data. Writes OUT/NUMBER.wav once."""
    out.mkdir(parents=True, exist_ok=True)
    held = files(game)
    for number, text in spoken(held).items():
        sound = out / f"{number}.wav"
        if not sound.exists():
            samples = np.frombuffer(unpacked(held[number][HEADER:]), np.uint8)
            soundfile.write(sound, (samples.astype(np.int16) - 128) << 8, RATE)
        yield str(number), sound, caption(text), ""
