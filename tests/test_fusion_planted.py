"""A planted layer is found, and tasks that need a layer each are told apart by weights for each token alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from isthmus.fusion import FusionOptions, TwoTower

LAYERS, WIDTH, CLASSES = 4, 12, 4
Data = Callable[[int, torch.Generator], tuple[Tensor, Tensor, Tensor]]
CODES = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(7))


def coded(label: Tensor, draw: torch.Generator) -> Tensor:
    """Two tokens that say the class, [n, 2, D]."""
    return CODES[label][:, None] + 0.3 * torch.randn(len(label), 2, WIDTH, generator=draw)


def planted(layer: int) -> Data:
    """The class is in one layer of the picture; the others and the text are noise."""

    def draw_batch(n: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        label = torch.randint(CLASSES, (n,), generator=draw)
        image = torch.randn(n, LAYERS, 2, WIDTH, generator=draw)
        image[:, layer] = coded(label, draw)
        return image, torch.randn(n, 1, 2, WIDTH, generator=draw), label

    return draw_batch


def a_task_for_each_layer(n: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A class in each layer, in the same words; the text says which of them is asked for."""
    labels = torch.randint(CLASSES, (LAYERS, n), generator=draw)
    task = torch.randint(LAYERS, (n,), generator=draw)
    text = 0.3 * torch.randn(n, 1, 2, WIDTH, generator=draw)
    text[torch.arange(n), :, :, task] += 2
    return torch.stack([coded(label, draw) for label in labels], 1), text, labels[task, torch.arange(n)]


def trained(name: str, data: Data, *, depth: int, steps: int = 120) -> tuple[float, list[Tensor]]:
    """(accuracy, mean weight of each layer of the picture by cross-modal layer), after a short training."""
    torch.manual_seed(0)
    options = FusionOptions(aggregator=name, depth=depth, width=16, heads=2, expand=2.0, dropout=0.0)
    tower = TwoTower({"text": [WIDTH], "image": [WIDTH] * LAYERS}, options)
    head, own = nn.Linear(32, CLASSES), {"managers": [], "others": []}
    for parameter_name, parameter in tower.named_parameters():
        own["managers" if "aggregators" in parameter_name else "others"].append(parameter)
    groups = [{"params": own["managers"], "lr": 3e-2}, {"params": [*own["others"], *head.parameters()], "lr": 3e-3}]
    optimizer, draw = torch.optim.AdamW(groups), torch.Generator().manual_seed(0)
    for _ in range(steps):
        image, text, label = data(32, draw)
        found = tower({"text": text, "image": image}, {"text": None, "image": None})
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(found.pooled), label).backward()
        optimizer.step()
    image, text, label = data(500, torch.Generator().manual_seed(99))
    with torch.no_grad():
        found = tower.eval()({"text": text, "image": image}, {"text": None, "image": None})
        right = (head(found.pooled).argmax(1) == label).float().mean().item()
    return right, [one.mean((0, 2)) if one.ndim == 3 else one for one in found.weights["image"]]


@pytest.mark.slow
@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize(("name", "depth"), [("saum", 1), ("aaum", 2)])
def test_a_planted_layer_is_found(name: str, depth: int, layer: int) -> None:
    right, weights = trained(name, planted(layer), depth=depth)
    assert right > 0.9
    assert int(weights[-1].argmax()) == layer and weights[-1][layer] > 0.5


@pytest.mark.slow
def test_weights_by_token_tell_tasks_apart_that_need_a_layer_each() -> None:
    """Two tasks are not enough: two cross-modal layers of static weights serve a layer each."""
    static, adaptive = (trained(name, a_task_for_each_layer, depth=2, steps=150)[0] for name in ("saum", "aaum"))
    assert adaptive > 0.9 and adaptive >= static + 0.1
