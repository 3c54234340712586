"""A language model that sees: an image encoder and a language model by reference, and what was trained between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from isthmus.data.feature_pairs import SIDES
from isthmus.encoders import Encoder
from isthmus.encoders.images import to_pil
from isthmus.encoders.whole import WholePictures
from isthmus.errors import InputError, UsageError
from isthmus.files import locate, write_atomic
from isthmus.fusion import SideStates
from isthmus.fusion.language import CausalLanguage, ChatPrompts, LanguageNetwork, LanguagePlan, Prompt, load_language
from isthmus.fusion.language.causal import LanguageRecord, check_language
from isthmus.fusion.language.grids import TileGrid, squares
from isthmus.fusion.language.packing import branched, left_padded
from isthmus.fusion.sides import joined
from isthmus.models.card import card_fields
from isthmus.models.reading import listed_items, read_item
from isthmus.models.saved import (
    CONFIG,
    WEIGHTS,
    Records,
    check_encoders,
    load_encoders_of,
    read_config,
    read_weights,
    saved_seen,
    write_model,
)
from isthmus.models.seen import SeenItems

IMAGE = SIDES[0]
NEW_TOKENS = 48  # of an answer
ANSWER_TOKENS = 512  # of answers that stand behind a prompt at once
SQUARES = 32  # base images and tiles that are encoded at once
CARD = """\
---
library_name: isthmus
pipeline_tag: image-text-to-text
---
# A language model that sees, joined by isthmus {version}

A frozen image encoder and a language model, and {parameters:,} trained parameters between them: {described}. Both are
loaded from where they come from, and checked by fingerprint.

```python
import isthmus as ist
model = ist.load_model("path/to/this/folder")
model.say("cat.jpg", ["What is it?"])
```

## Image encoder
| modality | encoder | width | fingerprint | licence |
|---|---|---|---|---|
{encoders}

## Language model
`{uri}`, licence {licence}, fingerprint `{fingerprint}`. {note}

The licences of both apply to the model as a whole.

## What it is asked
```
{prompt}
```
Answers are taken greedily, up to {new} tokens.

## Training
{training}

## What it has seen
{seen}

