"""The base class of encoders: a frozen network of one modality that gives pooled features, tokens and all layers."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from isthmus.data.budget import PICTURES, USUAL_SIDE, resized_bytes, too_much
from isthmus.data.encoder_record import EncoderRecord
from isthmus.data.images import BadImage
from isthmus.data.ragged import Ragged
from isthmus.encoders.fingerprint import digest, view_fingerprint
from isthmus.encoders.modality import MODALITIES, Modality, ModalitySpec, spec_of
from isthmus.encoders.pooling import pool_tokens
from isthmus.encoders.portable import Portable
from isthmus.encoders.states import States
from isthmus.encoders.uri import COMMON, OPTIONS, STATES, EncoderURI, grid_side, parse_pool
from isthmus.errors import InputError, UsageError

_said: set[str] = set()  # earlier fingerprints that were warned about
Inputs = dict[str, Any]


@dataclass
class Output:
    """One forward pass over N items.

    pooled: [N, D], as the encoder's own pipeline ends; None if it ends in the encoder's default pooling.
    tokens: [N, T, D] after the final norm, or None where the source does not expose them.
    mask:   [N, T] bool, True where a token is real; None means all are.
    layers: [N, T_k, D_k] each; index 0 is the embedding (or stem) output, then each block's output
            before the final norm. Empty unless requested.
    prefix: how many leading tokens are no patches of an image (CLS and registers); 0 for texts and CNNs.
    """

    pooled: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    layers: Sequence[Tensor] = ()
    prefix: int = 0


class Encoder:
    """A frozen encoder with one layer and one pooling.

    A source subclasses it and gives `preprocess` and `forward`. Several views of one network share it
    (`at`), and `encode_views` fills them all from one forward pass.

    network: the frozen module: eval mode, no gradients. No method changes a parameter.
    ingredients: everything that determines the features except layer and pooling, as JSON: digests of the weights and
        the tokenizer, the preprocessing, the prompt, the length limit. `backbone_key` is its digest.
    pools: the poolings that exist for its tokens.
    default_pool: used when a layer is chosen without a pooling, and for the whole encoder when `forward` leaves
        `Output.pooled` empty.
    rate_hz: tokens per second if tokens follow time; sources of such encoders set it.
    earlier: the ingredients by an earlier rule that included less, if that differs.
    """

    licence: str | None = None
    revision: str | None = None
    rate_hz: float | None = None
    side = USUAL_SIDE  # pixels of a picture as the network sees it, if it were a square
    pads = False  # whether its preprocessing may make a picture a square first
    cls_last = False  # whether the token that represents a whole text is its last

    def __init__(
        self,
        uri: EncoderURI,
        modality: Modality,
        network: nn.Module,
        ingredients: dict[str, Any],
        *,
        pools: Sequence[str],
        default_pool: str = "mean",
        device: str | torch.device | None = None,
        earlier: dict[str, Any] | None = None,
    ) -> None:
        _check_options(uri, modality)
        self.uri, self.modality = uri.backbone(), modality
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype: torch.dtype = getattr(torch, uri.dtype or "float32")
        self.network = network.eval().requires_grad_(False).to(self.device, self.dtype)
        self.ingredients = {"modality": modality, **ingredients}
        self.backbone_key = digest(self.ingredients)
        self._earlier_key = digest({"modality": modality, **(ingredients if earlier is None else earlier)})
        self.pools, self.default_pool = (*sorted(pools), *((*self.spec.many, STATES) if pools else ())), default_pool
        self._measure()
        self.layer: int | None = None
        self.pool = self._own_pool

    @property
    def spec(self) -> ModalitySpec:
        """The specification of the encoder's modality."""
        return spec_of(self.modality)

    def prepare(self, items: Sequence[Any]) -> Inputs:
        """`preprocess`, within the budget that all pictures of the process share.

        Raises `BadImage` for one that would become too much in this encoder (`isthmus.data.budget.too_much`).
        """
        items = self.spec.read(items)
        pictures = [item for item in items if isinstance(item, Image.Image)]
        for picture in pictures:
            if reason := too_much(picture, self.side, self.pads):
                raise BadImage(reason)
        with PICTURES.taking(sum(resized_bytes(picture, self.side, self.pads) for picture in pictures)):
            return self.preprocess(items)

    def preprocess(self, items: Sequence[Any]) -> Inputs:
        """Images (PIL, or tensors [3, H, W]) or strings to the tensors of a batch, on the CPU.

        Deterministic, and safe to call from several threads at once.
        """
        raise NotImplementedError

    def forward(self, inputs: Inputs, layers: bool) -> Output:
        """One forward pass on `self.device`; `Output.layers` is filled only if `layers`."""
        raise NotImplementedError

    def run(
        self, inputs: Inputs, layers: bool = False, autocast: torch.dtype | None = None, *, gradients: bool = False
    ) -> Output:
        """`forward` without gradients, in eval mode, on inputs moved to the encoder's device.

        Under `no_grad`: tensors of `inference_mode` could not be used for training on top.

        autocast: a faster type for the matrix products (`torch.autocast`); None computes in the network's own.
        gradients: keep them where they are enabled, for parameters that a caller has unfrozen.
        """
        self.network.eval()
        lower = torch.autocast(self.device.type, autocast, enabled=autocast is not None)
        with torch.set_grad_enabled(gradients and torch.is_grad_enabled()), lower:
            return self.forward({key: self._place(value) for key, value in inputs.items()}, layers)

    def encode(self, items: Sequence[Any], batch_size: int = 32) -> np.ndarray:
        """Features of this view, float32 [N, width]. Texts of similar length share a batch.

        `UsageError` for pool=states, which gives sequences: use `states`.
        """
        if self.pool == STATES:
            raise UsageError(f"{self.uri}: gives sequences, not one row of features for each item: use `states`.")
        features = np.empty((len(items), self.width), dtype=np.float32)
        order = list(range(len(items)))
        if self.spec.length is not None:
            lengths = [self.spec.length(item) for item in self.spec.read(items)]
            order.sort(key=lengths.__getitem__)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            features[rows] = encode_views([self], self.prepare([items[i] for i in rows]))[0]
        return features

    def states(
        self,
        items: Sequence[Any] | Inputs,
        layers: Sequence[int | None] | Literal["all"] = "all",
        autocast: torch.dtype | None = None,
        *,
        gradients: bool = False,
    ) -> States:
        """Hidden states of one batch at several layers, from a single forward pass; see `States`.

        items: images or strings, or the inputs that `preprocess` made of them.
        layers: numbers as in a URI (0 = embedding or stem, k = output of block k, negative from the end; None = the
            tokens after the final norm), in the order wanted; "all": from 0 to `depth`.
        autocast, gradients: see `run`.
        Raises `UsageError` for a layer that does not exist, and for an encoder that does not expose the requested
        states.
        """
        chosen = range(max(0, self.depth) + 1) if layers == "all" else list(layers)
        if not chosen or (None in chosen and not self._token_width):
            raise UsageError(f"{self.uri}: {'gives no tokens' if chosen else 'name at least one layer'}.")
        places = [layer if layer is None else self._resolve_layer(layer) for layer in chosen]
        inputs = dict(items) if isinstance(items, Mapping) else self.prepare(items)
        deep = any(place is not None for place in places)
        output = self.run(inputs, layers=deep, autocast=autocast, gradients=gradients)
        found = [output.tokens if place is None else output.layers[place] for place in places]
        return States.of(found, output.mask, rate_hz=self.rate_hz, prefix=output.prefix)  # type: ignore[arg-type]

    def at(self, layer: int | None = None, pool: str | None = None) -> Encoder:
        """Another view of the same network. `UsageError` for a layer or pooling that does not exist."""
        view = copy.copy(self)
        view.uri = replace(self.uri, layer=layer, pool=pool)
        view.layer = None if layer is None else self._resolve_layer(layer)
        view.pool = pool or (self._own_pool if layer is None else self.default_pool)
        for part in parse_pool(view.pool) if view.pool else ():
            if ("grid" if grid_side(part) else part) not in self.pools:
                exists = f"has {', '.join(self.pools)}" if self.pools else "gives pooled features only"
                raise UsageError(f"{self.uri}: no pooling {part!r}: this {self.modality} encoder {exists}.")
            view._count(part)
        return view

    def expand(self, pool: str | None = None, layers: Sequence[int] | Literal["*"] = "*") -> list[Encoder]:
        """One view for each of `layers`, "*" meaning 0 to `depth`; as `layer=*` and `layer=4,8` in a URI."""
        if self.depth < 0:
            raise UsageError(f"{self.uri}: this encoder does not expose its layers.")
        chosen = range(self.depth + 1) if layers == "*" else dict.fromkeys(map(self._resolve_layer, layers))
        return [self.at(layer, pool) for layer in chosen]

    @property
    def depth(self) -> int:
        """Number of blocks (stages of a CNN): layers run from 0 (embedding, stem) to depth. -1: no layers."""
        return len(self._layer_widths) - 1

    @property
    def parts(self) -> list[int]:
        """Widths of the concatenated parts: `cls+mean` of a 384-wide ViT gives [384, 384]."""
        if self.pool is None:
            return [self._pooled_width or 0]
        width = self._token_width if self.layer is None else self._layer_widths[self.layer]
        return [width] * sum(self._count(part) for part in parse_pool(self.pool))

    def _count(self, part: str) -> int:
        """The number of vectors a pooling gives; `UsageError` for fewer tokens, or an unknown number."""
        if part == "tokens":
            if not self._length:
                raise UsageError(f"{self.uri}: pool=tokens needs max_tokens=: this encoder takes texts of any length.")
            return self._length
        if part == STATES:
            return 1
        patches = self._patches[-1 if self.layer is None else self.layer]
        if part == "patches":
            return patches
        if grid_side(part) ** 2 > patches:
            raise UsageError(f"{self.uri}: {part} needs more tokens than the {patches} patches there are.")
        return max(1, grid_side(part) ** 2)

    @property
    def tokens(self) -> int | None:
        """Tokens of an item at this view's layer; None if their number differs between items."""
        return None if self.spec.padded else self._leading + self._patches[-1 if self.layer is None else self.layer]

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of an item at this view's layer; None where there is no limit."""
        return self._length if self.tokens is None else self.tokens

    @property
    def _length(self) -> int | None:
        """The most tokens of a text."""
        return self.ingredients.get("max_tokens")

    @property
    def width(self) -> int:
        """D of the features of this view."""
        return sum(self.parts)

    @property
    def fingerprint(self) -> str:
        """64 hex digits that differ when anything that decides the features differs."""
        return view_fingerprint(self.backbone_key, self.layer, self.pool)

    def recognise(self, fingerprint: str) -> bool:
        """Whether the `fingerprint` in a store or a model is that of this encoder.

        A fingerprint by the earlier rule is accepted too, with one warning. This view then takes that fingerprint, so
        that earlier and new features belong together.
        """
        if fingerprint == self.fingerprint:
            return True
        if fingerprint != view_fingerprint(self._earlier_key, self.layer, self.pool):
            return False
        self.backbone_key = self._earlier_key
        if fingerprint not in _said:
            _said.add(fingerprint)
            warnings.warn(
                f"{self.uri}: fingerprint {fingerprint[:12]} is of an earlier version, which did not include all files"
                " of this encoder. It is accepted, but the other files may have changed.",
                RuntimeWarning,
                stacklevel=3,
            )
        return True

    def record(self) -> EncoderRecord:
        """The record of this encoder in a store or a model, as JSON."""
        hidden = ("weights", "config", "modality")
        found: EncoderRecord = {
            "modality": self.modality,
            "uri": str(self.uri),
            "revision": self.revision,
            "fingerprint": self.fingerprint,
            "backbone_key": self.backbone_key,
            "layer": self.layer,
            "pool": self.pool,
            "width": self.width,
            "parts": self.parts,
            "licence": self.licence,
            "compute_dtype": str(self.dtype).removeprefix("torch."),
            "preprocessing": {key: value for key, value in self.ingredients.items() if key not in hidden},
        }
        return found | {"rate_hz": self.rate_hz, "prefix": self._leading} if self.pool == STATES else found

    def portable(self) -> Portable:
        """The network for programs without isthmus; a source whose networks can be shipped overrides it.

        Raises `UsageError`, which says why, for one that cannot.
        """
        raise UsageError(
            f"{self.uri}: {self.uri.source} encoders run with their own library alone, which is not copied."
        )

    def view(self) -> dict[str, Any]:
        """How this view makes features of the network's output, as `Portable.network` is read."""
        return {"layer": self.layer, "pool": self._own_terms(), "prefix": self._leading, "length": self._length}

    def __repr__(self) -> str:
        return f"<Encoder {self.uri} {self.modality} width={self.width} fingerprint={self.fingerprint[:12]}>"

    def _measure(self) -> None:
        """Learn the widths from one small forward pass, so that no source has to state them."""
        try:
            inputs = self.preprocess([self.spec.probe()])
            output = self.run(inputs, layers=True)
            pair = self.run(self.preprocess([self.spec.probe(), self.spec.probe()]), layers=True)
        except (RuntimeError, AssertionError, ValueError) as error:
            if self.uri.size is None:
                raise
            raise UsageError(f"{self.uri}: it cannot take images of this size ({error}).") from error
        _check_rows(pair, self.uri, self.modality)
        if not _equal(output, pair, rounding(self.dtype)):
            raise InputError(
                f"{self.uri}: gives other features each time it encodes the same {self.modality}, so they cannot"
                " be compared: its network or its preprocessing is random."
            )
        values = [value.numel() for value in inputs.values() if isinstance(value, Tensor) and value.is_floating_point()]
        self.side = max(self.side, math.ceil(math.sqrt(max(values, default=0) / 3)))
        self._layer_widths = [layer.shape[-1] for layer in output.layers]
        self._token_width = 0 if output.tokens is None else output.tokens.shape[-1]
        self._pooled_width = None if output.pooled is None else output.pooled.shape[-1]
        self._leading = output.prefix
        # Widths of each layer, then of the tokens after the final norm.
        self._patches = [tokens.shape[1] - output.prefix for tokens in output.layers]
        self._patches += [0 if output.tokens is None else output.tokens.shape[1] - output.prefix]

    @property
    def _own_pool(self) -> str | None:
        """The pooling of the encoder's own pipeline; None if it ends in something else."""
        return self.default_pool if self._pooled_width is None else None

    def _resolve_layer(self, layer: int) -> int:
        if self.depth < 0:
            raise UsageError(f"{self.uri}: this encoder does not expose its layers.")
        if not -self.depth - 1 <= layer <= self.depth:
            raise UsageError(f"{self.uri}: no layer {layer}. Layers run from 0 (embedding) to {self.depth}.")
        return layer % (self.depth + 1)

    def _pooled(self, output: Output) -> Tensor:
        """This view's features, float32 [N, width]."""
        if self.pool is None:
            assert output.pooled is not None
            return output.pooled.float()
        tokens = output.tokens if self.layer is None else output.layers[self.layer]
        assert tokens is not None
        return pool_tokens(tokens, str(self._own_terms()), output.mask, output.prefix, self._length)

    def _own_terms(self) -> str | None:
        """This view's pooling, with the name of the place where the token that stands for the whole is."""
        return re.sub(r"\bcls\b", "last", self.pool) if self.cls_last and self.pool else self.pool

    def _features(self, output: Output) -> np.ndarray | Ragged:
        """This view's rows of features, or its sequences of states, both in float32."""
        if self.pool != STATES:
            return self._pooled(output).cpu().numpy()
        tokens = output.tokens if self.layer is None else output.layers[self.layer]
        assert tokens is not None
        mask = None if output.mask is None else output.mask.cpu().numpy()
        return Ragged.of(tokens.float().cpu().numpy(), mask, self.rate_hz)

    def _place(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self.device, self.dtype if value.is_floating_point() else None)


