"""Captions of Open Clip Art drawings, made of what the collection itself says about them.

A caption is ``name, description, keyword, keyword …``. The name is the drawing's title or, where the title
belongs to a whole series (found by counting), the name of its file. Nothing is added.
"""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

# A title carried by files of this many different names is the name of a series, not of a drawing.
SERIES_STEMS = 3
# A description carried by more drawings than this is boilerplate.
DESCRIPTION_REPEATS = 4
MAX_DESCRIPTION_WORDS = 12


def _listed(text: str) -> frozenset[str]:
    return frozenset(item.strip() for item in text.split(","))


# Keywords that say where the collection files a drawing, or nothing. Read off the frequency list by eye.
STOP_KEYWORDS = _listed("""
    hash, externalsource, unsorted, duplicates, openclipart, clipart, clip art, svg, inkscape, sodipodi,
    email adress, signs and symbols, special, recreation, theme, lemon theme, lemon theme icon, computer,
    shapes, action, actions, filesystem, filesystems, mimetypes, mimetype, mime types, mimeicon, stock, menu,
    misc, miscellany, various, other, activities, decorations, logos, symbols, flags, buttons, applications,
    devices, arrows, vehicles, games, desserts, tools, transport, magick, entertainment, equipment
""")
# Words that say so little that they make no caption on their own.
VAGUE = _listed("""
    , icon, symbol, sign, shape, geometry, application, device, map symbol, card, work, webpage, office,
    pattern, gradients, education, geography, simple, white, generic
""")
# Words of file names that belong to a theme, a file format or a variant number.
STOP_FILE_WORDS = _listed(
    ", aiga, bb, gnome, gtk, fs, kde, stock, mime, x, svg, jpg, png, bwh, 1m, hash, plastik, v, fc, ganson"
)
# The collection's run-together keywords, in words a text encoder knows.
SPELLED_OUT = {
    "mapsym": "map symbol",
    "weathersym": "weather symbol",
    "networksym": "network symbol",
    "musicsym": "music symbol",
    "musicstuff": "music",
    "appicon": "application icon",
    "icons": "icon",
    "roadsign": "road sign",
    "signalflag": "signal flag",
    "icecream": "ice cream",
    "unitedstates": "united states",
    "northamerica": "north america",
    "latinamerica": "latin america",
    "airtravel": "air travel",
    "roadtravel": "road travel",
    "bodypart": "body part",
    "arrowshape": "arrow shape",
    "religholiday": "religious holiday",
    "usholiday": "us holiday",
}
EMAIL = re.compile(r"\S*@\S*")
URL = re.compile(r"(https?|www)\S*", re.IGNORECASE)
HASH = re.compile(r"(hash\()?0x[0-9a-f]+\)?", re.IGNORECASE)
CREDIT = re.compile(
    r"^clip ?art by .*? - |\s+-\s+RPG map elements$|^by\s+|\b(svg|(open ?)?clip ?art( library| project)?)\b",
    re.IGNORECASE,
)
# Titles that call themselves a set are a series however few files carry them.
SERIES_WORDS = re.compile(
    r"^part of|icon ?set|theme|\br\d\d (general|sub|sib)|\b(set|collection|gradient)s? by\b", re.IGNORECASE
)
# Remarks about the making of a file, not about what it shows.
REMARK = re.compile(
    r"svg|inkscape|sodipodi|potrace|illustrator|vector|trace|draw|creat|made|convert|based on|clip ?art|"
    r"collection|version|enjoy|license|copyright|public domain|contact|http|www|@|hash\(|theme|icon|"
    r"illustration|example|\bmy\b|\bI\b|\byou|sketch|test|submi|render",
    re.IGNORECASE,
)
STAR = re.compile(r"^star (\d+)\s?pt")
CARD = re.compile(r"^(?:simple|bordered|white|ornamental) (?:([cdhs]) (\w+)|jk \w)$")
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
RANKS = {"a": "ace", "1": "ace", "j": "jack", "q": "queen", "k": "king"}
RANKS |= {str(number): word for number, word in enumerate(NUMBERS, start=2)}


@dataclass(frozen=True)
class Metadata:
    """What an SVG's RDF block says: the strings as they stand there."""

    title: str
    description: str
    keywords: tuple[str, ...]
    creator: str


def stem(path: str) -> str:
    """The file name without trailing numbers: ``animals/cat_02`` and ``animals/cat_03`` share ``cat``."""
    return re.sub(r"[\d_]+$", "", PurePosixPath(path).name).lower()


@dataclass(frozen=True)
class Shared:
    """Titles and descriptions that belong to a series, found by counting over the whole collection."""

    titles: frozenset[str]
    descriptions: frozenset[str]


def shared_texts(records: Mapping[str, Metadata]) -> Shared:
    """Titles over ``SERIES_STEMS`` or more differently named files; descriptions over too many drawings."""
    stems: dict[str, set[str]] = defaultdict(set)
    for path, metadata in records.items():
        stems[metadata.title.strip()].add(stem(path))
    descriptions = Counter(metadata.description.strip() for metadata in records.values())
    return Shared(
        frozenset(t for t, names in stems.items() if len(names) >= SERIES_STEMS or SERIES_WORDS.search(t)),
        frozenset(text for text, count in descriptions.items() if count > DESCRIPTION_REPEATS),
    )


