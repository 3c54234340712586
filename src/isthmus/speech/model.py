"""A recogniser of speech from frozen states of an audio and a visual encoder, and what classifies single words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn

from isthmus.errors import UsageError, did_you_mean
from isthmus.speech.alignment import align, common_steps, stride_of
from isthmus.speech.blocks import LayersMix, LayersNorm, TemporalBackEnd
from isthmus.speech.heads import AttentionDecoder, CTCHead
from isthmus.speech.join import JOINS

Senses = Literal["audio", "video", "av"]
SENSES = ("audio", "video")  # modalities, in this order
FRONTS = ("plain", "norm", "saum")


@dataclass(frozen=True)
class SpeechShape:
    """What a recogniser is made of.

    audio, video: (width, rate in Hz) of the states of each encoder; None where there is none. steps_hz: steps a second,
    of which both rates are whole multiples. symbols: of the vocabulary, blank first, the symbol of the ends last.
    least: the fewest steps of a line. layers: of the audio encoder, side by side in its width. front: what states go
    through first: "plain", nothing; "norm", each layer normalised; "saum", also mixed by learned weights.
    """

    symbols: int
    audio: tuple[int, float] | None = None
    video: tuple[int, float] | None = None
    steps_hz: float = 25.0
    width: int = 512
    depth: int = 6
    heads: int = 8
    dropout: float = 0.1
    join: str = "gated"
    least: int = 0
    layers: int = 1
    front: str = "plain"
    drop: float = 0.2
    mute: float = 0.2
    small: bool = False

    @property
    def senses(self) -> Senses:
        """What it hears and sees."""
        if self.audio is None and self.video is None:
            raise UsageError("a recogniser needs states of an audio or of a visual encoder.")
        return "av" if self.audio and self.video else "audio" if self.audio else "video"

    @property
    def states(self) -> dict[str, tuple[int, float]]:
        """(width, rate) by sense."""
        told = {"audio": self.audio, "video": self.video}
        return {name: one for name, one in told.items() if one is not None}

    def back_end(self, sense: str) -> TemporalBackEnd:
        """The back-end of a sense."""
        inputs, rate = self.states[sense]
        layers = self.layers if sense == "audio" else 1
        front: nn.Module | None = None if self.front == "plain" else LayersNorm(layers)
        if self.front == "saum" and layers > 1:
            inputs //= layers
            front = LayersMix(layers, inputs)
        stride = stride_of(rate, self.steps_hz)
        size = (self.depth, self.heads, self.dropout)
        return TemporalBackEnd(inputs, self.width, stride, *size, front=front, early=self.small)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> SpeechShape:
        """What `to_dict` gave. Raises `ValueError` or `TypeError` for anything else."""
        if not isinstance(values, dict) or values.keys() - {one.name for one in fields(cls)}:
            raise ValueError("no shape of a recogniser")
        pairs = {name: tuple(values[name]) for name in SENSES if values.get(name) is not None}
        return cls(**{**values, **pairs})


class SpeechRecogniser(nn.Module):
    """Back-ends for each encoder's states, their join, and two heads.

    forward(states {"audio": [N, L, D], …}, frames {"audio": [N], …}) → (joined [N, T, width], steps [N]); `ctc` and
    `decoder` read these. States without video are taken by a model of both: the join then has none.
    """

    def __init__(self, shape: SpeechShape) -> None:
        super().__init__()
        for kind, name, known in (("join", shape.join, JOINS), ("front", shape.front, FRONTS)):
            if name not in known:
                raise UsageError(f"no {kind} {name!r}." + did_you_mean(name, known))
        self.shape, senses = shape, shape.senses
        size = (shape.width, shape.depth, shape.heads, shape.dropout)
        self.strides = {name: stride_of(rate, shape.steps_hz) for name, (_, rate) in shape.states.items()}
        self.back_ends = nn.ModuleDict({name: shape.back_end(name) for name in shape.states})
        self.join = JOINS[shape.join](*size, shape.drop, shape.mute, shape.small) if senses == "av" else None
        self.ctc = CTCHead(shape.width, shape.symbols, shape.small)
        self.decoder = AttentionDecoder(shape.width, shape.symbols, *size[1:], shape.small)

    def forward(self, states: Mapping[str, Tensor], frames: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        given = {name: frames[name] for name in self.back_ends if name in states}
        if not given or ("audio" in self.back_ends and "audio" not in given):
            raise UsageError(f"states of {' and '.join(self.back_ends)} are needed, not of {list(states)}.")
        steps = common_steps(given, self.strides, self.shape.least)
        found = {
            name: self.back_ends[name](align(states[name], frames[name], self.strides[name], steps), steps)
            for name in given
        }
        if self.join is None:
            return next(iter(found.values())), steps
        return self.join(found["audio"], found.get("video"), steps), steps


class WordClassifier(nn.Module):
    """The visual back-end under a classifier of single words: what it is trained on before whole lines.

    forward(states {"video": [N, L, D]}, frames {"video": [N]}) → logits [N, words] of the mean over steps.
    """

    def __init__(self, shape: SpeechShape, words: int) -> None:
        super().__init__()
        self.stride = stride_of(shape.states["video"][1], shape.steps_hz)
        self.back_ends = nn.ModuleDict({"video": shape.back_end("video")})
        self.head = nn.Linear(shape.width, words)

    def forward(self, states: Mapping[str, Tensor], frames: Mapping[str, Tensor]) -> Tensor:
        steps = common_steps({"video": frames["video"]}, {"video": self.stride})
        found = self.back_ends["video"](align(states["video"], frames["video"], self.stride, steps), steps)
        return self.head(found.sum(1) / steps[:, None])
