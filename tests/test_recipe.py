"""Recipes: strict reading, overrides, tiers by the number of pairs, and the shipped files themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.errors import UsageError
from isthmus.training.optimizers import warmup_steps
from isthmus.training.recipe import load_recipe, recipe_names


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def test_a_file_overrides_defaults_and_set_overrides_the_file(write):
    path = write("[optim]\nlr = 0.5\nepochs = 7\n")
    recipe = load_recipe(path, ["optim.lr=1e-3", "loss.name=sigmoid", "optim.betas=[0.5, 0.6]"])
    assert (recipe.name, recipe.optim.lr, recipe.optim.epochs) == ("mine", 1e-3, 7)
    assert (recipe.loss.name, recipe.optim.betas, recipe.optim.batch) == ("sigmoid", (0.5, 0.6), 1024)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nlrr = 1", r"mine\.toml: unknown key 'optim.lrr'. Did you mean 'optim.lr'"),
        ("[optim]\nwidth = 1", r"unknown key 'optim.width'. Did you mean 'head.width'"),
        ("[optimm]\nlr = 1", r"unknown key 'optimm'. Did you mean 'optim'"),
        ("[optim]\nlr = true", r"optim.lr must be a number, not True"),
        ("[optim]\nlr = '1e-3'", r"optim.lr must be a number, not '1e-3'"),
        ("[optim]\nlr = nan", r"optim.lr must be from 0 to 10, not nan"),
        ("[optim]\nepochs = 1.5", r"optim.epochs must be a whole number, not 1.5"),
        ("[optim]\nepochs = -1", r"optim.epochs must be at least 0, not -1"),
        ("[optim]\nbatch = 1", r"optim.batch must be at least 2"),
        ("[optim]\nbetas = [0.9]", r"optim.betas must be a list of 2 numbers"),
        ("[optim]\nbetas = [0.9, 1.0]", r"optim.betas must be from 0 to"),
        ("[optim]\nname = 'adam'", r'optim.name must be "adamw" or "lion", not \'adam\''),
        ("[loss]\nbias = 'atuo'", r'loss.bias must be a number or "auto"'),
        ("[loss]\nbias = inf", r"loss.bias must be finite"),
        ("[loss]\nscale = 200", r"loss.scale = 200 lies outside"),
        ("[loss]\nscale = 'auto'", r'loss.scale = "auto" is taken from a closed form'),
        ("[head]\nwidth = 'auto'", r'head.width = "auto" is taken from a closed form'),
        ("[head]\nwidth = 'auto'\ninit = 'cca'\ntext = 'mlp'", r'"auto" needs linear heads'),
        ("[loss]\nmin_scale = 50\nmax_scale = 20", r"min_scale = 50 is above loss.max_scale = 20"),
        ("[optim]\nlr = 1e-6\nmin_lr = 1e-5", r"min_lr = 1e-05 is above optim.lr"),
        ("[optim]\nepochs = 0", r"leaves a random head"),
        ("[head]\nbudget = 9\nexpand = 4", r"give one"),
        ("head = 3", r"head must be a table"),
        ("[head", r"mine\.toml: not valid TOML"),
        ("[[by_pairs]]\noptim.lr = 1", r"needs up_to"),
        ("[[by_pairs]]\nup_to = 9\n[[by_pairs]]\nup_to = 3", r"rising order; got \[9, 3\]"),
        ("[[by_pairs]]\nup_to = 9\noptim.lrr = 1", r"by_pairs up_to = 9: unknown key 'optim.lrr'"),
        ("[by_pairs]\nup_to = 9", r"\[\[by_pairs\]\]"),
    ],
)
def test_mistakes_in_a_file_are_named(write, text, message):
    with pytest.raises(UsageError, match=message):
        load_recipe(write(text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr'. Did you mean 'optim.lr'"),
        ("lr=1", "Did you mean 'optim.lr'"),
        ("by_pairs=1", "unknown key 'by_pairs'"),
        ("optim.lr", "expected key=value"),
        ("optim.lr=fast", "optim.lr must be a number, not 'fast'"),
        ("optim.lr=1\nx=2", "optim.lr must be a number"),
        ("optim.epochs=", "optim.epochs must be a whole number, not ''"),
    ],
)
def test_mistakes_in_set_are_named(override, message):
    with pytest.raises(UsageError, match=message):
        load_recipe("linear", [override])


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UsageError, match=r"'liner' is neither a recipe nor a file. Did you mean 'linear'"):
        load_recipe("liner")


def test_a_recipe_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "bytes.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"bytes\.toml: cannot be read"):
        load_recipe(path)


def test_the_first_tier_that_holds_the_pairs_applies_and_set_comes_last(write):
    path = write(
        """
        optim.epochs = 50
        optim.lr = 0.1
        [[by_pairs]]
        up_to = 100
        optim.epochs = 0
        head.init = "cca"
        [[by_pairs]]
        up_to = 1000
        optim.lr = 0.2
        optim.epochs = 20
        """
    )

    def effective(pairs: int, *overrides: str):
        recipe = load_recipe(path, overrides).resolve(pairs)
        return recipe.optim.epochs, recipe.optim.lr, recipe.head.init

    assert effective(100) == (0, 0.1, "cca")
    assert effective(101) == (20, 0.2, "random")
    assert effective(1001) == (50, 0.1, "random")
    assert effective(500, "optim.lr=0.7") == (20, 0.7, "random")
    assert load_recipe(path).resolve(5).by_pairs == ()


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_loads_and_its_header_says_command_source_and_expectation(name):
    from importlib import resources

    recipe = load_recipe(name)
    for pairs in (10, 1000, 10**7):
        assert recipe.resolve(pairs).name == name
    header = resources.files("isthmus.training").joinpath("recipes", f"{name}.toml").read_text()
    header = header.split("\n\n")[0]
    assert f"isthmus train STORE --recipe {name} --out MODEL" in header
    assert "# Source:" in header and "# Expected result:" in header
    assert recipe.description


def test_the_five_recipes_ship():
    assert {"cca", "default", "freeze-align-pooled", "linear", "sail"} <= set(recipe_names())


def test_sail_is_the_published_recipe():
    recipe = load_recipe("sail").resolve(23_000_000)
    head, loss, optim = recipe.head, recipe.loss, recipe.optim
    assert (head.image, head.text, head.expand, head.width, head.dropout) == ("glu", "glu", 8, 1024, 0)
    assert (loss.name, loss.scale, loss.bias) == ("sigmoid", 20, -10)
    assert (loss.normalize, loss.positives) == ("pairs", "pair")
    assert (loss.min_scale, loss.max_scale, loss.learn) == (1, 100, "log")
    assert (optim.name, optim.lr, optim.weight_decay, optim.decay_all) == ("lion", 1e-5, 1e-4, True)
    assert (optim.betas, optim.batch, optim.epochs) == ((0.9, 0.99), 32_768, 100)
    assert (optim.unit, head.norm) == ("images", "whole")
    assert (optim.schedule, optim.warmup, optim.min_lr) == ("cosine", 0.1, 0)
    assert (recipe.stop.patience, recipe.stop.restore_best) == (0, False)


@pytest.mark.parametrize(
    ("name", "aggregator", "layers"), [("meter", "last", 1), ("bridgetower", "bridge", 6), ("managertower", "aaum", 6)]
)
def test_fusion_recipes_are_the_published_ones(name, aggregator, layers):
    recipe = load_recipe(name).resolve(440_000)
    fusion, optim, rates = recipe.fusion, recipe.optim, recipe.rates
    assert (fusion.aggregator, fusion.image_layers, fusion.text_layers) == (aggregator, layers, layers)
    assert (fusion.depth, fusion.width, fusion.heads, fusion.expand, fusion.dropout) == (6, 768, 12, 4, 0.1)
    assert fusion.layer_embedding == (name == "managertower") and fusion.grid == 0
    assert (optim.lr, optim.weight_decay, optim.warmup, optim.batch, optim.epochs) == (2e-5, 0.06, 0.1, 576, 10)
    assert (optim.betas, rates.cross, rates.heads, recipe.heads.expand) == ((0.9, 0.98), 5, 50, 2)
    assert (recipe.objectives.answers, recipe.objectives.answer_loss) == (1, "soft")


def test_freeze_align_pooled_is_the_published_recipe():
    recipe = load_recipe("freeze-align-pooled").resolve(17_000_000)
    head, loss, optim = recipe.head, recipe.loss, recipe.optim
    assert (head.image, head.text, head.width, head.dropout) == ("parallel", "parallel+residual", 1024, 0.1)
    assert (loss.name, loss.positives, loss.learn) == ("infonce", "pair", "raw")
    assert 1 / loss.scale == pytest.approx(0.07)
    assert (1 / loss.max_scale, 1 / loss.min_scale) == (0.001, 0.5)
    assert (optim.name, optim.lr, optim.weight_decay, optim.decay_all) == ("adamw", 1e-3, 0.02, False)
    assert (optim.batch, optim.epochs, optim.schedule) == (1800, 15, "cosine")
    assert (optim.min_lr, optim.warmup_lr) == (1e-5, 1e-5)
    assert warmup_steps(optim, 15 * 1180) == 1000
    assert (recipe.stop.patience, recipe.stop.restore_best) == (0, False)
