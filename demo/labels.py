"""Class names for zero-shot classification, one per folder of the collection that holds one kind of thing.

Neither end of the folder tree makes sensible classes. Of the 22 top folders a few hold almost everything
and name nothing visible ("computer", "special", "unsorted"); of 165 folders with drawings 52 hold fewer than
ten. So each class is named here and the longest matching folder wins. A folder of mixed things (``animals``
itself, beside ``animals/birds``) has no label rather than one that contains others.
"""

from __future__ import annotations

from pathlib import PurePosixPath

LABELS = {
    "animals/birds": "bird",
    "animals/bugs": "insect",
    "animals/dinosaurs": "dinosaur",
    "animals/fish": "fish",
    "animals/mammals": "mammal",
    "buildings": "building",
    "buildings/furniture": "furniture",
    "buildings/homes": "house",
    "computer/buttons": "web button",
    "computer/hardware": "computer hardware",
    "computer/icons": "computer icon",
    "education/books": "book",
    "food/beverages": "drink",
    "food/breads_and_carbs": "bread",
    "food/desserts": "dessert",
    "food/fruit": "fruit",
    "food/meats_and_eggs": "meat",
    "food/vegetables": "vegetable",
    "geography": "map",
    "geography/astronomy": "planet",
    "office/telephone": "telephone",
    "people": "person",
    "people/bodypart": "body part",
    "people/clothing": "clothing",
    "people/smilies": "smiley face",
    "people/stickmen": "stick figure",
    "plants/flowers": "flower",
    "plants/trees": "tree",
    "recreation/games/cards": "playing card",
    "recreation/games/chess": "chess piece",
    "recreation/music": "musical instrument",
    "recreation/religion": "religious symbol",
    "recreation/sports": "sports",
    "recreation/toys": "toy",
    "science/astronomy": "planet",
    "shapes/arrows": "arrow",
    "shapes/callouts": "speech balloon",
    "shapes/flowchart": "flowchart symbol",
    "shapes/jigsaw": "jigsaw puzzle piece",
    "shapes/stars": "star",
    "signs_and_symbols/clocks": "clock",
    "signs_and_symbols/flags": "flag",
    "signs_and_symbols/led": "LED light",
    "signs_and_symbols/map_symbols": "map symbol",
    "signs_and_symbols/money": "money",
    "signs_and_symbols/weather": "weather symbol",
    "special/patterns": "pattern",
    "tools": "tool",
    "tools/weapons": "weapon",
    "transportation/boating": "boat",
    "transportation/roadsigns": "road sign",
    "transportation/vehicles": "vehicle",
}


def label(path: str) -> str | None:
    """The class name of the longest labelled folder that ``path`` lies in."""
    for folder in PurePosixPath(path).parents:
        if str(folder) in LABELS:
            return LABELS[str(folder)]
    return None
