"""Scenes composed from the cut-outs of Open Clip Art: pictures whose every pixel, object and relation is known.

    cutouts = read_cutouts(split="test")
    scene = random_scene(cutouts, seed=0)                        # 1 to 4 different things, somewhere
    cat, tree = pick(cutouts, ["cat", "tree"], rng)
    scene = compose(beside(cat, tree, "left of", rng), names(cutouts), seed=0)

Everything is a pure function of the cut-outs and the seed (or the state of `rng`).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from isthmus.errors import InputError, UsageError
from isthmus_demo import PAIRS

SIDE = 448  # pixels of a scene
BACKGROUNDS = ("plain", "gradient", "texture")
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
BIG, SMALL = 0.95, 0.4  # of an object's cell
FILLED = (0.15, 0.95)  # range of the share of its box that a clear object covers: no hairlines, no opaque cards
WHOLE = 0.9  # share of its pixels that are connected
NOT_OBJECTS = (
    "computer icon",
    "flag",
    "LED light",
    "map",
    "map symbol",
    "pattern",
    "playing card",
    "road sign",
    "star",
)
# Words that mean that a drawing shows something else than its noun: a juice box, a garlic toast, a man in a chair.
OTHERWISE = (
    "arrow|baby|balloon|border|box|burger|burner|button|egg|eraser|folder|frame|fruits|globe|golf|honey|icon|juice|logo"
    "|man|mute|nodding|paint|paper|paperclip|pie|pointer|pole|pot|rpswb|sign|slate|slice|symbols?|theory|toast|unit"
    "|wedge|wreath"
)

# Things by the words of titles and file names that mean them. A drawing whose words name two things has no name.
NOUNS = {
    "airplane": "airplane|aeroplane|aircraft|plane|airliner",
    "apple": "apple|mela",
    "ball": "ball|beachball|soccerball|basketball",
    "banana": "banana|bananas",
    "bear": "bear|orso",
    "bee": "bee|bumblebee",
    "bicycle": "bicycle|bike",
    "bird": "bird|eagle|sparrow|parrot|owl|dove|penguin|puffin|flamingo|uccello|pigeon|swan|acquila|aquila",
    "boat": "boat|sailboat|ship|yacht",
    "book": "book|books",
    "bottle": "bottle",
    "bus": "bus",
    "butterfly": "butterfly|farfalla",
    "cake": "cake|birthdaycake",
    "camera": "camera",
    "car": "car|taxi|automobile|mustang|shelby",
    "carrot": "carrot",
    "cat": "cat|kitten|gatto",
    "chair": "chair|armchair",
    "cherries": "cherry|cherries",
    "chicken": "chicken|hen|rooster",
    "clock": "clock|watch|alarmclock",
    "corn": "corn",
    "cow": "cow|bull",
    "crab": "crab|lobster|crawfish|crayfish",
    "croissant": "croissant",
    "cup": "cup|mug|teacup",
    "dinosaur": "dinosaur|brontosaurus|triceratops|stegosaurus|dino",
    "dog": "dog|puppy|cane",
    "duck": "duck|ducky",
    "elephant": "elephant|elefante",
    "fish": "fish|pesce|goldfish",
    "flower": "flower|tulip|daisy|rose|sunflower|daffodil",
    "frog": "frog|rana",
    "garlic": "garlic",
    "gear": "gear|dentata",
    "ghost": "ghost",
    "grapes": "grapes|grape",
    "guitar": "guitar",
    "gun": "gun|pistol|revolver",
    "hammer": "hammer",
    "hat": "hat|cap|sombrero|fedora|fez",
    "heart": "heart",
    "horse": "horse|pony",
    "house": "house|cottage",
    "ice cream": "icecream|ice cream",
    "key": "key",
    "ladybird": "ladybird|ladybug|coccinella",
    "lamp": "lamp|lantern",
    "lemon": "lemon",
    "light bulb": "lightbulb|light bulb|bulb",
    "lion": "lion",
    "magnifying glass": "magnifying",
    "monkey": "monkey|gorilla|scimmia",
    "mouse": "mouse",
    "muffin": "muffin",
    "mushroom": "mushroom|mushrooms",
    "orange": "orange",
    "padlock": "padlock|lock",
    "pear": "pear",
    "pencil": "pencil|pen",
    "penguin": "tux",
    "pepper": "pepper|chili|chilli",
    "piano": "piano",
    "pig": "pig",
    "pineapple": "pineapple",
    "pumpkin": "pumpkin|jackolantern",
    "rabbit": "rabbit|bunny",
    "rocket": "rocket",
    "saw": "saw",
    "scissors": "scissors",
    "shark": "shark",
    "sheep": "sheep|lamb|pecora",
    "shoe": "shoe|shoes|boot|boots|sneaker|sneakers",
    "snail": "snail",
    "snake": "snake",
    "spider": "spider",
    "strawberry": "strawberry",
    "telephone": "telephone|phone|cellphone|handphone",
    "tiger": "tiger|tigre",
    "tomato": "tomato",
    "tractor": "tractor",
    "train": "train|locomotive",
    "tree": "tree|evergreen",
    "truck": "truck",
    "trumpet": "trumpet",
    "turtle": "turtle|tortoise|tartaruga",
    "umbrella": "umbrella",
    "violin": "violin",
}


@dataclass(frozen=True)
class Cutout:
    """One object without its surroundings. image: RGBA, cropped to what is visible."""

    id: str
    name: str
    label: str | None
    image: Image.Image


@dataclass(frozen=True)
class Place:
    """The place of a cut-out. x, y: its centre; size: its longer side; all as shares of the scene's side."""

    cutout: Cutout
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Object:
    """An object in a scene. box: left, top, right, bottom in pixels, of the whole object; visible: the share of its
    pixels that neither later objects nor the border hide."""

    name: str
    box: tuple[int, int, int, int]
    visible: float
    cutout: str


