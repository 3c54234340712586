# Copyright the isthmus authors. Licensed under the Apache License, Version 2.0.
"""A dual encoder that was joined by isthmus, as one model of transformers; isthmus is not needed to run it.

`isthmus export --to hf` puts this file, the same for every model, into the folder it writes. What the model is made of
is told by `config.json`: for each side its networks, how their tokens are pooled (views), and the head on top.
Inputs of a side with several networks stand side by side behind the batch: `pixel_values` [N, K, 3, H, W] (smaller
pictures in the upper left), `input_ids` [N, K, T]; with one network, as usual, [N, 3, H, W] and [N, T].
"""

import importlib
import json
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from tokenizers import Tokenizer
from torch import nn
from transformers import BatchFeature, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput
from transformers.tokenization_utils_base import BatchEncoding

END = 2.0**-24  # the least float16 above 0
TOLERANCE = {torch.float32: 1e-3}  # of check vectors at load; other types: LOOSE
LOOSE = 5e-2


class IsthmusConfig(PretrainedConfig):
    """sides: {"image": {"networks", "views", "head", "check"}, "text": …}; width: dimensions of the embeddings."""

    model_type = "isthmus"

    def __init__(self, sides=None, width=1, logit_scale=1.0, logit_bias=0.0, **kwargs):
        self.sides, self.width, self.logit_scale, self.logit_bias = sides or {}, width, logit_scale, logit_bias
        self.hidden_size = self.projection_dim = width
        super().__init__(**kwargs)


class IsthmusModel(PreTrainedModel):
    """`get_image_features` and `get_text_features` give unit embeddings [N, width] as `pooler_output`."""

    config_class = IsthmusConfig
    base_model_prefix = "isthmus"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        for name in config.sides:
            setattr(self, name, Side(config.sides[name], config.width))
        self.post_init()

    def get_image_features(self, pixel_values, return_dict=True):
        """Pictures as the image processor gives them, to `pooler_output` [N, width]."""
        return BaseModelOutputWithPooling(pooler_output=self.image({"pixel_values": pixel_values}))

    def get_text_features(self, input_ids, attention_mask=None, token_type_ids=None, return_dict=True):
        """Texts as the tokenizer gives them, to `pooler_output` [N, width]."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": token_type_ids}
        return BaseModelOutputWithPooling(pooler_output=self.text(inputs))

    def forward(
        self, input_ids=None, pixel_values=None, attention_mask=None, token_type_ids=None, return_dict=None, **kwargs
    ):
        """CLIP's outputs: `image_embeds`, `text_embeds`, and of both `logits_per_image` [N, M], as in training."""
        image = None if pixel_values is None else self.get_image_features(pixel_values).pooler_output
        text = None
        if input_ids is not None:
            text = self.get_text_features(input_ids, attention_mask, token_type_ids).pooler_output
        logits = None
        if image is not None and text is not None:
            logits = self.config.logit_scale * image @ text.T + self.config.logit_bias
        return CLIPOutput(
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            image_embeds=image,
            text_embeds=text,
        )

    @classmethod
    def from_pretrained(cls, *args, verify=True, **kwargs):
        """As always. verify: compare with the embeddings that were stored when the model was exported."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if verify and not any(one.is_meta for one in model.parameters()):
            model.verify()
        return loaded

    @torch.no_grad()
    def verify(self):
        """ValueError unless the stored inputs give the stored embeddings."""
        for name, told in self.config.sides.items():
            check = told.get("check")
            if check is None:
                continue
            side = getattr(self, name)
            found = side(side.check_inputs(check)).float().cpu()[0]
            error = (found - torch.tensor(check["embedding"])).abs().max().item()
            if not error <= TOLERANCE.get(self.dtype, LOOSE):
                raise ValueError(
                    f"The {name} side gives other embeddings here than when it was exported (largest difference "
                    f"{error:.2g}): its files, or a library, changed. from_pretrained(..., verify=False) loads it."
                )


class Side(nn.Module):
    """Networks, views and the head of one modality: inputs to unit rows [N, width]."""

    def __init__(self, config, width):
        super().__init__()
        self.networks = nn.ModuleList(make_network(one) for one in config["networks"])
        self.views, self.width = config["views"], width
        self.head = make_head(config["head"])

    def forward(self, inputs):
        inputs = {name: value for name, value in inputs.items() if value is not None}
        several = len(self.networks) > 1
        outputs = []
        for number, network in enumerate(self.networks):
            own = {name: value[:, number] for name, value in inputs.items()} if several else inputs
            layers = any(view["network"] == number and view["layer"] is not None for view in self.views)
            outputs.append(network(own, layers))
        features = torch.cat([view_features(outputs[view["network"]], view) for view in self.views], dim=-1)
        head_type = next((one.dtype for one in self.head.parameters()), features.dtype)
        return F.normalize(self.head(features.to(head_type)).float()[:, : self.width], dim=-1)

    def check_inputs(self, check):
        """The inputs of the check vector, on the model's device."""
        like = next(self.parameters())
        if "shape" in check:
            values = torch.sin(torch.arange(math.prod(check["shape"]), dtype=torch.float32) * 0.7)
            return {"pixel_values": values.reshape(1, *check["shape"]).to(like.device, like.dtype)}
        return {name: torch.tensor([rows], device=like.device) for name, rows in check["inputs"].items()}