def caption(path: str, metadata: Metadata, shared: Shared) -> str:
    """The caption of one drawing, empty where nothing honest remains."""
    name = drawing_name(path, metadata, shared)
    keywords = clean_keywords(metadata)
    if all(part.lower() in VAGUE for part in [name, *keywords]):
        return ""
    description = "" if metadata.description.strip() in shared.descriptions else clean_description(metadata)
    parts = [name, description, *keywords]
    return ", ".join(_without_repeats(part for part in parts if part))


def drawing_name(path: str, metadata: Metadata, shared: Shared) -> str:
    """The title if it is the drawing's own, else the name of its file; empty if neither says anything."""
    title = metadata.title.strip()
    file_name = _file_words(path)
    own = title not in shared.titles or set(words(title)) <= set(words(file_name))
    name = clean_title(title, metadata.creator) if own else ""
    if _is_stopped(name.lower()):
        name = ""
    return name or spell_out_series(clean_file_name(file_name, metadata.creator))


def clean_title(title: str, creator: str) -> str:
    """The title without credits, author, e-mail and file-name habits (underscores, numbers at the end)."""
    title = html.unescape(title)
    for pattern in (EMAIL, URL, HASH):
        title = pattern.sub(" ", title)
    title = CREDIT.sub(" ", title.replace("_", " "))
    if " " not in title.strip():
        title = _split_camel(title.replace("-", " "))
    title = re.sub(r"\(\s*\)", "", re.sub(r"\s+", " ", title)).strip(" -.,:;/")
    title = _drop_author(title.split(), creator)
    title = re.sub(r"(?<=[a-zA-Z]{3})([ #-]*\d{1,3})+[a-z]?$|^\d{2} ", "", title)
    return title.strip(" -.,:;/") if re.search(r"[^\W\d_]", title) else ""


def clean_file_name(file_name: str, creator: str) -> str:
    """The words of a file name without theme prefixes, author (often cut short) and numbers at the end."""
    if STAR.match(file_name) or CARD.match(file_name):
        return file_name
    kept = [word for word in file_name.split() if not _is_stopped(word)]
    name = re.sub(r"\b\d+(?=[a-z]{4})|(?<=[a-z]{2})\d+\b", "", _drop_author(kept, creator))
    return name if re.search(r"[^\W\d_]{2}", name) else ""


def spell_out_series(name: str) -> str:
    """Two series name their drawings by code: stars (``star 22pt03step``) and cards (``simple c k``)."""
    if star := STAR.match(name):
        return f"star with {int(star[1])} points"
    if card := CARD.match(name):
        return f"{RANKS[card[2]]} of {SUITS[card[1]]}" if card[1] else "joker"
    return name


def clean_keywords(metadata: Metadata) -> list[str]:
    """Keywords in lower case and in their order, without repeats, e-mails, authors and filing words."""
    author = set(words(metadata.creator))
    kept: list[str] = []
    for raw in metadata.keywords:
        keyword = URL.sub("", EMAIL.sub("", HASH.sub("", raw.lower())))
        keyword = re.sub(r"[\s_-]+", " ", keyword).strip(" .,:;()")
        keyword = SPELLED_OUT.get(keyword, keyword)
        is_author = bool(author) and len(words(keyword)) > 0 and set(words(keyword)) <= author
        if len(keyword) > 1 and not keyword[0].isdigit() and keyword not in STOP_KEYWORDS and not is_author:
            kept.append(keyword)
    return kept


def clean_description(metadata: Metadata) -> str:
    """The description if it is short and about what is shown, else empty."""
    text = re.sub(r"\s+", " ", html.unescape(metadata.description)).strip(" .")
    found = words(text)
    is_author = set(found) <= set(words(metadata.creator))
    if not 1 <= len(found) <= MAX_DESCRIPTION_WORDS or REMARK.search(text) or is_author:
        return ""
    return re.sub(r"^(This|It) is (just )?(an?|the) |^It'?s an? ", "", text)


def words(text: str) -> list[str]:
    """Lower-case runs of letters and digits."""
    return re.findall(r"[^\W_]+", text.lower())


def _is_stopped(word: str) -> bool:
    return not {word, word.strip("0123456789")}.isdisjoint(STOP_FILE_WORDS)


def _file_words(path: str) -> str:
    """``shapes/arrowRed_02`` -> ``arrow red 02``, in lower case."""
    return " ".join(_split_camel(re.sub(r"[_\-+.]+", " ", PurePosixPath(path).name)).lower().split())


def _split_camel(text: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)


def _drop_author(tokens: list[str], creator: str) -> str:
    """Tokens without the author's name at the end, which file names cut off anywhere: ``carlo_ros_01``."""
    author = words(creator)
    while tokens:
        last, before = ("".join(words(token)) for token in ("", *tokens)[:-3:-1])
        named = len(last) >= 3 and any(word.startswith(last) for word in author)
        remnant = (last.isdigit() or len(last) < 3) and before in author
        if not (named or remnant):
            break
        tokens = tokens[:-1]
    return " ".join(tokens)


def _without_repeats(parts: Iterable[str]) -> list[str]:
    """Parts that bring a word not said before (a plural counts as said)."""
    said = {""}
    kept = []
    for part in parts:
        stems = {word.rstrip("0123456789").removesuffix("s") for word in words(part)} or set(words(part))
        if not stems <= said:
            kept.append(part)
            said |= stems
    return kept
