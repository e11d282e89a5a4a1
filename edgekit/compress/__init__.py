"""The recipe and its steps: what makes a model smaller before it is exported."""

from edgekit.compress.fuse import fuse
from edgekit.compress.recipe import DEFAULT_RECIPE, Applied, Recipe

__all__ = ["DEFAULT_RECIPE", "Applied", "Recipe", "fuse"]
