"""Aggregators and cross-modal layers: exact properties, transformers' BridgeTower, published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isthmus.errors import UsageError
from isthmus.fusion import CrossModalLayer, FusionOptions, TwoTower
from isthmus.fusion.aggregators import build_aggregator

ALL = ["last", "layer:2", "mean", "bridge", "sam", "saum", "aaum-own", "aaum", "zero-init"]
MIXING = ["mean", "bridge", "saum", "sam", "aaum-own", "aaum"]


def options(**changes: object) -> FusionOptions:
    small = {"depth": 2, "width": 16, "heads": 4, "dropout": 0.0}
    return FusionOptions(**(small | changes))  # type: ignore[arg-type]


def halves(batch: int = 3, *, layers: tuple[int, int] = (4, 3), seed: int = 0) -> tuple[dict, dict]:
    """States of an image half (7 tokens, 10 wide, no padding) and a text half (5 tokens, 6 wide, padded)."""
    draw = torch.Generator().manual_seed(seed)
    states = {
        "image": torch.randn(batch, layers[0], 7, 10, generator=draw),
        "text": torch.randn(batch, layers[1], 5, 6, generator=draw),
    }
    lengths = torch.tensor([5, 3, 2, 4, 1])[torch.arange(batch) % 5]
    return states, {"image": None, "text": torch.arange(5) < lengths[:, None]}


def tower(name: str, *, layers: tuple[int, int] = (4, 3), **changes: object) -> TwoTower:
    torch.manual_seed(1)
    made = TwoTower({"image": [10] * layers[0], "text": [6] * layers[1]}, options(aggregator=name, **changes)).eval()
    for parameter in made.parameters():  # scores and gates start equal: nothing would be seen
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("name", MIXING)
def test_weights_sum_to_one_in_every_layer_and_half(name: str) -> None:
    weights = tower(name)(*halves()).weights
    for half in ("image", "text"):
        assert len(weights[half]) == 2
        for mixing in weights[half]:
            total = mixing.sum(1 if mixing.ndim == 3 else 0)
            torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing(name: str) -> None:
    """Other values in padding, and more padding, leave every real token as it was."""
    made, (states, masks) = tower(name), halves()
    before = made(states, masks)
    noise = torch.where(masks["text"][:, None, :, None], states["text"], 100.0)
    longer = torch.cat([noise, torch.full_like(noise[:, :, :2], -50.0)], 2)
    mask = torch.cat([masks["text"], torch.zeros(len(noise), 2, dtype=torch.bool)], 1)
    after = made({"image": states["image"], "text": longer}, {"image": None, "text": mask})
    torch.testing.assert_close(after.pooled, before.pooled, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after.states["image"], before.states["image"], rtol=1e-5, atol=1e-6)
    real = masks["text"]
    torch.testing.assert_close(after.states["text"][:, :5][real], before.states["text"][real], rtol=1e-5, atol=1e-6)


def test_adaptive_weights_depend_on_token_item_and_the_other_half() -> None:
    states, masks = halves()
    static = tower("saum")(states, masks).weights["image"][1]
    assert static.shape == (4,)
    own, fused = (tower(name)(states, masks).weights["image"][1] for name in ("aaum-own", "aaum"))
    assert fused.shape == own.shape == (3, 4, 7)
    for weights in (own, fused):
        assert weights.std(0).max() > 1e-3 and weights.std(2).max() > 1e-3


@pytest.mark.parametrize("layers", [(1, 1), (2, 5), (6, 3)])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("name", ["sam", "saum", "aaum"])
def test_any_number_of_layers_goes_with_any_depth(name: str, layers: tuple[int, int], depth: int) -> None:
    found = tower(name, layers=layers, depth=depth)(*halves(layers=layers))
    assert found.pooled.shape == (3, 32) and len(found.weights["text"]) == depth
    found.pooled.sum().backward()


def test_layers_of_several_widths_have_a_projection_each() -> None:
    made = TwoTower({"image": [8, 12, 20], "text": [6]}, options(aggregator="saum"))
    stages = [torch.randn(2, 4, width) for width in (8, 12, 20)]
    found = made({"image": stages, "text": torch.randn(2, 1, 5, 6)}, {"image": None, "text": None})
    assert found.states["image"].shape == (2, 4, 16)


def test_features_lose_the_data_s_mean_and_spread() -> None:
    """Another scale and place of every feature change nothing, and padding has no say."""
    states, masks = halves()
    made = tower("saum", norm="data")
    other = {side: 3 * one + 20 for side, one in states.items()}
    found = []
    for given in (states, other):
        for side, mask in masks.items():
            real = torch.ones(3, 7, dtype=torch.bool) if mask is None else mask
            values = given[side].clone()
            values.transpose(1, 2)[~real] = 1e6
            made.fit(side, values, real)
        found.append(made(given, masks).pooled)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    layer = tower("saum", norm="layer")
    same = (layer(given, masks).pooled for given in ({**states}, {side: 2 * one for side, one in states.items()}))
    torch.testing.assert_close(*same, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_pooled_states_need_only_the_first_token_of_the_last_layer(name: str) -> None:
    made, given = tower(name), halves()
    whole, quick = made(*given), made(*given, pooled_only=True)
    assert quick.states["image"].shape[1] == 1
    torch.testing.assert_close(quick.pooled, whole.pooled)
    gradients = [
        torch.autograd.grad(one.pooled.square().sum(), made.halves["text"].project[0].weight) for one in (whole, quick)
    ]
    torch.testing.assert_close(*gradients)


def test_one_hot_scores_pick_one_layer() -> None:
    static = build_aggregator("saum", 4, 16, 0, 2).eval()
    static.scores.data[2] += 100
    states = torch.randn(2, 4, 5, 16)
    values, weights = static(states, None, None, None)
    torch.testing.assert_close(weights, torch.tensor([0.0, 0, 1, 0]))
    torch.testing.assert_close(values, nn.functional.layer_norm(states[:, 2], (16,)))


def test_noise_is_drawn_in_training_alone() -> None:
    for name in ("saum", "aaum"):
        made, given = tower(name), halves()
        assert torch.equal(made(*given).pooled, made(*given).pooled)
        made.train()
        assert not torch.equal(made(*given).pooled, made(*given).pooled)
        quiet = tower(name, noise=False).train()
        assert torch.equal(quiet(*given).pooled, quiet(*given).pooled)


def test_zero_init_starts_as_the_last_layer_and_its_gates_learn() -> None:
    torch.manual_seed(0)
    zero = TwoTower({"image": [10] * 4, "text": [6] * 3}, options(aggregator="zero-init")).eval()
    torch.manual_seed(0)
    last = TwoTower({"image": [10] * 4, "text": [6] * 3}, options(aggregator="last")).eval()
    last.load_state_dict(zero.state_dict(), strict=False)
    given = halves()
    assert torch.equal(zero(*given).pooled, last(*given).pooled)
    zero(*given).pooled.sum().backward()
    assert all(manager.gates.grad.abs().max() > 0 for manager in zero.halves["image"].aggregators)


def test_naive_static_manager_is_the_formula() -> None:
    """Equation 5 written with loops."""
    made = build_aggregator("saum", 3, 16, 1, 2).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    layers, state = torch.randn(2, 3, 4, 16), torch.randn(2, 4, 16)
    weights = (made.scores / made.temperature).softmax(0)
    expected = made.state_weight * nn.functional.layer_norm(state, (16,), made.state_norm.weight, made.state_norm.bias)
    for index in range(3):
        normed = nn.functional.layer_norm(
            layers[:, index], (16,), made.norms.weight[index, 0], made.norms.bias[index, 0]
        )
        expected = expected + weights[index, 0] * normed
    torch.testing.assert_close(made(layers, state, None, None).values, expected)


# --- transformers' BridgeTower ----------------------------------------------------------------------------------------


def bridge_tower() -> tuple[nn.Module, Tensor, Tensor]:
    from transformers import BridgeTowerConfig, BridgeTowerModel

    size = {"hidden_size": 64, "num_hidden_layers": 4, "initializer_factor": 10.0}
    text = {**size, "num_attention_heads": 4, "intermediate_size": 256, "vocab_size": 50, "layer_norm_eps": 1e-5}
    config = BridgeTowerConfig(
        **{**size, "num_hidden_layers": 3},
        num_attention_heads=4,
        intermediate_size=256,
        text_config=text | {"pad_token_id": 1, "max_position_embeddings": 20},
        vision_config={**size, "image_size": 32, "patch_size": 16, "output_hidden_size": 64},
    )
    torch.manual_seed(0)
    made = BridgeTowerModel(config).eval()
    return made, torch.tensor([[0, 5, 6, 7, 2], [0, 9, 2, 1, 1]]), torch.randn(2, 3, 32, 32)


def copy_linear(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def copy_attention(ours: nn.Module, theirs: nn.Module) -> None:
    for name in ("query", "key", "value"):
        copy_linear(getattr(ours, name), getattr(theirs.self, name))
    copy_linear(ours.output, theirs.output.dense)
    copy_linear(ours.norm, theirs.output.LayerNorm)


def copy_layer(ours: CrossModalLayer, theirs: nn.Module) -> None:
    copy_attention(ours.self_attention, theirs.attention)
    copy_attention(ours.cross_attention, theirs.crossattention)
    copy_linear(ours.inner, theirs.intermediate.dense)
    copy_linear(ours.outer, theirs.output.dense)
    copy_linear(ours.norm, theirs.output.LayerNorm)


def test_bridge_equals_bridgetower_of_transformers() -> None:
    theirs, ids, pixels = bridge_tower()
    mask = ids != 1
    widths = {"text": [64] * 3, "image": [64] * 3}
    ours = TwoTower(widths, options(aggregator="bridge", depth=3, width=64, layer_embedding=False)).eval()
    for place, name in enumerate(("text", "image")):
        half = ours.halves[name]
        copy_linear(half.project[0], getattr(theirs, f"cross_modal_{name}_transform"))
        half.modality.data = theirs.token_type_embeddings.weight[place].detach()
        norms = [getattr(theirs, f"cross_modal_{name}_layernorm")]
        norms += [link.LayerNorm for link in getattr(theirs, f"cross_modal_{name}_link_tower")]
        for manager, norm in zip(half.aggregators, norms, strict=True):
            copy_linear(manager.norm, norm)
        for mine, layer in zip(half.cross, getattr(theirs, f"cross_modal_{name}_layers"), strict=True):
            copy_layer(mine, layer)
        copy_linear(half.pooler, getattr(theirs, f"cross_modal_{name}_pooler").dense)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long(), pixel_values=pixels, output_hidden_states=True)
        text, image, _ = expected.hidden_states
        post = theirs.vision_model.visual.forward_post
        layers = {
            "text": torch.stack(text[-3:], 1),
            "image": torch.stack([post(one) for one in image[-3:]], 1),
        }
        found = ours(layers, {"text": mask, "image": None})
    torch.testing.assert_close(found.pooled, expected.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.states["text"][mask], expected.text_features[mask], rtol=1e-5, atol=1e-5)


# --- sizes ------------------------------------------------------------------------------------------------------------


def size(name: str, **changes: object) -> int:
    with torch.device("meta"):
        half = [768] * 6
        made = TwoTower({"text": half, "image": half}, FusionOptions(aggregator=name, **changes))  # type: ignore[arg-type]
    return sum(parameter.numel() for parameter in made.parameters())


def test_managers_add_what_the_paper_prints() -> None:
    """Table VI in millions: BridgeTower 326.58, SAUM 326.77, AAUM with its own query 326.77, fused 338.64.

    The table counts the encoders too; the differences are the managers'. The release's table of layer embeddings has
    12 rows for each encoder, ours has a row for each of the six layers used.
    """
    bridge = size("bridge", layer_embedding=False)
    rows = 2 * 6 * 768
    assert round((size("saum") + rows - bridge) / 1e6, 2) == 0.19
    assert round((size("aaum-own") + rows - bridge) / 1e6, 2) == 0.19
    assert round((size("aaum") + rows - bridge) / 1e6, 2) == pytest.approx(12.06, abs=0.011)


def test_sizes_are_those_that_the_paper_prints() -> None:
    """With RoBERTa-base and CLIP's ViT-B/16 at 384 pixels, 0.04 M below the table in each of its rows: the same norms
    or rows of embeddings in all of them, which the paper does not name.
    """
    from transformers import CLIPVisionConfig, CLIPVisionModel, RobertaConfig, RobertaModel

    large = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    with torch.device("meta"):
        text = RobertaModel(RobertaConfig(**large, vocab_size=50265, max_position_embeddings=514, type_vocab_size=1))
        image = CLIPVisionModel(CLIPVisionConfig(**large, image_size=384, patch_size=16))
    encoders = sum(parameter.numel() for tower in (text, image) for parameter in tower.parameters())
    rows = 2 * 6 * 768  # see above
    ours = [size("bridge", layer_embedding=False), size("saum") + rows, size("aaum") + rows]
    missing = [printed - (encoders + one) / 1e6 for printed, one in zip((326.58, 326.77, 338.64), ours, strict=True)]
    assert all(0.03 < one < 0.05 for one in missing) and max(missing) - min(missing) < 0.01


def test_bad_options_are_named() -> None:
    with pytest.raises(UsageError, match="4 of these"):
        tower("bridge", depth=4)
    with pytest.raises(UsageError, match="one of the layers given, 1 to 3"):
        tower("layer:4")
    with pytest.raises(UsageError, match="no aggregator 'saun'"):
        tower("saun")
    with pytest.raises(UsageError, match="heads"):
        tower("last", heads=5)