## Compute and bytes
{ledger}
"""


class VisionLanguageModel:
    """Answers and captions in words, about pictures.

    Args:
        network: what was trained, with weights; the language model in it, or None.
        records: `{"image": [...]}`, a record of states for each layer that is read.
        language: the record of the language model. loaded: that model, where it is loaded.
        prompting: {"template", "system", "caption"} of the recipe.
        answers: of the training data, the most frequent first: what `answer` chooses from.
        encoders, lazy, summary, seen: as for `FusionModel`.
    """

    kind: ClassVar[str] = "language"
    loss: ClassVar[str] = "one"  # of its answers one is right, as of a `FusionModel`'s

    def __init__(
        self,
        network: LanguageNetwork,
        *,
        records: Records,
        language: LanguageRecord,
        prompting: Mapping[str, str],
        loaded: CausalLanguage | None = None,
        answers: Sequence[str] = (),
        encoders: dict[str, list[Encoder]] | None = None,
        lazy: bool = False,
        summary: dict[str, Any] | None = None,
        seen: SeenItems | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.records, self.language, self.prompting = records, language, dict(prompting)
        self.answers, self.encoders, self.lazy = list(answers), encoders or {}, lazy
        self.summary, self.seen = summary or {}, seen
        self.prompts = None if loaded is None else prompts_of(loaded, network.plan, self.prompting)
        for one in self.encoders.values():
            self._check(one)

    @property
    def device(self) -> torch.device:
        return next(self.network.projector.parameters()).device

    # --- pictures ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def side(self, side: str, items: Any, *, batch_size: int = 32) -> Any:
        """Pictures ("image") as tokens in front of the projector, `SideStates` of [B, T, D_k] for each layer.

        Questions stay as they are. Raises `InputError` for a picture that cannot be used.
        """
        if side != IMAGE:
            return [items] if isinstance(items, str) else list(items)
        views = self.encoders_of(side)
        listed = listed_items(views[0].modality, items)
        if not listed:
            raise UsageError("no image is given.")
        parts = []
        for start in range(0, len(listed), batch_size):
            some = (read_item(views[0].modality, item) for item in listed[start : start + batch_size])
            if self.network.plan.grids:
                parts.append(tiled_states(self.network, views, some, self.device))
            else:
                parts.append(self.prepared(views[0].states([*some], [view.layer for view in views]).values))
        return joined(parts)

    def prepared(self, values: Any) -> SideStates:
        """Raw states of the model's layers, live or from `Store.states`, as tokens."""
        values = [torch.as_tensor(one) for one in values] if isinstance(values, list) else torch.as_tensor(values)
        on = [one.to(self.device) for one in values] if isinstance(values, list) else values.to(self.device)
        return picture_states(self.network, on)

    def encoders_of(self, side: str) -> list[Encoder]:
        """The views of the image encoder, loaded if they may be. Raises `InputError` where there is none to be had."""
        if side not in self.encoders:
            if not self.lazy:
                raise InputError(f"This model was loaded without its {side} encoder: load it with load=True.")
            loaded = load_encoders_of({side: self.records[side]}, device=str(self.device))[side]
            self._check(loaded)
            self.encoders[side] = loaded
        return self.encoders[side]

    def _check(self, loaded: Sequence[Encoder]) -> None:
        check_encoders(loaded, self.records[IMAGE])
        counts = [(one.tokens or 0) - self.network.plan.prefix for one in loaded]
        if counts != self.network.plan.patches:
            raise InputError(
                f"{loaded[0].uri}: gives {counts} patches, but the model was made for {self.network.plan.patches}."
            )

    # --- words ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def say(self, pictures: Any, questions: Any, *, tokens: int = NEW_TOKENS, batch_size: int = 16) -> list[str]:
        """What the model says to questions about pictures, one picture each or one for all: greedy, up to `tokens`.

        Raises `UsageError` for an empty question or other numbers of both, `InputError` for a prompt beyond the
        context or a picture that cannot be used.
        """
        prompts, states = self._asked(pictures, questions)
        reader, found = self._prompts(), []
        stops = {"eos_token_id": reader.tokenizer.eos_token_id, "pad_token_id": reader.tokenizer.pad_token_id}
        for rows in torch.arange(len(prompts)).split(batch_size):
            packed = left_padded([prompts[k] for k in rows.tolist()], stops["pad_token_id"])
            sight = self.network.see(states.take(rows.to(self.device)).trimmed())
            ids = self.network.generate(packed.to(self.device), sight, max_new_tokens=tokens, do_sample=False, **stops)
            found += [reader.read(one) for one in ids.cpu()]
        return found

    def caption(self, pictures: Any, *, tokens: int = NEW_TOKENS, batch_size: int = 16) -> list[str]:
        """What the model says to the question that captions were trained with."""
        states = pictures if isinstance(pictures, SideStates) else self.side(IMAGE, pictures)
        asked = [self.prompting["caption"]] * len(states)
        return self.say(states, asked, tokens=tokens, batch_size=batch_size)

    @torch.no_grad()
    def answer(self, pictures: Any, questions: Any, *, batch_size: int = 16) -> np.ndarray:
        """Probabilities float32 [B, answers] of `model.answers`, by the likelihood of their tokens; sum 1.

        Raises `UsageError` for a model that was trained on no answers, and as `say`.
        """
        if not self.answers:
            raise UsageError("This model was trained on no answers to choose from: take `say`.")
        return np.exp(_normalised(self.likelihoods(pictures, questions, self.answers, batch_size=batch_size)))

    @torch.no_grad()
    def likelihoods(self, pictures: Any, questions: Any, answers: Sequence[str], *, batch_size: int = 16) -> np.ndarray:
        """The log-probability float32 [B, answers] of each answer and of its end, after each question.

        The sum over tokens, not their mean. Raises as `say`.
        """
        prompts, states = self._asked(pictures, questions)
        reader = self._prompts()
        parts = list(_parts([reader.answer_ids(one) for one in answers]))
        found = torch.zeros(len(prompts), len(answers))
        for rows in torch.arange(len(prompts)).split(batch_size):
            some = [prompts[k] for k in rows.tolist()]
            sight = self.network.see(states.take(rows.to(self.device)).trimmed())
            for first, part in parts:
                packed, (places, wanted, prompt, answer) = branched(some, part, reader.tokenizer.pad_token_id)
                once, back = places.unique(return_inverse=True)
                logits = self.network.logits(packed.to(self.device), sight, once.to(self.device))
                told = logits.log_softmax(-1).cpu()[back].gather(1, wanted[:, None])[:, 0]
                found.index_put_((rows[prompt], first + answer), told, accumulate=True)
        return found.numpy()

    def choosing(self, answers: Sequence[str]) -> VisionLanguageModel:
        """This model, or, where it knows no answers to choose from, one that chooses from these; weights are shared."""
        if self.answers:
            return self
        model = copy(self)
        model.answers = list(answers)
        return model

    def _asked(self, pictures: Any, questions: Any) -> tuple[list[Prompt], SideStates]:
        """The prompts, and the pictures of each."""
        listed = self.side(SIDES[1], questions)
        if not listed or any(isinstance(one, str) and not one.strip() for one in listed):
            raise UsageError("The question is empty: ask something about the picture.")
        states = pictures if isinstance(pictures, SideStates) else self.side(IMAGE, pictures)
        if len(states) not in (1, len(listed)):
            raise UsageError(f"{len(states)} pictures and {len(listed)} questions: give as many of both.")
        if len(states) == 1:
            states = states.take(torch.zeros(len(listed), dtype=torch.int64, device=self.device))
        turns = [[one] if isinstance(one, str) else one for one in listed]
        tokens = states.mask.sum(1).tolist()
        return [self._prompts()(one, tokens=count) for one, count in zip(turns, tokens, strict=True)], states

    def asked(self, turns: Sequence[str]) -> str:
        """The prompt of a question as it is written, `<image>` standing for the picture."""
        return self._prompts().text(turns)

    def _prompts(self) -> ChatPrompts:
        if self.prompts is None:
            raise InputError("This model was loaded without its language model: load it with load=True.")
        return self.prompts

    @property
    def decoding(self) -> dict[str, str]:
        """How answers are asked for and taken, as results tell it."""
        return {"prompt": self.asked(["{question}"]), "decoding": f"greedy, up to {NEW_TOKENS} tokens"}

    # --- saving and loading --------------------------------------------------------------------------------

    def describe(self) -> str:
        """A description in one line."""
        plan = self.network.plan
        layers = [one.get("layer") for one in self.records[IMAGE]]
        fed = "+".join(str(layers[place] if layers[place] is not None else "final") for place in plan.fed)
        grids = " and of the tiles of " + " or ".join(f"{a} × {b}" for a, b in plan.grids) if plan.grids else ""
        parts = [
            f"{plan.tokens} tokens of layer {fed}{grids}",
            f"{plan.projector} projector into {self.language['uri']}",
        ]
        parts += ["through a trained head"] * (plan.head is not None)
        parts += [f"{len(plan.before)} managers over {len(plan.managed)} layers"] * bool(plan.before)
        parts += [f"the last {plan.unfreeze} layers trained"] * bool(plan.unfreeze)
        parts += [f"adapters of rank {plan.lora}"] * bool(plan.lora)
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"VisionLanguageModel({self.describe()})"

    def save_pretrained(self, path: str | Path) -> Path:
        """Write `config.json`, `model.safetensors`, `README.md`, `seen.safetensors`, all at once.

        Encoder and language model are referenced, never copied; what was trained of the latter is in the weights.
        Raises `InputError` for a full disk or a read-only folder.
        """
        own = {"plan": self.network.plan.to_dict(), "language": self.language, "answers": self.answers}
        own |= {"prompting": self.prompting}
        weights = {name: one.detach().float().cpu().contiguous() for name, one in self.network.own_state().items()}
        shared: dict[str, Any] = {"records": self.records, "summary": self.summary, "own": own, "seen": self.seen}
        return write_model(Path(path), self.kind, weights=weights, card=self._write_card, **shared)

    save = save_pretrained

    def _write_card(self, file: Path) -> None:
        trained = list(self.network.own_state().values())
        text = CARD.format(
            **card_fields(self.records, self.summary, self.seen, trained),
            described=self.describe(),
            **{name: self.language[name] for name in ("uri", "licence", "note")},
            fingerprint=self.language["fingerprint"][:12],
            prompt=self.asked(["{question}"]).strip(),
            new=NEW_TOKENS,
        )
        write_atomic(file, lambda aside: aside.write_text(text, encoding="utf-8"))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        load: bool = True,
        encoders: dict[str, list[Encoder]] | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> VisionLanguageModel:
        """Load a saved model; arguments as for `DualEncoder.from_pretrained`. load: the language model too.

        Raises `InputError` for a file that is missing, foreign or damaged, or an encoder or a language model that is
        not the one it was trained with.
        """
        path = Path(path)
        needed = ["plan", "language", "answers", "prompting"]
        config = read_config(path, cls.kind, needed, [IMAGE])
        weights = read_weights(locate(path, WEIGHTS), config["weights"])
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        network = _empty_network(path, config)
        loaded = load_language(str(config["language"]["uri"])) if load else None
        if loaded is not None:
            check_language(loaded, config["language"])
        try:
            if loaded is not None:
                network.attach(loaded.network)
            network.load_own(weights)
        except (InputError, UsageError) as error:
            raise InputError(f"{path / WEIGHTS}: {error}") from None
        records: Records = {IMAGE: config["encoders"][IMAGE]}
        if load and encoders is None:
            encoders = load_encoders_of(records, device=device, trust_remote_code=trust_remote_code)
        return cls(
            network.to(device),
            records=records,
            language=config["language"],
            prompting=config["prompting"],
            loaded=loaded,
            answers=config["answers"],
            encoders=encoders,
            lazy=load,
            summary=config.get("summary"),
            seen=saved_seen(path, config),
        )


