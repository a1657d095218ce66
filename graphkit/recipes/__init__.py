"""One file a paper: its hyperparameters and how its parts are put together."""

from __future__ import annotations

import importlib
import pkgutil

from graphkit.recipes.recipe import Recipe, Reported
from graphkit.utils.checks import check_choice


def recipe_keys() -> list[str]:
    """Keys of all recipes."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if name != "recipe" and not name.startswith("_"))


def get_recipe(key: str) -> Recipe:
    """The recipe of a key; a typo gets a suggestion.

    Example:
        >>> get_recipe("ncnc").models[:2]
        ('NCNC', 'NCN')
    """
    check_choice(key, "key", recipe_keys())
    return importlib.import_module(f"{__name__}.{key}").RECIPE


__all__ = ["Recipe", "Reported", "get_recipe", "recipe_keys"]
