"""The objective of a stage: CTC and attention over lines, or single words from their video."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from isthmus.metrics.transcripts import character_edits
from isthmus.speech.decoding import DecodingOptions, read_lines
from isthmus.speech.heads import attention_loss, ctc_loss, teacher_forcing
from isthmus.speech.model import SENSES, SpeechRecogniser, SpeechShape, WordClassifier
from isthmus.speech.noise import masked
from isthmus.speech.vocabulary import Symbols, plain
from isthmus.training.objective import Objective
from isthmus.training.plan import Plan
from isthmus.training.recipe import Recipe
from isthmus.training.speech.data import BySense, SpokenLines
from isthmus.training.speech.recipe import SpeechRecipe

JUDGED = 500  # lines of each way of being heard, evenly spaced
AT_ONCE = 32
TOGETHER = 4  # lines of a batch that share their padding
GREEDY = DecodingOptions(beam=0)


@dataclass(frozen=True)
class LineBatch:
    """States and valid frames by sense, and the symbols int64 [n, L] of the lines."""

    states: BySense
    frames: BySense
    targets: Tensor


class SpeechObjective(Objective):
    """Lines, `train`, judged on `val` by the character error rate of greedy CTC, the mean over the ways of being heard.

    senses: "audio", "video" or "av". stage: its name, for progress.
    """

    recipe: ClassVar[type[Recipe]] = SpeechRecipe
    primary: ClassVar[str] = "val_cer"
    higher: ClassVar[bool] = False
    unit: ClassVar[str] = "line"

    module: SpeechRecogniser

    def __init__(
        self, train: SpokenLines, val: SpokenLines | None, symbols: Symbols, senses: str, stage: str = ""
    ) -> None:
        self.senses = SENSES if senses == "av" else (senses,)
        self.train = train.having(self.senses)
        kept = None if val is None else val.having(self.senses)
        self.val = kept if kept is not None and len(kept) else None
        self.symbols, self.stage = symbols, f"{stage}: " if stage else ""  # type: ignore[misc]

    @property
    def items(self) -> int:
        return len(self.train)

    def fingerprint(self) -> dict[str, Any]:
        val = None if self.val is None else self.val.identity()
        return {"train": self.train.identity(), "val": val, "symbols": self.symbols.to_dict()}

    def shape(self, recipe: SpeechRecipe) -> SpeechShape:
        """The recogniser's shape for these states. Raises `UsageError` for rates that do not fit the steps."""
        options = recipe.speech
        states: dict[str, Any] = {name: self.train.width(name) for name in self.senses}
        layers = len(self.train.states["audio"].records) if "audio" in self.senses else 1
        known = {one.name for one in dataclasses.fields(SpeechShape)} & set(vars(options))
        chosen = {name: getattr(options, name) for name in known if name != "layers"}
        return SpeechShape(self.symbols.symbols, **states, **chosen, layers=layers)

    def build(self) -> nn.Module:
        return SpeechRecogniser(self.shape(self.plan.recipe))

    def prepare(self, plan: Plan, device: torch.device) -> nn.Module:
        super().prepare(plan, device)
        self.targets = self.symbols.encode(self.train.texts)
        self.lengths = self.train.lengths(self.senses[-1])
        versions = list(enumerate((one.heard for one in self.train.versions), 1))
        self.noisy = [number for number, heard in versions if heard.snr is not None]
        self.fast = [number for number, heard in versions if heard.speed != 1]
        return self.module

    # --- batches -------------------------------------------------------------------------------------------

    def batch(self, rows: np.ndarray) -> list[LineBatch]:
        """Lines as they are heard in this step, with masks, drawn from torch's global generator; those of like length
        together, since padding costs as much as speech.
        """
        versions = self.drawn(len(rows))
        order = np.argsort([self.lengths[row] for row in rows], kind="stable")
        pieces = np.array_split(order, max(1, len(rows) // TOGETHER))
        return [self.piece(rows[some], versions[some]) for some in pieces]

    def piece(self, rows: np.ndarray, versions: np.ndarray) -> LineBatch:
        """Some lines of a batch."""
        given = {name: self.train.take(name, rows, versions if name == "audio" else None) for name in self.given}
        states = {name: self.masked(values, frames).to(self.device) for name, (values, frames) in given.items()}
        targets = self.targets[rows]
        targets = targets[:, : max(1, int((targets > 0).sum(1).max()))]
        frames = {name: frames.to(self.device) for name, (_, frames) in given.items()}
        return LineBatch(states, frames, targets.to(self.device))

    @property
    def given(self) -> tuple[str, ...]:
        """The senses that the recogniser is shown."""
        return ("audio",) if self.plan.recipe.speech.blind and len(self.senses) > 1 else self.senses

    def drawn(self, count: int) -> np.ndarray:
        """How each line is heard, int64 [count]: see `SpokenLines.take`."""
        noise, fate, found = self.plan.recipe.noise, torch.rand(count), torch.zeros(count, dtype=torch.long)
        fast = self.fast if self.senses == ("audio",) else []  # where there is video, it keeps its pace
        below = 0.0
        for listed, share in ((self.noisy, noise.share), (fast, noise.fast * (1 - noise.share))):
            if listed:
                other = torch.tensor(listed)[torch.randint(len(listed), (count,))]
                found = torch.where((fate >= below) & (fate < below + share), other, found)
            below += share
        return found.numpy()

    def masked(self, values: Tensor, frames: Tensor) -> Tensor:
        masks = self.plan.recipe.masks
        if not (masks.spans and masks.span) and not (masks.channels and masks.band):
            return values
        return masked(values, frames, torch.default_generator, **dataclasses.asdict(masks))

    # --- losses --------------------------------------------------------------------------------------------

    def losses(self, batch: list[LineBatch], group: ProcessGroup | None) -> dict[str, Tensor]:
        """`losses.ctc` of CTC, the rest of attention, the mean over lines, also of processes that share a batch."""
        total = sum(len(one.targets) for one in batch)
        parts: dict[str, Tensor] = {}
        for one in batch:
            for name, loss in self.piece_losses(one).items():
                parts[name] = parts.get(name, torch.zeros((), device=loss.device)) + loss * (len(one.targets) / total)
        weight = self.plan.recipe.losses.ctc
        loss = weight * parts["ctc"] + (1 - weight) * parts.get("attention", 0.0)
        return {"loss": loss * _share(total, loss.device, group), **{name: one.detach() for name, one in parts.items()}}

    def piece_losses(self, piece: LineBatch) -> dict[str, Tensor]:
        """The mean losses of some lines."""
        weights, network = self.plan.recipe.losses, self.module
        joined, steps = network(piece.states, piece.frames)
        lengths = (piece.targets > 0).sum(1)
        found = {"ctc": ctc_loss(network.ctc(joined, steps).float(), steps, piece.targets, lengths, weights.uniform)}
        if weights.ctc < 1:
            prefix, follows = teacher_forcing(piece.targets, self.symbols.symbols)
            said = network.decoder(prefix, joined, steps).float()
            found["attention"] = attention_loss(said, follows, weights.smoothing)
        return found

    # --- judging -------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, float]:
        if self.val is None:
            return {}
        heard = [0]
        if "audio" in self.senses and self.plan.recipe.noise.share:
            versions = enumerate((one.heard for one in self.val.versions), 1)
            heard += [number for number, how in versions if how.speed == 1 and not how.draw]
        rates = {number: self.error_rate(number) for number in heard}
        found = {self.primary: float(np.mean(list(rates.values())))}
        return found | ({"val_cer_clean": rates[0]} if len(rates) > 1 else {})

    @torch.no_grad()
    def error_rate(self, version: int) -> float:
        """Of characters on held-out lines, all heard in one way."""
        assert self.val is not None
        count = len(self.val)
        chosen = np.linspace(0, count - 1, min(count, JUDGED)).astype(np.int64)
        found: list[str] = []
        for rows in np.array_split(chosen, -(-len(chosen) // AT_ONCE)):
            versions = np.full(len(rows), version)
            given = {name: self.val.take(name, rows, versions if name == "audio" else None) for name in self.given}
            states = {name: values.to(self.device) for name, (values, _) in given.items()}
            frames = {name: one.to(self.device) for name, (_, one) in given.items()}
            found += [self.symbols.decode(one.symbols) for one in read_lines(self.module, states, frames, GREEDY)]
        right = [plain(self.val.texts[row], self.symbols.spelling) for row in chosen]
        return character_edits(right, found).rate

    def counts(self) -> dict[str, int]:
        return {"lines": self.items, "symbols": self.symbols.symbols}

    def cost(self, seen: int, seconds: float) -> dict[str, Any]:
        return {"pairs_seen": seen, "flops": None, "seconds": round(seconds, 2)}

    def result(self) -> SpeechRecogniser:
        return self.module


class WordObjective(Objective):
    """Single words from their video: lines of one word that is said at least twice in training."""

    recipe: ClassVar[type[Recipe]] = SpeechRecipe
    primary: ClassVar[str] = "val_words"
    unit: ClassVar[str] = "word"
    stage: ClassVar[str] = "words: "

    module: WordClassifier

    def __init__(self, train: SpokenLines, val: SpokenLines | None, symbols: Symbols) -> None:
        self.symbols = symbols
        seen = train.having(("video",))
        said = Counter(self.spelled(seen))
        self.words = sorted(word for word, count in said.items() if count > 1 and word and " " not in word)
        self.train = self.of_words(seen)
        self.targets = self.labels(self.train)
        kept = None if val is None else self.of_words(val.having(("video",)))
        self.val = kept if kept is not None and len(kept) else None

    def spelled(self, lines: SpokenLines) -> list[str]:
        """The texts as they are judged."""
        return [plain(text, self.symbols.spelling) for text in lines.texts]

    def of_words(self, lines: SpokenLines) -> SpokenLines:
        """The lines of a word that is learned."""
        return lines.where(np.isin(self.spelled(lines), self.words) if len(lines) else np.zeros(0, bool))

    def labels(self, lines: SpokenLines) -> Tensor:
        """The number of each line's word, int64 [n]."""
        number = {word: k for k, word in enumerate(self.words)}
        return torch.tensor([number[word] for word in self.spelled(lines)], dtype=torch.long)

    @property
    def items(self) -> int:
        return len(self.train)

    def fingerprint(self) -> dict[str, Any]:
        return {"train": self.train.identity(), "words": self.words}

    def build(self) -> nn.Module:
        shape = SpeechObjective(self.train, None, self.symbols, "video").shape(self.plan.recipe)
        return WordClassifier(shape, len(self.words))

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        values, frames = self.train.take("video", rows)
        return values.to(self.device), frames.to(self.device), self.targets[rows].to(self.device)

    def losses(self, batch: Any, group: ProcessGroup | None) -> dict[str, Tensor]:
        values, frames, labels = batch
        logits = self.module({"video": values}, {"video": frames})
        loss = F.cross_entropy(logits, labels, label_smoothing=self.plan.recipe.losses.smoothing)
        return {"loss": loss * _share(len(labels), loss.device, group)}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The share of words that are told."""
        if self.val is None:
            return {}
        right, labels = [], self.labels(self.val)
        for rows in np.array_split(np.arange(len(self.val)), -(-len(self.val) // AT_ONCE)):
            values, frames = self.val.take("video", rows)
            logits = self.module({"video": values.to(self.device)}, {"video": frames.to(self.device)})
            right.append(logits.argmax(1).cpu() == labels[rows])
        return {self.primary: float(torch.cat(right).float().mean())}

    def chance(self) -> dict[str, float]:
        if self.val is None:
            return {}
        most = Counter(self.spelled(self.train)).most_common(1)[0][0]
        return {self.primary: float(np.mean([word == most for word in self.spelled(self.val)]))}

    def counts(self) -> dict[str, int]:
        return {"lines": self.items, "words": len(self.words)}

    def cost(self, seen: int, seconds: float) -> dict[str, Any]:
        return {"pairs_seen": seen, "flops": None, "seconds": round(seconds, 2)}

    def result(self) -> WordClassifier:
        return self.module


def _share(count: int, device: torch.device, group: ProcessGroup | None) -> Tensor | float:
    """The share of a batch's lines that this process has."""
    if group is None:
        return 1.0
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total, group=group)
    return count / total
