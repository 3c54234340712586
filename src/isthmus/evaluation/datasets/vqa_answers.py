"""How VQA scores answers: agreement of ten people, after spelling has been made alike.

Source: Antol et al. 2015 (arXiv:1505.00468), section 3.2, and the evaluation code of VQA, whose rules these are. It
leaves the spelling of an answer alone that all ten gave; here every answer is spelt by the rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

NUMBERS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(max(0, place - 1)) for place, word in enumerate(NUMBERS)}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"\.(?!\d)")
COMMA = re.compile(r"\d,\d")
AGREE = 3  # people who have to give an answer for the full score

# Written with their apostrophes; people leave one out.
CONTRACTED = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't mightn't've might've
    mustn't must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've
    somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've
    something'll that's there'd there'd've there're there's they'd they'd've they'll they're they've wasn't
    we'd've we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll
    who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd
    you'd've you'll you're you've
    """,
)


SPELLING = {
    word[:place] + word[place + 1 :]: word for word in CONTRACTED for place, letter in enumerate(word) if letter == "'"
}


def normalise(answer: str) -> str:
    """An answer as VQA compares it: small letters, digits, apostrophes, no articles, no punctuation."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    together = COMMA.search(text) is not None  # 1,000 becomes 1000
    found = text
    for mark in PUNCTUATION:
        alone = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if alone or together else " ")
    words = (DIGITS.get(word, word) for word in PERIOD.sub("", found).lower().split())
    return " ".join(SPELLING.get(word, word) for word in words if word not in ARTICLES)


def soft_scores(answers: Sequence[str]) -> dict[str, float]:
    """What each answer earns: min(1, n / 3) of those who agree, averaged over all choices of all but one of the people.

    answers: of each of ten people.
    """
    people = len(answers)
    counts = Counter(map(normalise, answers))
    scores = {}
    for answer, n in counts.items():
        without, with_it = min(1.0, (n - 1) / AGREE), min(1.0, n / AGREE)
        scores[answer] = (n * without + (people - n) * with_it) / people
    return {answer: score for answer, score in scores.items() if score > 0}
