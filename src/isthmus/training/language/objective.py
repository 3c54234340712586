"""The language objective: the tokens of answers, after pictures and questions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from isthmus.data.matrix import evenly
from isthmus.encoders.whole import WholePictures
from isthmus.fusion import SideStates
from isthmus.fusion.language import (
    CausalLanguage,
    LanguageNetwork,
    LanguagePlan,
    Packed,
    PictureOptions,
    Prompt,
    load_language,
    packed,
)
from isthmus.fusion.language.pictures import counted
from isthmus.models.language_model import picture_states, prompts_of, tiled_states
from isthmus.precision import choose_precision
from isthmus.training.fusion.batches import HeldStates
from isthmus.training.fusion.sharing import shared_mean
from isthmus.training.language.data import SpokenPairs, TilePictures, frequent_answers, spoken_identity
from isthmus.training.language.recipe import LanguageRecipe
from isthmus.training.objective import Objective
from isthmus.training.plan import Plan
from isthmus.training.recipe import Recipe

NORMED = 256  # pictures from which the norms of features are taken
JUDGED, AT_ONCE = 240, 16  # held-out answers that are judged, evenly spaced; how many at a time


@dataclass(frozen=True)
class SpokenBatch:
    """Rows of packed prompts with answers. states: of the different pictures. of: of each prompt its picture, int64."""

    rows: Packed
    states: SideStates
    of: Tensor


class LanguageModule(nn.Module):
    """What a run trains: the network."""

    def __init__(self, network: LanguageNetwork) -> None:
        super().__init__()
        self.network = network


class LanguageObjective(Objective):
    """What is said about pictures, `train`, judged on `val`.

    language: the language model. head: an image head of a trained model, or None.
    """

    recipe: ClassVar[type[Recipe]] = LanguageRecipe
    unit: ClassVar[str] = "answer"
    primary: ClassVar[str] = "val_loss"
    higher: ClassVar[bool] = False

    module: LanguageModule

    def __init__(
        self,
        train: SpokenPairs,
        val: SpokenPairs | None,
        language: CausalLanguage,
        *,
        template: str = "",
        head: Any = None,
    ) -> None:
        self.train, self.val = train, val if val is not None and len(val) else None
        self.language, self.template, self.head = language, template, head
        self.answers: list[str] = []

    def again(self) -> LanguageObjective:
        """The same for a later stage, with the language model as it came."""
        fresh = load_language(self.language.record["uri"])
        return LanguageObjective(self.train, self.val, fresh, template=self.template, head=self.head)

    @property
    def items(self) -> int:
        return len(self.train)

    def fingerprint(self) -> dict[str, Any]:
        said = {"train": spoken_identity(self.train), "val": spoken_identity(self.val) if self.val else None}
        return {**said, "language": self.language.record["fingerprint"], "template": self.template}

    def shape(self, plan: Plan) -> LanguagePlan:
        """The network's shape, with the numbers of tokens that the encoder really gives."""
        recipe: LanguageRecipe = plan.recipe
        picture, managers, states = recipe.picture, recipe.managers, self.train.states
        fed = [states.layers.index(layer) for layer in picture.layers or states.layers[-1:]]
        managed = [states.layers.index(layer) for layer in managers.layers or states.layers] if managers.every else []
        prefix = int(states.records[0].get("prefix") or 0)
        lengths = np.asarray(states.lengths(self.train.numbers[:1])).ravel().tolist()
        lengths = lengths * len(states.records) if len(lengths) == 1 else lengths
        patches, tokens = counted(lengths, prefix, picture.tokens, fed, picture.cls)
        before = list(range(0, len(self.language.layers), managers.every)) if managers.every else []
        return LanguagePlan(
            widths=list(states.widths),
            fed=fed,
            tokens=tokens,
            patches=patches,
            prefix=prefix,
            hidden=self.language.hidden,
            managed=managed,
            before=before,
            cls=picture.cls,
            projector=picture.projector,
            norm=picture.norm,
            blind=picture.blind,
            jitter=managers.jitter,
            head=None if self.head is None else self.head.config(),
            unfreeze=recipe.language.unfreeze,
            lora=recipe.language.lora,
            **self._grids(picture),
        )

    def _grids(self, picture: PictureOptions) -> dict[str, Any]:
        if not picture.grids or self.train.tiles is None:
            return {}
        pixels = WholePictures(self.train.tiles.encoder).side
        return {"grids": [list(one) for one in picture.grids], "tiles": picture.tiles, "pixels": pixels}

    @property
    def prompting(self) -> dict[str, str]:
        """How the language model is asked, as a model keeps it."""
        chosen = self.plan.recipe.language
        return {"template": self.template, "system": chosen.system, "caption": chosen.caption}

    def build(self) -> LanguageModule:
        recipe = self.plan.recipe
        network = LanguageNetwork(self.shape(self.plan), self.language.network)
        if self.head is not None:
            network.pictures.head.load_state_dict(self.head.state_dict())
        self.answers = frequent_answers(self.train, recipe.data.least, recipe.data.choices)
        return LanguageModule(network)

    def prepare(self, plan: Plan, device: torch.device) -> LanguageModule:
        super().prepare(plan, device)
        network = self.module.network
        self._lower(choose_precision(plan.recipe.optim.precision, device))
        self.prompts = prompts_of(self.language, network.plan, self.prompting)
        self.padding = self.prompts.tokenizer.pad_token_id
        self.held = {data: self._held(one) for data, one in (("train", self.train), ("val", self.val)) if one}
        self.said = {name: self._prompts(getattr(self, name)) for name in self.held}
        some = self.held["train"].take(evenly(len(self.train.pairs), NORMED))
        if some.breaks is None:
            network.fit(some.values)  # type: ignore[arg-type]
        else:
            network.fit([one[some.mask & ~some.breaks][None] for one in some.values])
        return self.module

    def _lower(self, precision: str) -> None:
        """What is frozen of the language model in the precision of the run; what is trained in float32."""
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        for one in self.language.network.parameters():
            one.data = one.data.to(torch.float32 if one.requires_grad else dtype)

    def _held(self, data: SpokenPairs) -> HeldStates:
        network = self.module.network
        head = network.pictures.head
        if head is not None:
            head.cpu()  # states are prepared where they are read
        if network.plan.grids:
            return self._held_tiles(data)

        def prepare(values: Any, masks: Any) -> SideStates:
            if isinstance(values, list):
                return picture_states(network, [torch.from_numpy(one) for one in values])
            return picture_states(network, torch.from_numpy(values))

        return HeldStates(data.states, data.numbers, data.pairs.items("image"), prepare, self.device)

    def _held_tiles(self, data: SpokenPairs) -> HeldStates:
        network, tiles = self.module.network, cast(TilePictures, data.tiles)

        def prepare(pictures: Any, _: Any) -> SideStates:
            return tiled_states(network, tiles.views, pictures, "cpu")

        rows, longest = np.arange(len(tiles.ids)), max(self.tokens(network.plan, data))
        return HeldStates(tiles, rows, data.pairs.items("image"), prepare, self.device, longest)

    @staticmethod
    def tokens(plan: LanguagePlan, data: SpokenPairs) -> list[int]:
        """Tokens of each picture."""
        if not plan.grids or data.tiles is None:
            return [plan.tokens] * len(data.pairs.image_ids)
        return [plan.tokens_of(*size) for size in data.tiles.sizes]

    def _prompts(self, data: SpokenPairs) -> list[Prompt]:
        tokens = self.tokens(self.module.network.plan, data)
        return [self.prompts(one.turns, one.answer, tokens=tokens[one.picture], place=one.place) for one in data.items]

    # --- batches and losses --------------------------------------------------------------------------------

    def batch(self, rows: np.ndarray) -> SpokenBatch:
        return self._batch("train", rows)

    def _batch(self, part: str, rows: np.ndarray) -> SpokenBatch:
        data: SpokenPairs = getattr(self, part)
        pictures, of = np.unique(data.pictures[rows], return_inverse=True)
        prompts = [self.said[part][row] for row in rows.tolist()]
        found = packed(prompts, self.plan.recipe.language.pack, padding=self.padding)
        return SpokenBatch(found, self.held[part].take(pictures), torch.from_numpy(of.ravel()))

    def losses(self, batch: SpokenBatch, group: ProcessGroup | None) -> dict[str, Tensor]:
        """Cross-entropy, the mean over the tokens of answers and their ends."""
        logits, wanted, _ = self.told(batch)
        each = F.cross_entropy(logits, wanted, reduction="none")
        return {"loss": shared_mean(each, torch.ones_like(each), group)}

    def told(self, batch: SpokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Of every token of the answers: logits float32 [n, vocabulary], what is right, and whose it is, int64 [n]."""
        rows, device = batch.rows, self.device
        labels = rows.labels.flatten()
        places = (labels >= 0).nonzero()[:, 0]
        network = self.module.network
        sight = network.see(batch.states).take(batch.of.to(device))
        logits = network.logits(rows.to(device), sight, places.to(device))
        return logits, labels[places].to(device), rows.owner.flatten()[places]

    # --- judging -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss, and the shares of tokens, and of whole answers, that are the most probable after what is right."""
        if self.val is None:
            return {}
        chosen = evenly(len(self.val), JUDGED)
        losses, right, whole = list[Tensor](), list[Tensor](), list[Tensor]()
        for start in range(0, len(chosen), AT_ONCE):
            batch = self._batch("val", chosen[start : start + AT_ONCE])
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.lowered):
                logits, wanted, owner = self.told(batch)
            losses.append(F.cross_entropy(logits, wanted, reduction="none").cpu())
            right.append((logits.argmax(1) == wanted).cpu())
            count = len(batch.of)
            wrong = torch.zeros(count).index_add(0, owner, (~right[-1]).float())
            whole.append(wrong == 0)
        found = {"val_loss": torch.cat(losses), "val_tokens": torch.cat(right), "val_answers": torch.cat(whole)}
        return {name: float(values.float().mean()) for name, values in found.items()}

    @property
    def lowered(self) -> bool:
        """Whether the run multiplies in bf16."""
        return choose_precision(self.plan.recipe.optim.precision, self.device) == "bf16"

    def chance(self) -> dict[str, float]:
        """What the most frequent answer of the training data reaches."""
        asked = [one.answer for one in self.train.items if one.asked]
        held = [one for one in self.val.items if one.asked] if self.val else []
        if not asked or not held:
            return {}
        most = Counter(asked).most_common(1)[0][0]
        return {"val_answers": float(np.mean([one.answer == most for one in held]))}

    def learning_rate(self, name: str) -> float:
        rates = self.plan.recipe.rates
        if ".managers." in name:
            return rates.managers
        return rates.language if name.startswith("network.language.") else 1.0

    def counts(self) -> dict[str, int]:
        found = {"pairs": self.items, "images": len(np.unique(self.train.pictures)), "answers": len(self.answers)}
        return found | {"tokens": sum(map(len, self.said["train"]))}

    def cost(self, seen: int, seconds: float) -> dict[str, Any]:
        return {"pairs_seen": seen, "flops": None, "seconds": round(seconds, 2)}

    def result(self) -> LanguageNetwork:
        network = self.module.network
        network.language.float()
        return network