def rounding(dtype: torch.dtype) -> float:
    """The greatest difference between equal features, relative to the largest: devices add in any order."""
    return 1e-2 if dtype == torch.float32 else 5e-2


def refuse_what_reads_padding(encoder: Encoder, what: str) -> None:
    """`InputError` for a text encoder that ignores its mask, so that a text's features depend on its batch.

    what: names its network in the message.
    """
    alone, beside = encoder.encode(["two dogs"])[0], encoder.encode(["two dogs", "two dogs " * 3])[0]
    if np.abs(alone - beside).max() > rounding(encoder.dtype) * np.abs(alone).max():
        why = f"its network, {what}, reads the padding behind it."
        raise InputError(f"{encoder.uri}: gives a text other features beside a longer one: {why}")


def _check_rows(pair: Output, uri: EncoderURI, modality: Modality) -> None:
    """`InputError` unless two items give two rows; otherwise features would be assigned to the wrong items."""
    given = [x for x in (pair.pooled, pair.tokens, *pair.layers) if x is not None]
    if any(len(x) != 2 for x in given):
        raise InputError(f"{uri}: its network gives {len(given[0])} row for 2 {modality}s: it merges a batch.")


def _equal(one: Output, pair: Output, tolerance: float) -> bool:
    """Whether the passes over one item, and over the same item twice, gave equal features."""
    pairs = [(one.pooled, pair.pooled), (one.tokens, pair.tokens), *zip(one.layers, pair.layers, strict=True)]
    given = [(x.float(), y.float()) for x, y in pairs if x is not None and y is not None]
    return all(
        x.shape[1:] == y.shape[1:] and (x - y).abs().max() <= tolerance * x.abs().max()  # one row beside both
        for x, y in given
        if x.numel()
    )


