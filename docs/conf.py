"""How Sphinx builds these pages; `make docs` does it, and fails on a link inside them that leads nowhere."""

import importlib.metadata

project = "spikefold"
author = "the spikefold maintainers"
copyright = "2026, the spikefold maintainers"
release = importlib.metadata.version("spikefold")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nitpicky = False
exclude_patterns = ["_build"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_google_docstring = False

html_theme = "furo"
html_title = "spikefold"
