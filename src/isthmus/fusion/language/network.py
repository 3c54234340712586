"""The network of a language model that sees: projector and managers around a causal language model of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from isthmus.errors import InputError, UsageError
from isthmus.fusion.language.causal import decoder_layers
from isthmus.fusion.language.managers import LanguageManagers
from isthmus.fusion.language.packing import Packed
from isthmus.fusion.language.pictures import PictureTokens
from isthmus.fusion.language.plan import LanguagePlan
from isthmus.fusion.sides import SideStates
from isthmus.fusion.two_tower import InputNorm

LANGUAGE = "language."  # prefix of the language model's own parameters


@dataclass(frozen=True)
class Sight:
    """Pictures as the language model takes them. tokens: [B, T, H]. managed: of the managers' layers, [B, N, T, H].

    mask: which of the tokens are there, bool [B, T]; None: all.
    """

    tokens: Tensor
    managed: Tensor | None
    mask: Tensor | None = None

    def take(self, pictures: Tensor) -> Sight:
        """Those of these pictures, int64 [n]."""
        held = (self.managed, self.mask)
        return Sight(self.tokens[pictures], *(None if one is None else one[pictures] for one in held))

    def there(self, values: Tensor) -> Tensor:
        """Of values [B, T, H], those of all tokens that are there, one after the other."""
        return values.flatten(0, 1) if self.mask is None else values[self.mask]


class LanguageNetwork(nn.Module):
    """See the module. language: a causal LM of transformers, frozen; None until `attach`.

    Of it, `plan.unfreeze` last layers are trainable, and adapters of rank `plan.lora`.
    """

    def __init__(self, plan: LanguagePlan, language: nn.Module | None = None) -> None:
        super().__init__()
        self.plan = plan
        widths, hidden = plan.token_widths, plan.hidden
        self.pictures = PictureTokens(plan)
        self.norms = nn.ModuleList(InputNorm(width, plan.norm) for width in widths)
        self.projector = _projector(sum(widths[place] for place in plan.fed), hidden, plan.projector)
        self.managers: LanguageManagers | None = None
        self.manager_projectors = nn.ModuleList()
        if plan.before:
            fed = plan.managed.index(plan.fed[0]) if plan.shared and plan.fed[0] in plan.managed else None
            self.managers = LanguageManagers(len(plan.managed), hidden, plan.before, fed=fed, jitter=plan.jitter)
            if not plan.shared:
                self.manager_projectors.extend(nn.Linear(widths[place], hidden) for place in plan.managed)
        self.newline = nn.Parameter(torch.randn(hidden) / hidden**0.5) if plan.grids else None
        self.language: Any = None
        if language is not None:
            self.attach(language)

    def attach(self, language: nn.Module) -> None:
        """Take the language model in, with adapters and unfrozen layers as the plan has them."""
        layers = decoder_layers(language)
        if any(place >= len(layers) for place in self.plan.before) or self.plan.unfreeze > len(layers):
            raise UsageError(f"the language model has {len(layers)} layers, fewer than the recipe asks for.")
        language.requires_grad_(False)
        for layer in layers[len(layers) - self.plan.unfreeze :]:
            layer.requires_grad_(True)
        if self.plan.lora:
            _add_adapters(language, self.plan.lora)
        self.language = language

    @property
    def trained_language(self) -> set[str]:
        """Names of the language model's parameters that the plan lets be trained: adapters and the last layers."""
        if self.language is None:
            return set()
        layers = decoder_layers(self.language)
        last = {id(one) for layer in layers[len(layers) - self.plan.unfreeze :] for one in layer.parameters()}
        named = ((name, one) for name, one in self.named_parameters() if name.startswith(LANGUAGE))
        return {name for name, one in named if "lora_" in name or id(one) in last}

    def own_state(self) -> dict[str, Tensor]:
        """What training made: everything but the language model as it came."""
        kept = self.trained_language
        return {name: one for name, one in self.state_dict().items() if not name.startswith(LANGUAGE) or name in kept}

    def load_own(self, weights: Mapping[str, Tensor]) -> None:
        """Load what `own_state` gave; without a language model, what belongs to that is left out.

        The tensors take the place of the network's, which may be without memory. Raises `InputError` for other names or
        shapes.
        """
        if self.language is None:
            weights = {name: one for name, one in weights.items() if not name.startswith(LANGUAGE)}
        if odd := sorted({*self.own_state()} ^ {*weights}):
            raise InputError(f"its weights do not fit its configuration: {', '.join(odd[:5])}.")
        try:
            self.load_state_dict(dict(weights), strict=False, assign=True)
        except RuntimeError as error:
            raise InputError(f"its weights do not fit its configuration: {error}") from None

    @torch.no_grad()
    def fit(self, layers: Sequence[Tensor]) -> None:
        """Learn the norms from tokens of some training pictures."""
        for norm, one in zip(self.norms, layers, strict=True):
            cast(InputNorm, norm).fit(one.flatten(0, 1).float())

    # --- pictures ------------------------------------------------------------------------------------------

    def see(self, states: SideStates | Sequence[Tensor]) -> Sight:
        """Tokens of pictures, N of [B, T, D_k] as `pictures` gives them, in the language model's width."""
        if isinstance(states, SideStates):
            seen = self.see(states.values)  # type: ignore[arg-type]
            return seen if states.breaks is None else self._in_rows(seen, states.mask, states.breaks)
        plan, layers = self.plan, states
        normed = [norm(one.float()) for norm, one in zip(self.norms, layers, strict=True)]
        if plan.blind:
            normed = [torch.zeros_like(one) for one in normed]
        fed = torch.cat([normed[place] for place in plan.fed], -1)
        tokens = self.projector(fed)
        if self.managers is None:
            return Sight(tokens, None)
        each = [normed[place] for place in plan.managed]
        by = self.manager_projectors if len(self.manager_projectors) else [self.projector] * len(each)
        managed = torch.stack([project(one) for project, one in zip(by, each, strict=True)], 1)
        return Sight(tokens, managed.float())

    def _in_rows(self, seen: Sight, mask: Tensor, breaks: Tensor) -> Sight:
        """The newline at the end of each row of tiles, in the managers' layers too, so that these span the same."""
        newline = cast(Tensor, self.newline)
        managed = seen.managed
        if managed is not None:
            managed = torch.where(breaks[:, None, :, None], newline, managed)
        return Sight(torch.where(breaks[..., None], newline, seen.tokens), managed, mask)

    @contextmanager
    def _managing(self, sight: Sight, slots: Tensor) -> Iterator[None]:
        """While the language model runs, add what the managers give, at prefill alone.

        slots: places of the pictures' tokens in the flattened rows; later passes of generation have no such places.
        """
        if self.managers is None:
            yield
            return
        layers, managed, handles = decoder_layers(self.language), sight.managed, []
        waiting = set(self.managers.before)  # each manager acts once

        def before(place: int) -> Any:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                if place not in waiting:
                    return None
                waiting.discard(place)
                hidden = args[0] if args else kwargs["hidden_states"]
                added = sight.there(cast(LanguageManagers, self.managers)(managed, place)).to(hidden.dtype)
                changed = hidden.flatten(0, 1).index_add(0, slots, added).view_as(hidden)
                return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

            return hook

        for place in self.managers.before:
            handles.append(layers[place].register_forward_pre_hook(before(place), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def embedded(self, ids: Tensor, slots: Tensor, sight: Sight) -> Tensor:
        """Embeddings [R, T, H] of ids, with pictures in their places; ids of slots may be any."""
        table = self.language.get_input_embeddings()
        found = table(ids.clamp(max=table.num_embeddings - 1))
        return found.flatten(0, 1).index_copy(0, slots, sight.there(sight.tokens).to(found.dtype)).view_as(found)

    # --- texts ---------------------------------------------------------------------------------------------

    def logits(self, rows: Packed, sight: Sight, places: Tensor) -> Tensor:
        """Logits float32 [n, vocabulary] of what follows at some places of the flattened rows, int64 [n].

        sight: of the sequences, in their order.
        """

        def chosen(_module: nn.Module, args: tuple[Any, ...]) -> Any:
            return (args[0].flatten(0, 1)[places][None], *args[1:])

        embeds = self.embedded(rows.ids, rows.slots, sight)
        mask = rows.mask
        if getattr(self.language.config, "_attn_implementation", "sdpa") != "sdpa":
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill(~mask, torch.finfo(embeds.dtype).min)
        handle = self.language.get_output_embeddings().register_forward_pre_hook(chosen)
        try:
            with self._managing(sight, rows.slots):
                found = self.language(
                    inputs_embeds=embeds, position_ids=rows.positions, attention_mask=mask, use_cache=False
                )
        finally:
            handle.remove()
        return found.logits[0].float()

    @torch.no_grad()
    def generate(self, rows: Packed, sight: Sight, **options: Any) -> Tensor:
        """New ids int64 [R, n] behind the rows, which end with their prompts (`left_padded`); options of `generate`."""
        embeds = self.embedded(rows.ids, rows.slots, sight)
        with self._managing(sight, rows.slots):
            return self.language.generate(
                inputs_embeds=embeds, attention_mask=(rows.owner >= 0).long(), use_cache=True, num_beams=1, **options
            )


def _projector(inputs: int, hidden: int, kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(inputs, hidden)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden))


def _add_adapters(language: nn.Module, rank: int) -> None:
    """Low-rank adapters on the layers that peft names for this kind of model, which start as nothing."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UsageError("language.lora needs peft: pip install 'isthmus[lora]'.") from None
    trained = [one for one in language.parameters() if one.requires_grad]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, task_type="CAUSAL_LM"), language)
    for one in trained:  # peft freezes all but its own
        one.requires_grad_(True)