def encode_views(encoders: Sequence[Encoder], inputs: Inputs, autocast: torch.dtype | None = None) -> list[Any]:
    """Features of several views of one network, float32 [N, width_i] each, from a single forward pass.

    For views with pool=states: `Ragged`, N sequences.

    inputs: what `preprocess` of any of them gave. autocast: see `Encoder.run`.
    Views of different networks are a `UsageError`.
    """
    first = encoders[0]
    for other in encoders[1:]:
        if other.network is not first.network and other.backbone_key != first.backbone_key:
            raise UsageError(f"{first.uri} and {other.uri} are different networks: encode them one by one.")
    output = first.run(inputs, any(view.layer is not None for view in encoders), autocast)
    return [view._features(output) for view in encoders]


def _check_options(uri: EncoderURI, modality: Modality) -> None:
    """`UsageError` for an option of encoders of another modality."""
    known = (*COMMON, *spec_of(modality).options)
    for option in OPTIONS:
        if option not in known and getattr(uri, option) is not None:
            owners = " and ".join(name for name in MODALITIES.names() if option in spec_of(name).options)
            raise UsageError(f"{uri}: {option} is an option of {owners} encoders, not of {modality} encoders.")


@contextmanager
def block_outputs(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the input of the first block and the output of each while the network runs.

    Libraries differ in whether the last hidden state is normalised; tensors between blocks never are.
    """
    states: list[Tensor] = []

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(_module: nn.Module, _args: tuple[Any, ...], result: Any) -> None:
        states.append(result if isinstance(result, Tensor) else result[0])

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks[:1]]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def find_blocks(network: nn.Module, depth: int | None) -> list[nn.Module]:
    """The list of the `depth` equal blocks of a transformer; empty for other networks."""
    lists = [m for m in network.modules() if isinstance(m, nn.ModuleList) and 0 < len(m) == depth]
    return list(max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()), default=()))


def flatten_map(state: Tensor) -> Tensor:
    """A CNN's feature map [N, C, H, W] as tokens [N, H·W, C]; tokens are left as they are."""
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state
