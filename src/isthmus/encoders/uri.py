"""Names of encoders: `source:name[@revision][?option=value&…]`, as in `hf:facebook/dinov2-base?layer=11`."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from math import isqrt
from typing import Literal
from urllib.parse import unquote

from isthmus.encoders.sources import SOURCES
from isthmus.errors import UsageError, did_you_mean

DTYPES = ("bfloat16", "float16", "float32")
STATES = "states"
POOLS = ("cls", "last", "max", "mean", "patches", STATES, "tokens")
GRID = re.compile("grid([1-9][0-9]*)")  # grid16: the patches averaged to 4 × 4 tokens
FLAGS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class EncoderURI:
    """A parsed encoder name. `str(uri)` is canonical: options sorted, defaults left out.

    layer: hidden state to read (0 = embedding, k = output of block k, negative from the end), several ("4,8,12")
        or "*" for each; None = tokens after the final norm.
    pool: how tokens become features, `+` joins several; None = the encoder's own way. One vector: cls, mean, max,
        last. Many, side by side: patches (all of an image), grid4, grid9, grid16, … (so many averages of them),
        tokens (all of a text, zeros behind the last). A sequence of any length, unpooled: states.
    size: image side in pixels. max_tokens, prompt: length limit and prefix of texts. seconds: of the longest recording.
    fps: frames a second, which makes an image encoder one of films, frame by frame. frame: the pooling of each frame,
        as of a picture (mean, grid4, …); None = the image encoder's own. stem: a file of `MouthFrontEnd.save_stem` in
        the place of a ResNet's own stem.
    dtype: compute type, float32 unless given.
    """

    source: str
    name: str
    revision: str | None = None
    dtype: str | None = None
    fps: int | None = None
    frame: str | None = None
    layer: int | tuple[int, ...] | Literal["*"] | None = None
    max_tokens: int | None = None
    pool: str | None = None
    prompt: str | None = None
    seconds: int | None = None
    size: int | None = None
    stem: str | None = None
    trust_remote_code: bool | None = None

    @classmethod
    def parse(cls, text: str | EncoderURI) -> EncoderURI:
        """Read `text`. An unknown source or option, or a bad value, is a `UsageError` naming the nearest."""
        if isinstance(text, EncoderURI):
            return text
        source, colon, rest = text.partition(":")
        if not colon:
            likely = "st" if text.startswith("sentence-transformers/") else "hf"
            meant = f"{likely}:{text}" if "/" in text else "hf:facebook/dinov2-base"
            raise UsageError(f"{text!r}: an encoder is written source:name, for example {meant}.")
        if source == "callable":
            raise UsageError(f"{text}: made from a Python function: pass the encoder itself, not its name.")
        if source not in SOURCES.names():
            raise UsageError(f"{text!r}: no encoder source {source!r}." + did_you_mean(source, SOURCES.names()))
        name, _, query = rest.partition("?")
        revision = None
        if not is_path(name):
            name, _, revision = name.partition("@")
        if not name:
            raise UsageError(f"{text!r}: the name after {source!r} is empty.")
        options = dict(_option(text, item) for item in query.split("&") if item)
        if len(options) < len([item for item in query.split("&") if item]):
            raise UsageError(f"{text!r}: an option is given twice.")
        revision = unquote(revision) if revision else None
        return cls(source, unquote(name), revision, **options)  # type: ignore[arg-type]

    @property
    def several(self) -> bool:
        """Whether it names several layers and thus several encoders."""
        return self.layer == "*" or isinstance(self.layer, tuple)

    def backbone(self) -> EncoderURI:
        """The same encoder without layer and pooling: what has to be loaded once."""
        return replace(self, layer=None, pool=None)

    def __str__(self) -> str:
        revision = f"@{_quote(self.revision, '?&')}" if self.revision else ""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name in OPTIONS]
        options = "&".join(f"{key}={_write(value)}" for key, value in given if value is not None)
        return f"{self.source}:{_quote(self.name, '?')}{revision}" + (f"?{options}" if options else "")


OPTIONS = tuple(f.name for f in fields(EncoderURI))[3:]
COMMON = ("dtype", "layer", "pool", "trust_remote_code")  # options of all modalities


def is_path(name: str) -> bool:
    """Whether a name is a folder on disk (absolute, or beginning with `.` or `~`) and not a hub name."""
    return name.startswith(("/", "./", "../", "~")) or name in (".", "..")


def parse_pool(pool: str) -> tuple[str, ...]:
    """`"cls+mean"` to `("cls", "mean")`; an unknown or repeated pooling is a `UsageError`."""
    parts = tuple(pool.split("+"))
    for part in parts:
        if grid := GRID.fullmatch(part):
            if grid_side(part) ** 2 != int(grid[1]):
                raise UsageError(f"pool={pool}: {part} is not square: grid1, grid4, grid9, grid16, … are.")
        elif part not in POOLS:
            raise UsageError(f"pool={pool}: no pooling {part!r}." + did_you_mean(part, (*POOLS, "grid16")))
    if len(set(parts)) < len(parts):
        raise UsageError(f"pool={pool}: a pooling is given twice.")
    if STATES in parts and len(parts) > 1:
        raise UsageError(f"pool={pool}: states are sequences, which cannot be joined with anything.")
    return parts


def grid_side(part: str) -> int:
    """Tokens along one side of a grid: 4 for `grid16`; 0 where `part` is no grid."""
    grid = GRID.fullmatch(part)
    return isqrt(int(grid[1])) if grid else 0


def gives_tokens(pool: str | None) -> bool:
    """Whether a pooling gives several vectors per item, which a token head takes, and not one."""
    return any(part in ("patches", "tokens") or grid_side(part) for part in str(pool).split("+"))


def _option(text: str, item: str) -> tuple[str, str | int | bool | tuple[int, ...]]:
    key, _, raw = item.partition("=")
    value = unquote(raw)
    if key not in OPTIONS:
        raise UsageError(f"{text!r}: no option {key!r}." + did_you_mean(key, OPTIONS))
    if not value:
        raise UsageError(f"{text!r}: the option {key!r} has no value.")
    if key in ("frame", "pool"):
        parse_pool(value)
    if key == "dtype" and value not in DTYPES:
        raise UsageError(f"{text!r}: no dtype {value!r}." + did_you_mean(value, DTYPES))
    if key == "trust_remote_code":
        if value.lower() not in FLAGS:
            raise UsageError(f"{text!r}: trust_remote_code is 0 or 1, not {value!r}.")
        return key, FLAGS[value.lower()]
    if key == "layer" and "," in value:
        layers = tuple(_integer(text, key, one) for one in value.split(","))
        if len(set(layers)) < len(layers):
            raise UsageError(f"{text!r}: a layer is given twice.")
        return key, layers
    if key in ("fps", "size", "max_tokens", "seconds") or (key == "layer" and value != "*"):
        return key, _integer(text, key, value)
    return key, value


def _integer(text: str, key: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise UsageError(f"{text!r}: {key} is a whole number, not {value!r}.") from None
    if key != "layer" and number < 1:
        raise UsageError(f"{text!r}: {key} is at least 1, not {number}.")
    return number


def _write(value: str | int | bool | tuple[int, ...]) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else _quote(str(value), "&")


def _quote(text: str, special: str) -> str:
    """Escape only characters with a meaning in URIs, so that prompts and paths stay legible."""
    for character in "%" + special:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
