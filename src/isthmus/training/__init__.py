"""Training: recipes, and the loop that turns features and a recipe into two projectors."""

from isthmus.training.plan import plan_training
from isthmus.training.recipe import Recipe, load_recipe, recipe_names
from isthmus.training.trainer import Trained, train_projectors

__all__ = ["Recipe", "Trained", "load_recipe", "plan_training", "recipe_names", "train_projectors"]
