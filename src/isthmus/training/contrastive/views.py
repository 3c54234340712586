"""Checks that the features fit the heads of a recipe: tokens for token heads, pooled features for the others."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.feature_pairs import FeaturePairs
from isthmus.encoders.modality import Modality, spec_of
from isthmus.encoders.uri import gives_tokens
from isthmus.errors import UsageError
from isthmus.projectors.tokens import slots, takes_tokens
from isthmus.training.contrastive.pixels import PixelFeatures
from isthmus.training.contrastive.recipe import ContrastiveRecipe, HeadOptions


def check_views(head: HeadOptions, pairs: FeaturePairs, frozen: str | None = None) -> None:
    """`UsageError` if a head takes another kind of features; it says what to embed.

    Plain arrays pass, and so does a frozen side: its head is not the recipe's.
    """
    for side, records in pairs.records.items():
        if side != frozen:
            _check(f"head.{side}", getattr(head, side), pairs.modality(side), records)


def check_augmented(recipe: ContrastiveRecipe, pairs: FeaturePairs) -> None:
    """`UsageError` if pictures should be augmented but their features are stored already."""
    live = pairs.image if isinstance(pairs.image, PixelFeatures) else None
    if recipe.data.augment != (live.augment if live else "none"):
        raise UsageError(
            f"data.augment = {recipe.data.augment!r} does not go with these images: "
            + (f"they are encoded with augment = {live.augment!r}." if live else "their features are stored. ")
            + ("" if live else "Give the pictures, to be encoded while training: --pixels PAIRS.")
        )


def _check(key: str, kind: str, modality: Modality, records: Sequence[EncoderRecord]) -> None:
    """Check one side, whose kind of head is the recipe's `key`."""
    known = [record for record in records if "pool" in record]
    wanted = f"{key} = {kind!r}"
    if not takes_tokens(kind):
        for record in known:
            if gives_tokens(record["pool"]):
                raise UsageError(
                    f"{wanted} takes pooled features, but {record['uri']} gives {len(record['parts'])} tokens side by "
                    f"side. Use --recipe freeze-align, or embed the {modality}s with pool={spec_of(modality).single}."
                )
        return
    if len(records) > 1:
        raise UsageError(f"{wanted} takes the tokens of one encoder, not of {len(records)} side by side. Name one.")
    for record in known:
        _check_slots(key, kind, modality, record)


def _check_slots(key: str, kind: str, modality: Modality, record: EncoderRecord) -> None:
    """Check that the first token is the class token if the head has a slot for it, and all others are of one kind."""
    wanted, named, advised = f"{key} = {kind!r}", slots(kind), spec_of(modality).tokens
    pool = str(record["pool"])
    if not gives_tokens(record["pool"]):
        raise UsageError(
            f"{wanted} takes tokens, but the features of {record['uri']} are pooled. Embed the {modality}s again with "
            f"pool={advised}; or use --recipe freeze-align-pooled."
        )
    first, *rest = pool.split("+")
    tokens = rest if first == "cls" else [first, *rest]
    if len(tokens) != 1 or not gives_tokens(tokens[0]):
        raise UsageError(f"{wanted}: {record['uri']} must give one kind of tokens: pool={advised}.")
    if ("cls" in named) != (first == "cls"):
        slot = f"tokens:{named['tokens']}"
        name = f"cls:none,{slot}" if first == "cls" else slot
        has = "begins with a class token, for which it has no slot" if first == "cls" else "has no class token"
        raise UsageError(f"{wanted}: {record['uri']} {has}. Use --set {key}='{name}'.")