@dataclass(frozen=True)
class Scene:
    """image: RGB. mask: uint8 [H, W], 0 the background, i + 1 the i-th of `classes`. objects: back to front."""

    image: Image.Image
    mask: np.ndarray
    objects: list[Object]
    classes: list[str]


def read_cutouts(
    data: str | Path | None = None, *, split: str | None = "test", by: str = "noun", least: int = 1
) -> list[Cutout]:
    """The demo's drawings that show one clear object with a clean name, in the order of the table.

    Args:
        data: the table of pairs; default the packaged one.
        split: "train", "val" or "test"; None for all.
        by: the kind of name: "noun" (the only word of `NOUNS` in title or file name) or "label".
        least: names with fewer cut-outs are left out.

    Raises `InputError` if nothing is left.
    """
    columns = ["id", "title", "label", "split", "image"]
    table = pq.read_table(PAIRS if data is None else data, columns=columns).to_pylist()
    name_of = {"noun": noun_of, "label": lambda row: row["label"]}[by]
    named = [(name_of(row), row) for row in table if split is None or row["split"] == split]
    cutouts = [cutout for name, row in named if name and (cutout := _cut_out(name, row))]
    counts = {name: sum(cutout.name == name for cutout in cutouts) for name in names(cutouts)}
    cutouts = [cutout for cutout in cutouts if counts[cutout.name] >= least]
    if not cutouts:
        raise InputError("No drawing shows one clear object with a name: scenes cannot be composed.")
    return cutouts


def names(cutouts: Sequence[Cutout]) -> list[str]:
    """The names that occur, sorted: the classes of scenes composed from these cut-outs."""
    return sorted({cutout.name for cutout in cutouts})


def pick(cutouts: Sequence[Cutout], wanted: Sequence[str], rng: np.random.Generator) -> list[Cutout]:
    """A random cut-out for each name. Raises `UsageError` for a name without cut-outs."""
    chosen = []
    for name in wanted:
        found = [cutout for cutout in cutouts if cutout.name == name]
        if not found:
            raise UsageError(f"no cut-out shows {name!r}: there are {', '.join(names(cutouts))}.")
        chosen.append(found[rng.integers(len(found))])
    return chosen


