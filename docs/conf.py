"""Sphinx: ``python -m sphinx -W -b html docs docs/_build`` (extra ``docs``)."""

from __future__ import annotations

from graphkit import __version__

project = "GraphKit"
author = copyright = "The GraphKit developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"GraphKit {__version__}"
html_static_path = ["_static"]

# A docstring without an entry for a member says all there is to say; the order is that of ``__all__`` or the source.
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shapes"]
napoleon_use_rtype = False
napoleon_use_ivar = True


def setup(app) -> None:
    """Two small corrections of what autodoc and napoleon make of the docstrings."""
    kept: dict[str, list[str]] = {}

    def skip(app, what, name, member, skip, options) -> bool:
        # Fields of named tuples: the class's docstring says more than "alias for field number 0".
        return skip or type(member).__name__ == "_tuplegetter"

    def keep(app, what, name, member, options, lines) -> None:
        if what in ("attribute", "property"):
            kept[name] = list(lines)

    def restore(app, what, name, member, options, lines) -> None:
        # Napoleon takes the words before a colon for the attribute's type.
        if name in kept:
            lines[:] = kept.pop(name)

    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
