"""Projectors: what each kind computes, its size as the papers count it, and its configuration."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from isthmus.errors import UsageError
from isthmus.projectors import KINDS, build_projector, from_config, solve_expand


def size(*modules) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def on_meta(*args, **options):
    with torch.device("meta"):
        return build_projector(*args, **options)


def test_sizes_are_those_of_freeze_align():
    token = on_meta("parallel", [1024], 1024)
    chain = on_meta("parallel+residual", [1024], 1024)
    image = on_meta("parallel", [1024, 1024], 1024)
    assert size(token) == 3_150_848
    assert size(chain) - size(token) == 2_101_248
    assert size(image, chain) + 1 == 11_553_793


def test_sizes_are_those_of_sail():
    image, text = on_meta("glu", [2048], 1024), on_meta("glu", [4096], 1024)
    assert size(image, text) + 2 == 385_988_610
    assert size(on_meta("glu", [1024, 1024], 1024)) == size(image)
    probe = [on_meta("linear", [width], 2048) for width in (2048, 1024, 4096)]
    assert round(size(probe[0], probe[1]) / 1e6, 1) == 6.3
    assert round(size(probe[0], probe[2]) / 1e6, 1) == 12.6
    assert size(on_meta("mlp", [16], 8, norm="none")) == 16 * 64 + 64 + 64 * 8 + 8


def test_each_part_is_normalised_on_its_own():
    projector = build_projector("linear", [30, 20], 4)
    x = torch.randn(6, 50)
    parts = torch.cat([F.layer_norm(x[:, :30], [30]), F.layer_norm(x[:, 30:], [20])], 1)
    torch.testing.assert_close(projector(x), projector.blocks(parts))
    louder = torch.cat([9 * x[:, :30], 3 * x[:, 30:]], 1)
    torch.testing.assert_close(projector(louder), projector(x), rtol=1e-3, atol=1e-3)


def test_without_norm_the_features_come_as_they_are():
    projector = build_projector("linear", [3, 2], 4, norm="none")
    x = torch.randn(6, 5)
    torch.testing.assert_close(projector(x), projector.blocks(x))


def test_parallel_is_the_sum_of_a_linear_and_a_gelu_branch_of_each_part():
    projector = build_projector("parallel", [3, 2], 4, norm="none")
    block, x = projector.blocks[0], torch.randn(6, 5)
    want = 0
    for k, part in enumerate((x[:, :3], x[:, 3:])):
        want = want + block.linear[k](part) + block.down[k](F.gelu(block.up[k](part)))
    torch.testing.assert_close(projector(x), want)


def test_residual_follows_its_definition():
    projector = build_projector("residual", [3], 4, norm="none")
    block, x = projector.blocks[0], torch.randn(6, 3)
    p = x @ block.linear.weight.T + block.linear.bias
    want = F.layer_norm(p + block.inner(F.gelu(p)), [4])
    torch.testing.assert_close(projector(x), want)


def test_glu_gates_with_relu6_and_clamps():
    projector = build_projector("glu", [1], 1, norm="none", expand=1)
    block = projector.blocks[0]
    for layer, weight in ((block.gate, 1.0), (block.up, 2.0), (block.down, 1.0)):
        torch.nn.init.constant_(layer.weight, weight)
    x = torch.tensor([[-1.0], [2.0], [50.0], [4e3]])
    torch.testing.assert_close(projector(x), torch.tensor([[0.0], [2 * 4], [6 * 100], [6 * 1e3]]))


def test_one_norm_over_all_parts_or_one_on_each():
    x = torch.cat([torch.randn(5, 6), 100 * torch.randn(5, 4)], dim=1)
    whole = build_projector("linear", [6, 4], 3, norm="whole")
    torch.testing.assert_close(whole.norm(x), torch.nn.functional.layer_norm(x, (10,)))
    assert whole.norm(x)[:, :6].std(dim=1).max() < 0.1, "the large part drowns the small one, as published"
    apart = build_projector("linear", [6, 4], 3).norm(x)
    assert apart[:, :6].std(dim=1).min() > 0.5
    assert from_config(whole.config()).norm.parts == [10]


def test_sails_layers_start_from_xavier_weights_and_zero_biases():
    for kind in ("linear", "mlp", "glu"):
        for layer in (m for m in build_projector(kind, [64], 32).modules() if isinstance(m, torch.nn.Linear)):
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.95 * bound
            assert not layer.bias.any()


def test_dropout_falls_on_the_normalised_features_in_training_only():
    projector = build_projector("linear", [400], 4, dropout=0.5)
    seen = []
    projector.blocks.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(50, 400)
    projector(x)
    projector.eval()(x)
    assert 0.45 < (seen[0] == 0).float().mean() < 0.55
    assert not (seen[1] == 0).any()


@pytest.mark.parametrize("kind", [*KINDS.names(), "parallel+residual", "parallel+mlp"])
def test_its_config_rebuilds_it(kind):
    projector = build_projector(kind, [3, 2], 4, dropout=0.1, expand=None if kind == "linear" else 1.5)
    again = build_projector(**json.loads(json.dumps(projector.config())))
    again.load_state_dict(projector.state_dict(), strict=True)
    x = torch.randn(5, 5)
    torch.testing.assert_close(again.eval()(x), projector.eval()(x))
    assert projector(x).shape == (5, 4)


@pytest.mark.parametrize(
    ("kind", "parts", "options", "message"),
    [
        ("glue", [4], {}, "Did you mean 'glu'"),
        ("parallel+residul", [4], {}, "Did you mean 'residual'"),
        ("linear", [4], {"norm": "layr"}, "Did you mean 'layer'"),
        ("linear", [], {}, "positive"),
        ("linear", [4, 0], {}, "positive"),
        ("mlp", [4], {"expand": 0}, "expand = 0"),
        ("mlp", [4], {"dropout": 1.0}, "dropout = 1.0"),
    ],
)
def test_what_does_not_exist_is_a_usage_error(kind, parts, options, message):
    with pytest.raises(UsageError, match=message):
        build_projector(kind, parts, 8, **options)


@pytest.mark.parametrize("kind", ["mlp", "glu", "parallel", "parallel+residual", "parallel+mlp"])
@pytest.mark.parametrize("parts", [[384], [384, 384]])
def test_a_budget_is_met_within_one_percent(kind, parts):
    expand = solve_expand(kind, parts, 512, 2_000_000)
    assert size(on_meta(kind, parts, 512, expand=expand)) == pytest.approx(2_000_000, rel=0.01)


def test_a_budget_that_is_a_kinds_own_size_gives_its_own_expansion():
    assert solve_expand("glu", [2048], 1024, size(on_meta("glu", [2048], 1024))) == pytest.approx(8, rel=1e-4)
    assert solve_expand("parallel", [1024], 1024, 3_150_848) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("kind", ["linear", "residual"])
def test_a_budget_cannot_size_what_has_no_hidden_units(kind):
    with pytest.raises(UsageError, match="a budget cannot size it"):
        solve_expand(kind, [384], 512, 1_000_000)


def test_a_budget_out_of_reach_names_the_nearest_size():
    with pytest.raises(UsageError, match=r"nearest it can have is 2,177"):
        solve_expand("mlp", [384], 512, 1000)