def scatter(
    cutouts: Sequence[Cutout],
    rng: np.random.Generator,
    *,
    span: tuple[float, float] = (0.6, 0.95),
    sizes: Sequence[float] | None = None,
) -> list[Place]:
    """The cut-outs in different cells of the smallest square grid with room for all, so that none is hidden.

    span: the sizes to draw from, as shares of a cell; above 1 they overlap. sizes: one for each (`BIG`, `SMALL`).
    The same cut-out may be given several times: a number of things.
    """
    side = math.ceil(math.sqrt(len(cutouts)))
    places = []
    for i, cell in enumerate(rng.permutation(side * side)[: len(cutouts)]):
        size = rng.uniform(*span) if sizes is None else sizes[i]
        room = max(0.0, 1 - size) / 2
        x, y = (np.array([cell % side, cell // side]) + 0.5 + rng.uniform(-room, room, 2)) / side
        places.append(Place(cutouts[i], float(x), float(y), size / side))
    return places


def beside(
    first: Cutout, second: Cutout, relation: str, rng: np.random.Generator, *, size: float = 0.42
) -> list[Place]:
    """`first` left of, right of, above or below `second`, a little off the axis, without touching."""
    if relation not in RELATIONS:
        raise UsageError(f"no relation {relation!r}: there are {', '.join(RELATIONS)}.")
    direction = np.array(RELATIONS[relation])
    middle = 0.5 + rng.uniform(-0.02, 0.02, 2) + rng.uniform(-0.2, 0.2) * direction[::-1]
    (x1, y1), (x2, y2) = middle + 0.25 * direction, middle - 0.25 * direction
    return [Place(first, x1, y1, size), Place(second, x2, y2, size)]


def compose(
    places: Sequence[Place],
    classes: Sequence[str],
    *,
    seed: int = 0,
    background: str | None = None,
    colour: float = 1.0,
    side: int = SIDE,
) -> Scene:
    """Paste the cut-outs on a background, in this order: later ones hide earlier ones.

    Args:
        places: cut-outs with their places.
        classes: the names that the mask numbers; an object whose name is not among them is a `UsageError`.
        seed: of the background.
        background: one of `BACKGROUNDS`; default: drawn by the seed.
        colour: how colourful the background is, 0 for greys.
        side: pixels of the square picture.
    """
    picture = draw_background(background, np.random.default_rng(seed), side, colour)
    owner = np.full((side, side), -1)
    layers = [_pasted(picture, place, side) for place in places]
    for i, (alpha, _) in enumerate(layers):
        owner[alpha] = i
    number = {name: i + 1 for i, name in enumerate(classes)}
    mask = np.zeros((side, side), np.uint8)
    objects = []
    for i, (place, (_, (box, area))) in enumerate(zip(places, layers, strict=True)):
        name = place.cutout.name
        if name not in number:
            raise UsageError(f"{name!r} is not among the classes {', '.join(classes)}.")
        mask[owner == i] = number[name]
        objects.append(Object(name, box, float((owner == i).sum() / max(area, 1)), place.cutout.id))
    return Scene(picture, mask, objects, list(classes))


def random_scene(
    cutouts: Sequence[Cutout],
    seed: int,
    *,
    objects: tuple[int, int] = (1, 4),
    span: tuple[float, float] = (0.6, 1.1),
    side: int = SIDE,
) -> Scene:
    """A scene of different things at random places, on a random background. All names are equally likely."""
    rng = np.random.default_rng(seed)
    classes = names(cutouts)
    count = min(int(rng.integers(objects[0], objects[1] + 1)), len(classes))
    wanted = [classes[i] for i in rng.permutation(len(classes))[:count]]
    places = scatter(pick(cutouts, wanted, rng), rng, span=span)
    return compose(places, classes, seed=int(rng.integers(2**31)), side=side)


def draw_background(kind: str | None, rng: np.random.Generator, side: int = SIDE, colour: float = 1.0) -> Image.Image:
    """A light RGB background: one colour, a gradient between two, or clouds of two at three scales.

    colour: how far the channels of a colour are from their mean; 0 leaves greys.
    """
    kind = BACKGROUNDS[rng.integers(len(BACKGROUNDS))] if kind is None else kind
    if kind not in BACKGROUNDS:
        raise UsageError(f"no background {kind!r}: there are {', '.join(BACKGROUNDS)}.")
    drawn = rng.uniform(120, 255, (2, 3))
    grey = drawn.mean(1, keepdims=True)
    first, second = grey + colour * (drawn - grey)
    mix = np.zeros((side, side))
    if kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
        mix = (x * math.cos(angle) + y * math.sin(angle)) / 2 + 0.5
    elif kind == "texture":
        mix = np.mean([_clouds(rng, cells, side) for cells in (4, 16, 64)], axis=0)
    pixels = first + np.clip(mix, 0, 1)[..., None] * (second - first)
    return Image.fromarray(pixels.round().astype(np.uint8))


def save_scenes(scenes: Iterable[Scene], folder: str | Path) -> Path:
    """Write images/, masks/ and classes.txt, as `isthmus eval MODEL segmentation` reads them, and return the folder."""
    folder = Path(folder)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    classes: list[str] = []
    for number, scene in enumerate(scenes):
        scene.image.save(folder / "images" / f"{number:04d}.png")
        Image.fromarray(scene.mask).save(folder / "masks" / f"{number:04d}.png")
        classes = scene.classes
    (folder / "classes.txt").write_text("\n".join(["background", *classes]) + "\n", encoding="utf-8")
    return folder


def noun_of(row: dict[str, str]) -> str | None:
    """The one noun that title and file name hold; None if there is none, or several, and for icons of a theme."""
    if row["label"] in NOT_OBJECTS:
        return None
    title = "" if row["title"].startswith("Clipart by") else row["title"]  # titles of a series, often of other drawings
    words = " ".join(re.findall("[a-z]+", f"{title} {row['id'].rpartition('/')[2]}".lower()))
    found = [noun for noun, means in NOUNS.items() if re.search(rf"\b(?:{means})\b", words)]
    return found[0] if len(found) == 1 and not re.search(rf"\b(?:{OTHERWISE})\b", words) else None


def _cut_out(name: str, row: dict[str, bytes]) -> Cutout | None:
    """The cut-out, if the drawing is one connected object that leaves some of its box free."""
    image = Image.open(io.BytesIO(row["image"])).convert("RGBA")
    solid = np.asarray(image)[..., 3] >= 128
    box = Image.fromarray(solid).getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 32:
        return None
    inside = solid[box[1] : box[3], box[0] : box[2]]
    if not FILLED[0] <= inside.mean() <= FILLED[1] or _largest_share(inside) < WHOLE:
        return None
    return Cutout(str(row["id"]), name, row["label"], image.crop(box))  # type: ignore[arg-type]


def _largest_share(solid: np.ndarray) -> float:
    """Share of the true pixels in the largest piece, diagonal neighbours joined."""
    from scipy import ndimage

    pieces, _ = ndimage.label(solid, np.ones((3, 3)))
    return float(np.bincount(pieces[solid]).max() / solid.sum())


def _pasted(picture: Image.Image, place: Place, side: int) -> tuple[np.ndarray, tuple[tuple[int, int, int, int], int]]:
    """Paste into `picture`; returns the object's pixels, bool [side, side], and its box and area before cutting."""
    scale = place.size * side / max(place.cutout.image.size)
    width, height = (max(1, round(edge * scale)) for edge in place.cutout.image.size)
    small = place.cutout.image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = round(place.x * side - width / 2), round(place.y * side - height / 2)
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(small, (left, top))
    picture.paste(canvas, (0, 0), canvas)
    area = int((np.asarray(small)[..., 3] >= 128).sum())
    return np.asarray(canvas)[..., 3] >= 128, ((left, top, left + width, top + height), area)


def _clouds(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """Smooth noise in 0..1, [side, side], of about `cells` blobs across."""
    noise = Image.fromarray(rng.random((cells, cells), np.float32))
    return np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
