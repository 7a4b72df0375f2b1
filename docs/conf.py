"""How the documentation site is built: ``sphinx-build -W --keep-going docs docs/_build`` (no network is needed)."""

import re
import sys
from pathlib import Path

import cnnkit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

project = "cnnkit"
author = "the cnnkit developers"
copyright = "the cnnkit developers, BSD-3-Clause"
version = release = cnnkit.__version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "formulas",  # the two of extensions/
    "error_index",
]
exclude_patterns = ["_build", "gallery", "race/*.json"]
templates_path = []

myst_heading_anchors = 3  # design.md#winograd-fewer-products, as GitHub has it
myst_enable_extensions = ["tasklist"]

autodoc_typehints = "none"  # the Parameters section says it
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),  # a page prints what it shows
    "image_srcset": ["2x"],
    "thumbnail_size": (400, 280),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "min_reported_time": 3600,  # two builds of one commit give the same pages
}

html_theme = "pydata_sphinx_theme"
html_title = "cnnkit"
html_static_path = ["_static"]
html_css_files = ["cnnkit.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
html_domain_indices = False  # the general index has all names
html_context = {"default_mode": "auto"}  # dark or light, as the reader's system has it
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"*": [], "race/**": []}  # only the gallery and the API have pages of their own to choose from


def setup(app):
    app.connect("autodoc-process-docstring", escape_stars, priority=0)  # before numpydoc
    app.connect("doctree-read", leave_out_of_the_menu)


def escape_stars(app, what, name, obj, options, lines):
    """``x : array, shape (N, C, *spatial)`` reads well in a terminal; here the star would begin emphasis."""
    lines[:] = [re.sub(r"(?<=, )\*(?=\w+\))", r"\*", line) if "``" not in line else line for line in lines]


def leave_out_of_the_menu(app, doctree):
    """The tables of the race are linked from the benchmarks."""
    if app.env.docname.startswith("race/"):
        app.env.metadata[app.env.docname]["orphan"] = True