# --- networks: inputs to {"pooled": [N, D] or None, "tokens": [N, T, D] or None, "mask": bool [N, T] or None, "layers"}


def make_network(config):
    return NETWORKS[config["kind"]](config)


class ImageNetwork(nn.Module):
    """A vision model of transformers."""

    def __init__(self, config):
        super().__init__()
        self.config, self.network = config, make_transformer(config)
        self.blocks = find_blocks(self.network, config["depth"])

    def forward(self, inputs, layers):
        pixels = inputs["pixel_values"]
        side = self.config["side"]
        if side is not None:  # of several networks, whose pictures differ in size
            pixels = pixels[..., : side[0], : side[1]]
        given = {"pixel_values": pixels, **self.config["options"]}
        if self.config["noise"]:  # of masked autoencoders, whose patches it orders
            count = (pixels.shape[-2] // self.config["noise"]) * (pixels.shape[-1] // self.config["noise"])
            given["noise"] = torch.arange(count, dtype=pixels.dtype, device=pixels.device).expand(len(pixels), -1)
        states, result = run_network(self.network, self.blocks, given, layers)
        tokens = flatten_map(result.last_hidden_state)
        pooled = None if self.config["pooled"] is None else getattr(result, self.config["pooled"]).flatten(1)
        return {
            "pooled": pooled,
            "tokens": tokens[:, 1:] if self.config["pooled_first"] else tokens,
            "mask": None,
            "layers": [flatten_map(state) for state in states],
        }


class TextNetwork(nn.Module):
    """A text model of transformers, and what a pipeline of Sentence-Transformers has behind it."""

    def __init__(self, config):
        super().__init__()
        self.config, self.network = config, make_transformer(config)
        self.blocks = find_blocks(self.network, config["depth"])
        self.after = PipelineEnd(config)

    def forward(self, inputs, layers):
        mask = inputs["attention_mask"]
        given = {name: inputs[name] for name in self.config["inputs"] if name in inputs}
        states, result = run_network(self.network, self.blocks, given, layers)
        if self.config["time_first"]:
            states = [state.transpose(0, 1) for state in states]
        tokens, pooled = result.last_hidden_state, self.config["pooled"]
        return {
            "pooled": getattr(result, pooled) if pooled else self.after(tokens, mask.bool()),
            "tokens": tokens,
            "mask": mask.bool(),
            "layers": [state[:, : mask.shape[1]] for state in states],
        }


class TableNetwork(nn.Module):
    """Static embeddings of tokens."""

    def __init__(self, config):
        super().__init__()
        self.network, self.after = nn.Embedding(*config["shape"]), PipelineEnd(config)

    def forward(self, inputs, layers):
        tokens, mask = self.network(inputs["input_ids"]), inputs["attention_mask"].bool()
        return {"pooled": self.after(tokens, mask), "tokens": tokens, "mask": mask, "layers": [tokens]}


class OwnNetwork(nn.Module):
    """A vision network whose code stands at the end of this file: `states(pixels)` gives all its feature maps."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.network = globals()[config["class"]](**config["arguments"])

    def forward(self, inputs, layers):
        pixels, side = inputs["pixel_values"], self.config["side"]
        if side is not None:
            pixels = pixels[..., : side[0], : side[1]]
        *states, last = [flatten_map(one) for one in self.network.states(pixels)]
        return {"pooled": None, "tokens": last, "mask": None, "layers": states}


NETWORKS = {"image": ImageNetwork, "text": TextNetwork, "table": TableNetwork, "own": OwnNetwork}


def make_transformer(config):
    """A network of transformers without its weights."""
    name = config["module"]
    if not name.startswith("transformers."):
        raise ValueError(f"{name}: only networks of transformers are made by name.")
    build = getattr(importlib.import_module(name), config["class"])
    network = build._from_config(build.config_class.from_dict(config["config"]))
    network.config.use_cache = False
    return network


def run_network(network, blocks, inputs, layers):
    """One forward pass and, if `layers`, the hidden states before the final norm."""
    if not layers:
        return (), network(**inputs)
    if not blocks:  # stages of a CNN
        result = network(**inputs, output_hidden_states=True)
        return result.hidden_states, result
    states = []

    def before(_module, args, kwargs):
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(_module, _args, result):
        states.append(result if isinstance(result, torch.Tensor) else result[0])

    handles = [blocks[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [block.register_forward_hook(after) for block in blocks]
    try:
        result = network(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return states, result


def find_blocks(network, depth):
    """The list of `depth` equal blocks that a transformer is."""
    lists = [one for one in network.modules() if isinstance(one, nn.ModuleList) and 0 < len(one) == depth]
    return list(max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()), default=()))


def flatten_map(state):
    """A feature map [N, C, H, W] as tokens [N, H·W, C]."""
    return state.flatten(2).transpose(1, 2) if state.ndim == 4 else state


class PipelineEnd(nn.Module):
    """Pooling, and the modules behind it in a pipeline of Sentence-Transformers; None without a pooling."""

    def __init__(self, config):
        super().__init__()
        self.pool, self.modules_after = config["pool"], nn.ModuleList(make_module(one) for one in config["modules"])

    def forward(self, tokens, mask):
        if self.pool is None:
            return None
        pooled = pool_tokens(tokens, self.pool, mask)
        for module in self.modules_after:
            pooled = module(pooled)
        return pooled


def make_module(config):
    if config["kind"] == "dense":
        return DenseModule(**config["options"])
    if config["kind"] == "layer_norm":
        return nn.LayerNorm(config["width"])
    return UnitLength()


class DenseModule(nn.Module):
    def __init__(self, inputs, outputs, bias, activation, residual):
        super().__init__()
        self.linear, self.activation, self.adds = (
            nn.Linear(inputs, outputs, bias=bias),
            getattr(nn, activation)(),
            residual,
        )
        if residual and inputs != outputs:
            self.residual = nn.Linear(inputs, outputs, bias=False)

    def forward(self, x):
        found = self.activation(self.linear(x))
        return found + (self.residual(x) if hasattr(self, "residual") else x) if self.adds else found


class UnitLength(nn.Module):
    def forward(self, x):
        return F.normalize(x, dim=-1)


# --- pooling


def view_features(output, view):
    """Features of one layer and pooling, float32 [N, D]."""
    if view["pool"] is None:
        return output["pooled"].float()
    tokens = output["tokens"] if view["layer"] is None else output["layers"][view["layer"]]
    return pool_tokens(tokens, view["pool"], output["mask"], view["prefix"], view["length"])


def pool_tokens(tokens, pool, mask=None, prefix=0, length=None):
    """Tokens [N, T, D] to float32 [N, k·D]; prefix: leading tokens that are no patches."""
    tokens = tokens.float()
    if mask is None:
        mask = torch.ones_like(tokens[..., 0], dtype=torch.bool)
    return torch.cat([pool_part(tokens, part, mask, prefix, length) for part in pool.split("+")], dim=-1)


def pool_part(tokens, part, mask, prefix, length):
    if part == "tokens":
        return align_tokens(tokens, mask, length).flatten(1)
    if part == "patches":
        return tokens[:, prefix:].flatten(1)
    if part.startswith("grid"):
        patches = tokens[:, prefix:]
        height, side = math.isqrt(patches.shape[1]), math.isqrt(int(part[4:]))
        grid = patches.transpose(1, 2).unflatten(-1, (height, height))
        return F.adaptive_avg_pool2d(grid, side).flatten(2).transpose(1, 2).flatten(1)
    if part == "cls":
        return pick_token(tokens, mask, mask.int().argmax(1))
    if part == "last":
        return pick_token(tokens, mask, mask.shape[1] - 1 - mask.flip(1).int().argmax(1))
    tokens, mask = tokens[:, prefix:], mask[:, prefix:, None]
    if part == "mean":
        return (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
    return tokens.masked_fill(~mask, -torch.inf).amax(1).masked_fill(~mask.any(1), 0.0)


def pick_token(tokens, mask, position):
    places = position[:, None, None].expand(-1, 1, tokens.shape[-1])
    return tokens.gather(1, places).squeeze(1) * mask.any(1, keepdim=True)


def align_tokens(tokens, mask, length):
    """The real tokens from the left, then zeros: [N, length, D]."""
    # Places of real tokens, then those of padding: no two are equal, and ONNX has no stable sort.
    places = torch.arange(mask.shape[1], device=mask.device) + (~mask).long() * mask.shape[1]
    order = places.argsort(dim=1)[:, :length]
    there = mask.gather(1, order)
    real = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[-1])) * there[..., None]
    last = there & (torch.arange(1, there.shape[1] + 1, device=mask.device) == there.sum(1, keepdim=True))
    mark = last & (real.abs().amax(-1) < END)
    real = torch.cat([real[..., :-1], real[..., -1:].masked_fill(mark[..., None], END)], dim=-1)
    return F.pad(real, (0, 0, 0, length - order.shape[1]))


# --- heads: features [N, sum(parts)] to [N, width]


def make_head(config):
    kind = config["kind"]
    if kind in ("concat", "blend"):
        return MemberHeads(config)
    return TokenHead(**config) if ":" in kind else PooledHead(**config)


class PooledHead(nn.Module):
    """LayerNorm on each part or on all, then one block or a chain of them."""

    def __init__(self, kind, parts, width, norm, expand, **_training):
        super().__init__()
        self.norm = nn.Identity() if norm == "none" else PartNorms([sum(parts)] if norm == "whole" else parts)
        self.blocks = make_chain(kind.split("+"), parts, width, expand)

    def forward(self, x):
        return self.blocks(self.norm(x))


class PartNorms(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts, self.norms = list(parts), nn.ModuleList(nn.LayerNorm(part) for part in parts)

    def forward(self, x):
        pieces = zip(self.norms, x.split(self.parts, dim=-1), strict=True)
        return torch.cat([norm(piece) for norm, piece in pieces], dim=-1)


class MemberHeads(nn.Module):
    """Unit rows of several heads: side by side, each times the root of its share, or added, times its share."""

    def __init__(self, config):
        super().__init__()
        self.added, self.shares = config["kind"] == "blend", config["shares"]
        self.members = nn.ModuleList(make_head(member) for member in config["members"])

    def forward(self, x):
        rows = [F.normalize(member(x).float(), dim=-1) for member in self.members]
        if self.added:
            return sum(share * one for share, one in zip(self.shares, rows, strict=True))
        return torch.cat([share**0.5 * one for share, one in zip(self.shares, rows, strict=True)], dim=-1)


class TokenHead(nn.Module):
    """Every token through a block, and their mean; the class token through one of its own."""

    def __init__(self, kind, parts, width, norm, expand, padded=True, **_training):
        super().__init__()
        first, *chain = kind.split("+")
        named = dict(one.split(":") for one in first.split(","))
        self.count, self.inputs, self.padded, self.has_cls = len(parts), parts[0], padded, "cls" in named
        made = {
            slot: TokenSlot(block, parts[0], width, norm, expand) for slot, block in named.items() if block != "none"
        }
        self.cls, self.tokens = made.get("cls"), made.get("tokens")
        inputs = parts[0] if named["tokens"] == "identity" else width
        self.head = make_chain(chain, [inputs], width, expand)

    def forward(self, x):
        tokens = x.unflatten(-1, (self.count, self.inputs))
        cls, tokens = (tokens[:, 0], tokens[:, 1:]) if self.has_cls else (None, tokens)
        found = [] if self.tokens is None else [self.mean(tokens)]
        found += [] if self.cls is None else [self.cls.block(self.cls.norm(cls))]
        return self.head(sum(found[1:], start=found[0]))

    def mean(self, tokens):
        """Of the tokens that are no padding, which is the zeros behind the last that is not all zeros."""
        there = (tokens != 0).any(dim=-1) if self.padded else torch.ones_like(tokens[..., 0], dtype=torch.bool)
        real = there.flip(1).cumsum(dim=1).flip(1) > 0
        weights = (real / real.sum(dim=1, keepdim=True).clamp(min=1))[:, None].to(tokens.dtype)
        features = self.tokens.block.features(self.tokens.norm(tokens))
        return self.tokens.block.readout(*((weights @ one).squeeze(1) for one in features))


class TokenSlot(nn.Module):
    def __init__(self, block, inputs, width, norm, expand):
        super().__init__()
        self.norm = nn.Identity() if norm == "none" else nn.LayerNorm(inputs)
        self.block = BLOCKS[block]([inputs], width, expand)


def make_chain(names, parts, width, expand):
    chain = nn.Sequential()
    for name in names:
        chain.append(BLOCKS[name](parts, width, expand))
        parts = [width]
    return chain


class HeadBlock(nn.Module):
    """`readout(*features(x))`; the readout is affine, so that it can follow a mean."""

    def forward(self, x):
        return self.readout(*self.features(x))


class IdentityBlock(HeadBlock):
    def __init__(self, parts, width, expand):
        super().__init__()

    def features(self, x):
        return (x,)

    def readout(self, x):
        return x


class LinearBlock(HeadBlock):
    def __init__(self, parts, width, expand):
        super().__init__()
        self.linear = nn.Linear(sum(parts), width)

    def features(self, x):
        return (x,)

    def readout(self, x):
        return self.linear(x)


class MlpBlock(HeadBlock):
    def __init__(self, parts, width, expand):
        super().__init__()
        hidden = hidden_units(expand, 4, sum(parts))
        self.up, self.down = nn.Linear(sum(parts), hidden), nn.Linear(hidden, width)

    def features(self, x):
        return (F.gelu(self.up(x)),)

    def readout(self, x):
        return self.down(x)


class GluBlock(HeadBlock):
    """SAIL's: g(ReLU6(f1 x) ∘ f2 x), both branches within ±1000."""

    def __init__(self, parts, width, expand):
        super().__init__()
        hidden = hidden_units(expand, 8, sum(parts))
        self.gate, self.up = nn.Linear(sum(parts), hidden), nn.Linear(sum(parts), hidden)
        self.down = nn.Linear(hidden, width)

    def features(self, x):
        return (F.relu6(self.gate(x).clamp(-1e3, 1e3)) * self.up(x).clamp(-1e3, 1e3),)

    def readout(self, x):
        return self.down(x)


class ParallelBlock(HeadBlock):
    """freeze-align's: A(x) + C(GELU(B(x))) for each part, summed."""

    def __init__(self, parts, width, expand):
        super().__init__()
        hidden, self.parts = hidden_units(expand, 1, width), list(parts)
        self.linear = nn.ModuleList(nn.Linear(part, width) for part in parts)
        self.up = nn.ModuleList(nn.Linear(part, hidden) for part in parts)
        self.down = nn.ModuleList(nn.Linear(hidden, width) for _ in parts)

    def features(self, x):
        pieces = zip(self.up, x.split(self.parts, dim=-1), strict=True)
        return x, *(F.gelu(up(piece)) for up, piece in pieces)

    def readout(self, x, *bent):
        pieces = zip(x.split(self.parts, dim=-1), bent, self.linear, self.down, strict=True)
        outputs = [linear(piece) + down(one) for piece, one, linear, down in pieces]
        return sum(outputs[1:], start=outputs[0])


class ResidualBlock(HeadBlock):
    """freeze-align's: p = Linear(x); LayerNorm(p + Linear(GELU(p)))."""

    def __init__(self, parts, width, expand):
        super().__init__()
        self.linear, self.inner, self.norm = nn.Linear(sum(parts), width), nn.Linear(width, width), nn.LayerNorm(width)

    def features(self, x):
        p = self.linear(x)
        return (self.norm(p + self.inner(F.gelu(p))),)

    def readout(self, x):
        return x


BLOCKS = {
    "identity": IdentityBlock,
    "linear": LinearBlock,
    "mlp": MlpBlock,
    "glu": GluBlock,
    "parallel": ParallelBlock,
    "residual": ResidualBlock,
}


def hidden_units(expand, default, base):
    return max(1, round((default if expand is None else expand) * base))


# --- preprocessing


class IsthmusImageProcessor(BaseImageProcessor):
    """The image processors of the model's networks, in their Pillow form whatever else is installed.

    Pictures of Pillow are turned as their EXIF says, and transparency is laid on white, as isthmus does.
    processors: for each network {"module", "class", "settings"}; check: values at places of a picture that is drawn
    here, which loading compares.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, processors=None, check=None, **kwargs):
        super().__init__(**kwargs)
        self.processors, self.check = processors or [], check
        self._made = [make_processor(one) for one in self.processors]
        if check is not None:
            self.verify()

    def preprocess(self, images, return_tensors=None, **kwargs):
        """Images to {"pixel_values"}."""
        images = list(images) if isinstance(images, list | tuple) else [images]
        images = [upright_rgb(one) if isinstance(one, Image.Image) else one for one in images]
        given = [one(images, return_tensors="np")["pixel_values"] for one in self._made]
        pixels = given[0]
        if len(given) > 1:
            height, width = (max(one.shape[axis] for one in given) for axis in (-2, -1))
            pixels = np.zeros((len(images), len(given), 3, height, width), np.float32)
            for number, one in enumerate(given):
                pixels[:, number, :, : one.shape[-2], : one.shape[-1]] = one
        return BatchFeature({"pixel_values": pixels}, tensor_type=return_tensors)

    __call__ = preprocess

    def verify(self):
        """ValueError unless the picture drawn here gives the stored values."""
        pixels = np.ravel(self.preprocess(drawn_picture(), return_tensors="np")["pixel_values"])
        places = np.linspace(0, len(pixels) - 1, len(self.check)).astype(int)
        error = float(np.abs(pixels[places] - np.asarray(self.check, np.float32)).max())
        if not error <= 1e-3:
            raise ValueError(
                f"A picture is prepared here in another way than when the model was exported (largest difference "
                f"{error:.2g}): a setting or a library changed."
            )

    def to_dict(self):
        kept = {name: value for name, value in self.__dict__.items() if name != "_made"}
        return {**json.loads(json.dumps(kept)), "image_processor_type": type(self).__name__}


def make_processor(config):
    """An image processor of transformers."""
    name = config["module"]
    if not name.startswith("transformers."):
        raise ValueError(f"{name}: only image processors of transformers are made by name.")
    return getattr(importlib.import_module(name), config["class"])(**config["settings"])


def drawn_picture():
    """A picture that is the same everywhere: [61, 97, 3] of every grey level."""
    rows, columns, bands = np.ogrid[:61, :97, :3]
    return Image.fromarray(((rows * 7 + columns * (3 + bands) + rows * columns // 9) % 256).astype(np.uint8))


def upright_rgb(image):
    """Turned as its EXIF says, grey of 16 bits divided by 257 and rounded, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


class IsthmusTokenizer(PreTrainedTokenizerFast):
    """The tokenizers of the model's networks: each text with their prompts, cut to the lengths they read.

    In `tokenizer_config.json`, "isthmus" lists for each network prompt, max_tokens, add_special_tokens, pad (id), left
    (whether padding stands there), full (pad to max_tokens always), empty (what stands for a text without any
    character) and, but for the first, json; "check" has a text and its ids, which loading compares.
    """

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        loaded("")
        return loaded

    def __call__(self, text=None, text_pair=None, padding=False, max_length=None, return_tensors=None, **kwargs):
        """Strings to input_ids, attention_mask and token_type_ids."""
        if text_pair is not None:
            raise ValueError("An embedding is made of single texts, not of pairs.")
        if not hasattr(self, "_made"):
            listed = self.init_kwargs["isthmus"]
            self._made = [Tokenizer.from_str(one.get("json") or self.backend_tokenizer.to_str()) for one in listed]
            self._verify()
        texts = [text] if isinstance(text, str) else list(text)
        single = isinstance(text, str) and return_tensors is None
        padding = "max_length" if padding == "max_length" else bool(padding) or return_tensors is not None
        length = max_length or (self.model_max_length if self.model_max_length < 1e6 else None)
        given = [self._encode_all(number, texts, length, padding) for number in range(len(self._made))]
        data = given[0] if len(given) == 1 else self._side_by_side(given)
        data = {name: rows[0] if single else rows for name, rows in data.items()}
        return BatchEncoding(data, tensor_type=return_tensors)

    def _encode_all(self, number, texts, length, padding):
        """Of one network: lists of ids, of mask and of types."""
        how, tokenizer = self.init_kwargs["isthmus"][number], self._made[number]
        limit = min(one for one in (length, how["max_tokens"], 2**30) if one)
        tokenizer.no_padding()
        tokenizer.enable_truncation(limit)
        texts = [how["prompt"] + one for one in texts]
        encoded = tokenizer.encode_batch(
            [one or how["empty"] for one in texts], add_special_tokens=how["add_special_tokens"]
        )
        ids, types = [one.ids for one in encoded], [one.type_ids for one in encoded]
        mask = [[1] * len(one) for one in ids]
        if padding or how["full"]:
            full = how["full"] or padding == "max_length"
            longest = limit if full and limit < 2**30 else max(1, *(len(one) for one in ids))
            ids, mask, types = (
                [pad_row(one, longest, value, how["left"]) for one in rows]
                for rows, value in ((ids, how["pad"]), (mask, 0), (types, how["pad_type"]))
            )
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}

    def _side_by_side(self, given):
        """[N, K, T] of K times [N, T_k]."""
        longest = max(len(row) for one in given for row in one["input_ids"])
        pads = [one["pad"] for one in self.init_kwargs["isthmus"]]
        values = {"input_ids": pads, "attention_mask": [0] * len(pads), "token_type_ids": [0] * len(pads)}
        return {
            name: [
                [pad_row(row, longest, value) for row, value in zip(rows, values[name], strict=True)]
                for rows in zip(*(one[name] for one in given), strict=True)
            ]
            for name in given[0]
        }

    def _verify(self):
        """ValueError unless the stored text gives the stored ids."""
        check = self.init_kwargs["isthmus"][0].get("check")
        if check is not None and self(check["text"])["input_ids"] != check["ids"]:
            raise ValueError("A text has other ids here than when the model was exported: a file or a library changed.")


def pad_row(row, length, value, left=False):
    filled = [value] * (length - len(row))
    return filled + row if left else row + filled
