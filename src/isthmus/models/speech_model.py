"""The speech model: a recogniser for each sense and for both, over frozen encoders by reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from isthmus.encoders import Encoder
from isthmus.errors import InputError, UsageError
from isthmus.files import locate, write_atomic
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
from isthmus.speech.decoding import DecodingOptions, ReadLine, read_lines
from isthmus.speech.model import SENSES, SpeechRecogniser, SpeechShape
from isthmus.speech.vocabulary import Symbols, symbols_from

BOTH = "av"
CARD = """\
---
library_name: isthmus
tags: [automatic-speech-recognition]
---
# A recogniser of speech joined by isthmus {version}

Frozen encoders, and what was trained over their states: {parts}. {parameters:,} parameters. The encoders are loaded
from where they come from, and checked by fingerprint.

```
isthmus transcribe path/to/this/folder line.wav
```

## Encoders
| modality | encoder | width | fingerprint | licence |
|---|---|---|---|---|
{encoders}

The licences of the encoders apply to the model as a whole. An encoder that was trained on transcripts, as Whisper was,
knows words already.

## Training
{training}

## What it has seen
{seen}

## Compute and bytes
{ledger}
"""
SenseStates = tuple[Tensor, Tensor]  # [n, T, width] with layers side by side, and valid frames int64 [n]


class SpeechModel:
    """What is said in recordings, in videos of faces, or in both.

    Args:
        networks: recognisers of "audio", "video", "av"; the last has the very back-ends of the others.
        records: by modality, a record of states for each layer, bottom first.
        symbols: what texts are spelled with. decoding: how lines are read unless the call says otherwise.
        encoders: the loaded views in the same order. lazy: load those that are not given when first needed.
        summary: what the training run reported. seen: what trained it.
    """

    kind: ClassVar[str] = "speech"

    def __init__(
        self,
        networks: Mapping[str, SpeechRecogniser],
        *,
        records: Records,
        symbols: Symbols,
        decoding: DecodingOptions | None = None,
        encoders: dict[str, list[Encoder]] | None = None,
        lazy: bool = False,
        summary: dict[str, Any] | None = None,
        seen: SeenItems | None = None,
    ) -> None:
        self.networks = {name: one.eval().requires_grad_(False) for name, one in networks.items()}
        self.records, self.symbols, self.decoding = records, symbols, decoding or DecodingOptions()
        self.encoders, self.lazy = encoders or {}, lazy
        self.summary, self.seen = summary or {}, seen
        for sense, loaded in self.encoders.items():
            check_encoders(loaded, self.records[sense])

    @property
    def device(self) -> torch.device:
        return next(next(iter(self.networks.values())).parameters()).device

    @property
    def steps_hz(self) -> float:
        """Steps a second of what it reads."""
        return next(iter(self.networks.values())).shape.steps_hz

    def with_encoders(self, **encoders: Sequence[Encoder]) -> SpeechModel:
        """This model with these loaded views, `audio=` and `video=`, one for each layer; weights are shared.

        Raises `InputError` for encoders other than those it was trained on.
        """
        for sense, loaded in encoders.items():
            check_encoders(loaded, self.records[sense])
        model = copy(self)
        model.encoders = self.encoders | {sense: list(loaded) for sense, loaded in encoders.items()}
        return model

    # --- from items to text --------------------------------------------------------------------------------

    @torch.no_grad()
    def states(self, sense: str, items: Any) -> SenseStates:
        """SenseStates of recordings or videos, live from the encoder: paths, encoded bytes, or what the encoder takes.

        Raises `InputError` for an item that cannot be used.
        """
        views = self.encoders_of(sense)
        read = [read_item(sense, item) for item in listed_items(sense, items)]
        found = views[0].states(read, [view.layer for view in views])
        if isinstance(found.values, list) or isinstance(found.mask, list):
            raise UsageError(f"{views[0].uri}: its layers are not alike, so they cannot stand side by side.")
        return found.values.float().transpose(1, 2).flatten(2), found.mask.sum(1)

    def read(self, states: Mapping[str, SenseStates], senses: str | None = None, **decoding: Any) -> list[ReadLine]:
        """What is said in some lines. states: by sense, `states` of these lines. senses: which recogniser reads them;
        default: the one of all that is given. decoding: in place of the model's own `DecodingOptions`.

        Raises `UsageError` for a recogniser that the model does not have.
        """
        chosen = senses or (BOTH if len(states) == len(SENSES) and BOTH in self.networks else next(iter(states)))
        if chosen not in self.networks:
            raise UsageError(f"this model reads {', '.join(self.networks)}, not {chosen}.")
        network = self.networks[chosen]
        used = {name: one for name, one in states.items() if name in network.back_ends}
        values = {name: one[0].to(self.device) for name, one in used.items()}
        frames = {name: one[1].to(self.device) for name, one in used.items()}
        options = DecodingOptions.of({**vars(self.decoding), **decoding}, "this model")
        return read_lines(network, values, frames, options)

    def texts(self, states: Mapping[str, SenseStates], senses: str | None = None, **decoding: Any) -> list[str]:
        """The text of `read`."""
        return [self.symbols.decode(one.symbols) for one in self.read(states, senses, **decoding)]

    def encoders_of(self, sense: str) -> list[Encoder]:
        """The views of a sense, loaded if they may be. Raises `InputError` where there is none to be had."""
        if sense not in self.records:
            raise UsageError(f"this model has no {sense}: it was trained on {' and '.join(self.records)}.")
        if sense not in self.encoders:
            if not self.lazy:
                raise InputError(f"This model was loaded without its {sense} encoder: load it with load=True.")
            loaded = load_encoders_of({sense: self.records[sense]}, device=str(self.device))[sense]
            check_encoders(loaded, self.records[sense])
            self.encoders[sense] = loaded
        return self.encoders[sense]

    # --- saving and loading --------------------------------------------------------------------------------

    def describe(self) -> str:
        """A description in one line."""
        shape = next(reversed(self.networks.values())).shape
        joined = f", joined by {shape.join}" if BOTH in self.networks else ""
        return (
            f"reads {', '.join(self.networks)}{joined}; {shape.depth} × {shape.width}; {self.symbols.symbols} symbols"
        )

    def __repr__(self) -> str:
        return f"SpeechModel({self.describe()})"

    def save_pretrained(self, path: str | Path) -> Path:
        """Write `config.json`, `model.safetensors`, `README.md`, `seen.safetensors`, all at once.

        Back-ends that the recogniser of both senses has inherited are written once. Raises `InputError` for a full disk
        or a read-only folder.
        """
        shapes = {name: one.shape.to_dict() for name, one in self.networks.items()}
        own = {"networks": shapes, "symbols": self.symbols.to_dict(), "decoding": vars(self.decoding)}
        shared: dict[str, Any] = {"records": self.records, "summary": self.summary, "own": own, "seen": self.seen}
        weights = {name: tensor.detach().cpu() for name, tensor in self._own_weights().items()}
        return write_model(Path(path), self.kind, weights=weights, card=self._write_card, **shared)

    save = save_pretrained

    def _own_weights(self) -> dict[str, Tensor]:
        found = {f"{name}.{key}": one for name, net in self.networks.items() for key, one in net.state_dict().items()}
        for twin, source in _inherited(found, self.networks).items():
            if torch.equal(found[twin], found[source]):
                del found[twin]
        return found

    def _write_card(self, file: Path) -> None:
        parameters = [one for network in self.networks.values() for one in network.parameters()]
        text = CARD.format(
            **card_fields(self.records, self.summary, self.seen, parameters),
            parts=self.describe(),
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
    ) -> SpeechModel:
        """Load a saved model; arguments as for `DualEncoder.from_pretrained`, but that an encoder is loaded when it is
        first needed.

        Raises `InputError` for a file that is missing, foreign or damaged, or an encoder that is not the one it was
        trained on.
        """
        path = Path(path)
        config = read_config(path, cls.kind, ["networks", "symbols", "decoding"], ())
        networks, symbols, decoding = _empty(path, config)
        weights = read_weights(locate(path, WEIGHTS), config["weights"])
        names = {f"{name}.{key}" for name, network in networks.items() for key in network.state_dict()}
        for twin, source in _inherited(names, networks).items():
            weights.setdefault(twin, weights.get(source, torch.empty(0)))
        for name, network in networks.items():
            own = {key.removeprefix(f"{name}."): one for key, one in weights.items() if key.startswith(f"{name}.")}
            try:
                network.load_state_dict(own, strict=True, assign=True)
            except RuntimeError as error:
                raise InputError(f"{path / WEIGHTS}: does not fit config.json: {error}") from None
            network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        records: Records = {sense: config["encoders"][sense] for sense in SENSES if sense in config["encoders"]}
        if load and encoders is None and trust_remote_code:  # the permission is for this call
            encoders = load_encoders_of(records, device=device, trust_remote_code=True)
        return cls(
            networks,
            records=records,
            symbols=symbols,
            decoding=decoding,
            encoders=encoders,
            lazy=load,
            summary=config.get("summary"),
            seen=saved_seen(path, config),
        )


def _inherited(names: Any, networks: Mapping[str, Any]) -> dict[str, str]:
    """Tensors of the back-ends of both senses, with the same of a single sense's recogniser."""
    found: dict[str, str] = {}
    for sense in SENSES:
        prefix = f"{BOTH}.back_ends.{sense}."
        if sense in networks:
            found |= {name: sense + name.removeprefix(BOTH) for name in names if name.startswith(prefix)}
    return found


def _empty(path: Path, config: dict[str, Any]) -> tuple[dict[str, SpeechRecogniser], Symbols, DecodingOptions]:
    """The recognisers without weights, so that sizes in the configuration allocate no memory."""
    try:
        symbols, decoding = symbols_from(config["symbols"]), DecodingOptions.of(config["decoding"], CONFIG)
        if (
            not isinstance(config["networks"], dict)
            or not config["networks"]
            or config["networks"].keys() - {*SENSES, BOTH}
        ):
            raise ValueError("no recognisers")
        shapes = {name: SpeechShape.from_dict(told) for name, told in config["networks"].items()}
        for shape in shapes.values():
            for sense, (width, _) in shape.states.items():
                if width != sum(record["width"] for record in config["encoders"][sense]):
                    raise ValueError(f"its {sense} states are of other widths than its encoders'")
            if shape.symbols != symbols.symbols:
                raise ValueError("its heads are of other symbols")
        with torch.device("meta"):
            return {name: SpeechRecogniser(shape) for name, shape in shapes.items()}, symbols, decoding
    except (UsageError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise InputError(f"{path / CONFIG}: its recogniser cannot be made ({error}).") from None
