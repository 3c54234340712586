"""Training: recipes, and one loop for whatever an objective learns."""

from isthmus.training.contrastive.trainer import Trained, plan_training, train_projectors
from isthmus.training.recipe import Recipe, load_recipe, recipe_names

__all__ = ["Recipe", "Trained", "load_recipe", "plan_training", "recipe_names", "train_projectors"]
