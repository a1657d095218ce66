"""What the recipes of event streams share and where they differ."""

from __future__ import annotations

import pytest

from graphkit.recipes import get_recipe


def test_inductive_recipe_hides_nodes_until_the_test():
    recipe = get_recipe("nat_inductive")
    config = recipe.defaults("nycflights", fast=True)
    split = recipe.build(config, "EdgeBank", 0).task.split
    assert split.new_nodes is not None
    assert bool(split.new_nodes.any())
    plain = get_recipe("nat")
    assert plain.build(plain.defaults("nycflights", fast=True), "EdgeBank", 0).task.split.new_nodes is None


def test_batch_size_in_a_model_name():
    recipe = get_recipe("pres")
    config = recipe.defaults("nycflights", fast=True)
    for name, events in (("JODIE@400", 400), ("JODIE", config.batch_size)):
        assert recipe.build(config, name, 0).task.batch_size == events
    with pytest.raises(ValueError, match="JODIE@x"):
        recipe.build(config, "JODIE@x", 0)