def prompts_of(loaded: CausalLanguage, plan: LanguagePlan, prompting: Mapping[str, str]) -> ChatPrompts:
    """ChatPrompts of a language model for pictures of a plan. Raises as `ChatPrompts`."""
    return ChatPrompts(
        loaded.tokenizer,
        plan.tokens,
        loaded.context,
        template=prompting["template"],
        system=prompting["system"],
        name=loaded.record["uri"],
    )


def picture_states(network: LanguageNetwork, values: Any) -> SideStates:
    """Raw states as the tokens of a network's plan."""
    layers = network.pictures(values)
    return SideStates(layers, torch.ones(layers[0].shape[:2], dtype=torch.bool, device=layers[0].device))


@torch.no_grad()
def tiled_states(
    network: LanguageNetwork, views: Sequence[Encoder], pictures: Iterable[Any], device: Any
) -> SideStates:
    """Pictures, base image and tiles, as the tokens of a network's plan, which are put together on a device."""
    plan, whole = network.plan, WholePictures(views[0])
    grids, given = list[TileGrid](), list[Image.Image]()
    for one in pictures:
        picture = to_pil(one)
        grids.append(plan.grid_of(*picture.size))
        given += squares(picture, grids[-1].tiles, plan.pixels)
    parts = []
    for start in range(0, len(given), SQUARES):
        inputs = whole(given[start : start + SQUARES])
        values = views[0].states(inputs, [view.layer for view in views]).values
        parts.append([one.to(device) for one in (values if isinstance(values, list) else values.unbind(1))])
    return network.pictures.tiled([torch.cat(layer) for layer in zip(*parts, strict=True)], grids)


def _empty_network(path: Path, config: dict[str, Any]) -> LanguageNetwork:
    """The network without its weights, so that sizes in the configuration allocate no memory."""
    try:
        plan = LanguagePlan.from_dict(config["plan"])
        if plan.widths != [record["width"] for record in config["encoders"][IMAGE]]:
            raise ValueError("its image encoder is not as wide as it takes")
        with torch.device("meta"):
            return LanguageNetwork(plan)
    except (UsageError, KeyError, TypeError, ValueError, OverflowError, RuntimeError, IndexError) as error:
        raise InputError(f"{path / CONFIG}: its network cannot be made ({error}).") from None


def _parts(answers: Sequence[list[int]]) -> Iterator[tuple[int, list[list[int]]]]:
    """(number of the first, answers) of so many that their tokens stand behind a prompt at once."""
    first, part = 0, list[list[int]]()
    for number, answer in enumerate(answers):
        if part and sum(map(len, part)) + len(answer) > ANSWER_TOKENS:
            yield first, part
            first, part = number, []
        part.append(answer)
    yield first, part


def _normalised(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
