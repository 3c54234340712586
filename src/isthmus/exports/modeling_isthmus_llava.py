# Copyright the isthmus authors. Licensed under the Apache License, Version 2.0.
"""LLaVA with what the stock model of transformers does not have: pictures averaged on a grid, layers of the image
encoder normalised one by one, a linear projector, and managers before chosen decoder layers; isthmus is not needed.

`isthmus export --to llava` puts this file, the same for every model, into a folder that the stock model cannot hold.
`config.isthmus`: {"layers": numbers of the vision tower's hidden states, None its last output, "fed", "managed": places
among these, "before": decoder layers, "side": of the grid, "cls", "prefix", "projector", "norm", "widths"}.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


class IsthmusLlavaConfig(LlavaConfig):
    model_type = "isthmus_llava"


class IsthmusNorm(nn.Module):
    """Each feature without the mean and spread it had in the training data."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def forward(self, states):
        return (states - self.mean.to(states.dtype)) / self.spread.to(states.dtype)


class IsthmusManagers(nn.Module):
    """What is added to a picture's tokens before a decoder layer: Σ W ⊙ (layer + E)."""

    def __init__(self, facts, hidden):
        super().__init__()
        count = len(facts["managed"])
        self.left_out = facts["left_out"]  # place of the layer that is fed in, which decoder layer 0 does not get again
        sizes = {place: count - (place == 0 and self.left_out is not None) for place in facts["before"]}
        self.gates = nn.ParameterDict({str(place): torch.zeros(size, hidden) for place, size in sizes.items()})
        self.embedding = nn.Parameter(torch.zeros(count, hidden))

    def forward(self, projected, place):
        gates, values = self.gates[str(place)], projected + self.embedding[:, None]
        if len(gates) < values.shape[1]:
            values = torch.cat([values[:, : self.left_out], values[:, self.left_out + 1 :]], 1)
        return (gates[:, None] * values).sum(1)


class IsthmusLlavaModel(LlavaModel):
    config_class = IsthmusLlavaConfig

    def __init__(self, config):
        super().__init__(config)
        del self.multi_modal_projector
        facts, hidden = config.isthmus, config.text_config.hidden_size
        self.facts, widths = facts, facts["widths"]
        self.norms = nn.ModuleList(IsthmusNorm(one) if facts["norm"] == "data" else nn.Identity() for one in widths)
        inputs = sum(widths[place] for place in facts["fed"])
        self.projector = nn.Linear(inputs, hidden)
        if facts["projector"] == "mlp":
            self.projector = nn.Sequential(self.projector, nn.GELU(), nn.Linear(hidden, hidden))
        self.manager_projectors = nn.ModuleList()
        if facts["before"]:
            self.managers = IsthmusManagers(facts, hidden)
            if not facts["shared"]:
                self.manager_projectors.extend(nn.Linear(widths[place], hidden) for place in facts["managed"])
        self.post_init()

    def get_image_features(self, pixel_values, **kwargs):
        """Tokens of each picture as `pooler_output`, a list of [tokens, width]."""
        found = self.vision_tower(pixel_values, output_hidden_states=True, return_dict=True)
        layers = [
            self._tokens(found.last_hidden_state if k is None else found.hidden_states[k]) for k in self.facts["layers"]
        ]
        normed = [norm(one) for norm, one in zip(self.norms, layers, strict=True)]
        tokens = self.projector(torch.cat([normed[place] for place in self.facts["fed"]], -1))
        if self.facts["before"]:
            by = (
                self.manager_projectors
                if len(self.manager_projectors)
                else [self.projector] * len(self.facts["managed"])
            )
            each = [normed[place] for place in self.facts["managed"]]
            self._managed = torch.stack([project(one) for project, one in zip(by, each, strict=True)], 1)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=list(tokens))

    def _tokens(self, states):
        """[B, prefix + T, D] to [B, cls + side², D]."""
        facts = self.facts
        patches = states[:, facts["prefix"] :]
        first = states[:, :1] if facts["prefix"] else patches.mean(1, keepdim=True)
        own = round(patches.shape[1] ** 0.5)
        if own != facts["side"]:
            plane = patches.transpose(1, 2).unflatten(2, (own, own))
            patches = F.adaptive_avg_pool2d(plane, facts["side"]).flatten(2).transpose(1, 2)
        return torch.cat([first, patches], 1) if facts["cls"] else patches

    def forward(self, input_ids=None, pixel_values=None, **kwargs):
        slots = torch.empty(0)
        if input_ids is not None and self.facts["before"]:  # pictures may have been encoded in an earlier call
            slots = (input_ids == self.config.image_token_id).flatten().nonzero()[:, 0]
        if not slots.numel():  # a later step of generation
            return super().forward(input_ids=input_ids, pixel_values=pixel_values, **kwargs)

        def hook(place):
            def add(module, args, options):
                hidden = args[0] if args else options["hidden_states"]
                added = self.managers(self._managed, place).flatten(0, 1).to(hidden.dtype)
                changed = hidden.flatten(0, 1).index_add(0, slots, added).view_as(hidden)
                return ((changed, *args[1:]), options) if args else (args, {**options, "hidden_states": changed})

            return add

        layers = self.language_model.layers
        handles = [layers[k].register_forward_pre_hook(hook(k), with_kwargs=True) for k in self.facts["before"]]
        try:
            return super().forward(input_ids=input_ids, pixel_values=pixel_values, **kwargs)
        finally:
            for handle in handles:
                handle.remove()


class IsthmusLlavaForConditionalGeneration(LlavaForConditionalGeneration):
    config_class = IsthmusLlavaConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = IsthmusLlavaModel(config)
        self.post_init()
