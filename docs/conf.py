"""Sphinx: MyST pages, the furo theme, nothing from the network."""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tools"))

import catalog_page  # noqa: E402
import experiment_keys  # noqa: E402
import paper_files  # noqa: E402

(HERE / "catalog.md").write_text(catalog_page.page(), encoding="utf-8")

project = "besiege"
author = "the besiege authors"
release = version = metadata.version("besiege")
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "besiege"
html_show_sourcelink = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp"
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 3
myst_substitutions = {
    "papers": paper_files.papers(),
    "experiment_keys": experiment_keys.keys(),
    "recipe_rules": catalog_page.recipe_rules(),
    "recipe_settings": catalog_page.recipe_settings(),
}
nitpicky = True
