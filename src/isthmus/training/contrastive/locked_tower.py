"""The frozen side of a trained model while new features join its space."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.data.feature_pairs import SIDES, FeaturePairs
from isthmus.encoders.modality import Modality
from isthmus.errors import InputError, UsageError, did_you_mean
from isthmus.files import file_digest
from isthmus.models.dual_encoder import DualEncoder
from isthmus.models.saved import WEIGHTS
from isthmus.projectors import Head


@dataclass(frozen=True)
class LockedTower:
    """One side of a trained model: its encoders by record, its projector, and where they come from."""

    model: DualEncoder
    side: Modality
    source: str

    @classmethod
    def of(cls, init: Any, freeze: str | None) -> LockedTower:
        """The side `freeze` ("image" or "text") of a model or its folder.

        Raises UsageError if one of both is missing or no side has that name, InputError if there is no model.
        """
        if init is None or freeze is None:
            raise UsageError(
                "init and freeze (--init MODEL --freeze text) belong together: a model and its frozen side."
            )
        if freeze not in SIDES:
            raise UsageError(f"freeze={freeze!r}: {' or '.join(SIDES)}." + did_you_mean(freeze, SIDES))
        given = isinstance(init, str | Path)
        model = DualEncoder.from_pretrained(init, load=False, device="cpu") if given else init
        return cls(model, freeze, str(init) if given else "a model in memory")

    @property
    def projector(self) -> Head:
        return self.model.projector(self.side)

    @property
    def cut(self) -> int | None:
        """The width that the model was truncated to; None if it was not."""
        return self.model.width if self.model.width < self.projector.width else None

    def choose(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """Which encoders to take from a store: on this side the model's own, unless others are named."""
        own = [record["fingerprint"] for record in self.model.records[self.side]]
        return chosen if chosen.get(self.side) else {**chosen, self.side: own}

    def embedded(self, pairs: FeaturePairs | None) -> FeaturePairs | None:
        """The pairs with this side's features replaced by its embeddings, computed on demand.

        Raises InputError if these features are by other encoders than the model's.
        """
        if pairs is None:
            return None
        self._check(pairs)
        features = self.model.projected(self.side, getattr(pairs, self.side))
        embedded: dict[str, Any] = {self.side: features, f"{self.side}_parts": [self.model.width]}
        return dataclasses.replace(pairs, **embedded)

    def summary(self) -> dict[str, Any]:
        """Where the frozen side comes from, for the new model's card."""
        weights = Path(self.source) / WEIGHTS
        digest = {"weights": file_digest(weights)} if weights.is_file() else {}
        return {"init": self.source, "frozen": self.side, **digest}

    def _check(self, pairs: FeaturePairs) -> None:
        held, width = getattr(pairs, f"{self.side}_encoder"), getattr(pairs, self.side).shape[1]
        records = self.model.records[self.side]
        same = [one.get("fingerprint") for one in held] == [one["fingerprint"] for one in records]
        if (held and not same) or width != sum(self.projector.parts):
            names = ", ".join(str(one.get("uri")) for one in held) or "arrays"
            raise InputError(
                f"{self.source}: its {self.side} side is of {', '.join(one['uri'] for one in records)} "
                f"({sum(self.projector.parts)} wide); these {self.side} features are of {names} ({width} wide). A "
                "frozen side needs the features it was trained on: embed with that encoder, or name it "
                f"(--{self.side}-encoder)."
            )
