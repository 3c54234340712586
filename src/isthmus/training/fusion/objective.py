"""The fusion objective: answers, matching, contrast and masked words from the states of two encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from isthmus.data.feature_pairs import SIDES
from isthmus.data.matrix import evenly
from isthmus.encoders import Encoder
from isthmus.encoders.unfrozen import Unfrozen
from isthmus.errors import InputError, UsageError
from isthmus.fusion import Fused, FusionNetwork, FusionPlan, SideStates
from isthmus.losses import infonce
from isthmus.models.fusion_model import prepare_states
from isthmus.training.fusion.batches import StateBatches, learned_answers, positive_groups, scored
from isthmus.training.fusion.data import LayeredPairs, identity
from isthmus.training.fusion.negatives import draw_negatives
from isthmus.training.fusion.recipe import WEIGHTS, FusionRecipe
from isthmus.training.fusion.sharing import drawn, gathered, shared_mean
from isthmus.training.fusion.validation import guessed, validated
from isthmus.training.fusion.words import Vocabulary
from isthmus.training.objective import Objective
from isthmus.training.plan import Plan
from isthmus.training.recipe import Recipe

NORMED = 256  # pictures and texts from which the norms of features are taken


@dataclass(frozen=True)
class FusionBatch:
    """Texts with their pictures. rows: numbers of the texts, int64 [n]. states: of both sides, n items each."""

    rows: np.ndarray
    states: dict[str, SideStates]


class FusionModule(nn.Module):
    """What a fusion run trains: the network, and blocks of the encoders where some are unfrozen."""

    def __init__(self, network: FusionNetwork, blocks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.blocks = nn.ModuleDict(dict(blocks))


class FusionObjective(Objective):
    """Texts with their pictures, `train`, judged on `val`.

    texts: the views of the text encoder, for masked words. unfrozen: encoders of which some blocks are trained.
    """

    recipe: ClassVar[type[Recipe]] = FusionRecipe
    unit: ClassVar[str] = "text"
    primary: str = "val_accuracy"  # type: ignore[misc]

    module: FusionModule

    def __init__(
        self,
        train: LayeredPairs,
        val: LayeredPairs | None,
        *,
        texts: list[Encoder] | None = None,
        unfrozen: Mapping[str, Unfrozen] | None = None,
    ) -> None:
        self.train, self.val = train, val if val is not None and len(val) else None
        self.texts, self.unfrozen = texts, dict(unfrozen or {})
        self.answers: list[str] = []

    @property
    def items(self) -> int:
        return len(self.train)

    def fingerprint(self) -> dict[str, Any]:
        blocks = {side: one.identity for side, one in self.unfrozen.items()}
        return {
            "train": identity(self.train),
            "val": identity(self.val) if self.val else None,
            **({"unfrozen": blocks} if blocks else {}),
        }

    def adapt(self, recipe: Any) -> tuple[FusionRecipe, list[str]]:
        """The weights that are "auto" set by whether the data have answers."""
        told = any(self.train.answers)
        usual = {"answers": float(told), "matching": float(not told), "contrast": float(not told)}
        chosen = {name: getattr(recipe.objectives, name) for name in WEIGHTS}
        chosen |= {name: usual[name] for name, value in chosen.items() if value == "auto"}
        if chosen["answers"] and not told:
            raise InputError(
                "objectives.answers: no text of the store has an answer. Embed a table with the columns question and "
                "answer (or answers and scores), or set objectives.answers = 0 with matching, contrast or words."
            )
        if not any(chosen.values()):
            raise UsageError("every weight in [objectives] is 0 for these data: nothing is trained.")
        return dataclasses.replace(recipe, objectives=dataclasses.replace(recipe.objectives, **chosen)), []

    def planned(self, recipe: Recipe, processes: int = 1) -> Plan:
        plan = super().planned(recipe, processes)
        weights = plan.recipe.objectives
        self.primary = (
            "val_accuracy" if weights.answers else "val_recall" if weights.contrast else "val_matching"
            if weights.matching else "val_words"
        )  # fmt: skip
        return plan

    def shape(self, plan: Plan) -> FusionPlan:
        """The network's shape. Raises `InputError` where no answer is frequent enough."""
        recipe, weights = plan.recipe, plan.recipe.objectives
        self.answers = learned_answers(self.train, weights.least) if weights.answers else []
        if weights.answers and not self.answers:
            raise InputError(f"no answer has objectives.least = {weights.least} training questions: ask for fewer.")
        return FusionPlan(
            self.train.widths,
            recipe.fusion,
            recipe.heads,
            answers=len(self.answers),
            matching=bool(weights.matching),
            contrast=bool(weights.contrast),
            words=self.vocabulary.size if weights.words else 0,
        )

    @cached_property
    def vocabulary(self) -> Vocabulary:
        if not self.texts:
            raise UsageError("objectives.words needs the text encoder by its URI, not texts alone.")
        return Vocabulary.of(self.texts[0])

    def build(self) -> FusionModule:
        return FusionModule(
            FusionNetwork(self.shape(self.plan)), {side: one.blocks for side, one in self.unfrozen.items()}
        )

    def prepare(self, plan: Plan, device: torch.device) -> FusionModule:
        super().prepare(plan, device)
        self.batches = StateBatches(self.train, plan.recipe.fusion.grid, device)
        if self.val is not None:
            self.held_out = StateBatches(self.val, plan.recipe.fusion.grid, device)
        self.fit_norms()
        self.groups = positive_groups(self.train)
        self.scores = scored(self.train.answers, self.answers)
        self.answered = torch.tensor([bool(told) for told in self.train.answers])
        return self.module

    def fit_norms(self) -> None:
        """The mean and spread of features, from some of the training data."""
        if self.plan.recipe.fusion.norm == "data":
            for side, count in zip(SIDES, (len(self.train.pairs), len(self.train)), strict=True):
                some = self.batches.take(side, evenly(count, NORMED))
                self.module.network.tower.fit(side, some.values, some.mask)

    def batch(self, rows: np.ndarray) -> FusionBatch:
        pictures = self.train.pairs.image_of[rows]
        both = zip(SIDES, (pictures, rows), strict=True)
        return FusionBatch(rows, {side: self.batches.take(side, one) for side, one in both})

    # --- losses --------------------------------------------------------------------------------------------

    def losses(self, batch: FusionBatch, group: ProcessGroup | None) -> dict[str, Tensor]:
        """The weighted sum, and each part by its name."""
        weights, network = self.plan.recipe.objectives, self.module.network
        parts: dict[str, Tensor] = {}
        ends = network.ends(batch.states) if weights.contrast else None
        negatives = self.negatives(batch, ends, group) if weights.matching else None  # drawn before any dropout
        fused = network(batch.states, pooled_only=True) if weights.answers or weights.matching else None
        if weights.answers:
            assert fused is not None
            parts["answers"] = self.answer_loss(batch, fused, group)
        if weights.matching:
            assert fused is not None and negatives is not None
            parts["matching"] = self.matching_loss(fused, negatives, group)
        if ends is not None:
            groups = tuple(of[batch.rows].to(self.device) for of in self.groups)
            x, y = (ends[side].float() for side in SIDES)
            assert network.contrast is not None
            scale = network.contrast.scale()
            parts["contrast"] = infonce(x, y, scale, groups=groups, process_group=group)  # type: ignore[arg-type]
        if weights.words:
            parts["words"] = self.word_loss(batch, group)
        return {"loss": torch.stack([getattr(weights, name) * loss for name, loss in parts.items()]).sum(), **parts}

    def answer_loss(self, batch: FusionBatch, fused: Fused, group: ProcessGroup | None) -> Tensor:
        """Of the questions with answers, the mean of: BCE summed over all answers, or cross-entropy."""
        logits = self.module.network.answer_logits(fused).float()
        scores, asked = self.scores[batch.rows].to(self.device), self.answered[batch.rows].to(self.device)
        if self.plan.recipe.objectives.answer_loss == "soft":
            each = F.binary_cross_entropy_with_logits(logits, scores, reduction="none").sum(1)
        else:
            total = scores.sum(1)
            each = -(logits.log_softmax(1) * scores).sum(1) / total.clamp(min=1e-12)
            asked = asked & (total > 0)
        return shared_mean(each, asked.float(), group)

    @torch.no_grad()
    def negatives(
        self, batch: FusionBatch, ends: dict[str, Tensor] | None, group: ProcessGroup | None
    ) -> list[tuple[dict[str, SideStates], Tensor]]:
        """For each text another picture, for each picture another text: states, and whether there was one."""
        rows, first = gathered(torch.from_numpy(batch.rows).to(self.device), group)
        rows = rows.cpu()
        of_image, of_text = (of[rows] for of in self.groups)
        own = slice(first, first + len(batch.rows))
        numbers = drawn(2 * len(rows), self.device, group).view(2, -1)  # on the CPU, as all that follows
        similarity = self.similarity(ends, own, group)
        found = []
        for side, similar, mine, others, drawn_by in (
            (SIDES[0], similarity[1], of_text[own], of_image, numbers[0][own]),  # by text, among pictures
            (SIDES[1], similarity[0], of_image[own], of_text, numbers[1][own]),
        ):
            picked, there = draw_negatives(similar, mine[:, None] == others, drawn_by)
            chosen = rows[picked].numpy()
            places = self.train.pairs.image_of[chosen] if side == SIDES[0] else chosen
            found.append(({**batch.states, side: self.batches.take(side, places)}, there.to(self.device)))
        return found

    def similarity(
        self, ends: dict[str, Tensor] | None, own: slice, group: ProcessGroup | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Scaled similarities of this process's pictures with all texts, and of its texts with all pictures."""
        if ends is None:
            return None, None
        contrast = self.module.network.contrast
        assert contrast is not None
        x, y = (gathered(ends[side].float(), group)[0] for side in SIDES)
        scale = contrast.scale()
        return (scale * x[own] @ y.T).cpu(), (scale * y[own] @ x.T).cpu()

    def matching_loss(
        self, fused: Fused, negatives: list[tuple[dict[str, SideStates], Tensor]], group: ProcessGroup | None
    ) -> Tensor:
        """Cross-entropy of matched against not, over one positive and two negatives for each pair."""
        network = self.module.network
        logits, weights = [network.match_logits(fused).float()], [torch.ones_like(negatives[0][1], dtype=torch.float32)]
        for states, there in negatives:
            logits.append(-network.match_logits(network(states, pooled_only=True)).float())
            weights.append(there.float())
        return shared_mean(F.softplus(-torch.cat(logits)), torch.cat(weights), group)

    def word_loss(self, batch: FusionBatch, group: ProcessGroup | None) -> Tensor:
        """Cross-entropy of the hidden words, with the picture beside the text."""
        states, labels = self.hidden_words(self.train, batch.rows)
        fused = self.module.network({**batch.states, SIDES[1]: states})
        head = self.module.network.words
        assert head is not None
        logits = head(fused.states[SIDES[1]][labels >= 0]).float()
        each = F.cross_entropy(logits, labels[labels >= 0], reduction="none")
        return shared_mean(each, torch.ones_like(each), group)

    def hidden_words(self, data: LayeredPairs, rows: np.ndarray) -> tuple[SideStates, Tensor]:
        """States of these texts with some words hidden, and the ids of these, int64 [n, T]."""
        assert self.texts is not None and data.pairs.captions is not None
        encoder = self.texts[0]
        inputs = encoder.prepare([data.pairs.captions[row] for row in rows.tolist()])
        inputs, labels = self.vocabulary.hidden(inputs, self.plan.recipe.objectives.masked)
        found = encoder.states(inputs, [view.layer for view in self.texts])
        states = prepare_states(data.records[SIDES[1]], 0, found.values, found.mask)
        return states.ready(self.device), labels.to(self.device)

    # --- judging -------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        return {} if self.val is None else validated(self, self.val)

    def chance(self) -> dict[str, float]:
        return {} if self.val is None else guessed(self, self.val)

    def learning_rate(self, name: str) -> float:
        rates = self.plan.recipe.rates
        if name.startswith("blocks."):
            return rates.encoders
        if ".aggregators." in name:
            return rates.managers
        return rates.cross if name.startswith("network.tower.") else rates.heads

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not on vectors, nor on the norms and scores of aggregators, which have the layer as a further axis."""
        stacked = ".aggregators." in name and not name.endswith((".query.weight", ".key.weight", ".score.weight"))
        return self.plan.recipe.optim.decay_all or (
            parameter.ndim >= 2 and not stacked and "layer_embedding" not in name
        )

    def facts(self) -> dict[str, Any]:
        contrast = self.module.network.contrast
        return {} if contrast is None else {"scale": contrast.scale().item()}

    def counts(self) -> dict[str, int]:
        found = {"pairs": self.items, "images": len(np.unique(self.train.pairs.image_of))}
        return found | ({"answers": len(self.answers)} if self.answers else {})

    def cost(self, seen: int, seconds: float) -> dict[str, Any]:
        return {"pairs_seen": seen, "flops": None, "seconds": round(seconds, 2)}

    def result(self) -> FusionNetwork:
        return self.module.network
