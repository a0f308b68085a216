"""The site: `make docs` builds it into build/site, and any warning is an error.

The source folder is the repository itself, so that a relative link means the same file here and in a code
host's view of the page, and links of the README and of the benchmarks are checked too.
"""

import os
import re
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
# As in tests/conftest.py: Triton before TensorFlow, since each brings its own LLVM.
import setuptools  # noqa: F401
import torch._dynamo  # noqa: F401

import clipwise

project = "clipwise"
author = project_copyright = "The clipwise authors"
version = release = clipwise.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/**.md", "examples/README.md", "*.md"]
exclude_patterns = [".*", "build", "dist", "src", "tests", "**/__pycache__", ".github/**"]

default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # a framework's base class documents its own methods
python_maximum_signature_line_length = 90
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_use_ivar = True
myst_heading_anchors = 3
copybutton_prompt_text, copybutton_prompt_is_regexp = r">>> |\.\.\. |\$ ", True

html_theme = "furo"
html_title = f"clipwise {version}"
html_static_path, html_css_files = ["static"], ["site.css"]
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "monokai"


def _toctrees(app, docname, source):
    """The navigation is read off the lists of each index.md: a heading is a caption, a link is a page.

    Pages of docs/ that no list names come last, so that none is lost.
    """
    # Where an example ends, doctest needs an empty line and readers do not.
    source[0] = re.sub(r"(^```python\n(?:(?!```).)*?)\n\n```$", r"\1\n```", source[0], flags=re.M | re.S)
    if docname == "README":
        source[0] = f"---\norphan: true\n---\n{source[0]}"
    folder, _, name = docname.rpartition("/")
    if name != "index":
        return
    listed = set()
    for caption, body in re.findall(r"^##? (.*)\n((?:(?!#).*\n)*)", source[0], re.MULTILINE):
        pages = re.findall(r"^- \[(.*?)\]\((.*?)\.md\)", body, re.MULTILINE)
        source[0] += _toctree(caption, [f"{text} <{page}>" for text, page in pages]) if pages else ""
        listed |= {os.path.normpath(f"{folder}/{page}") for _, page in pages}
    beside = {page for page in app.project.docnames if page.rpartition("/")[0] == folder}
    if more := sorted(beside - listed - {docname}):
        source[0] += _toctree("More", [page.rpartition("/")[2] for page in more])


def _toctree(caption, pages):
    return "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```\n"])


def _front_page(app, error):
    """The site begins at its root, whatever folder the first page lies in."""
    if error is None and app.builder.name == "html":
        go = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        Path(app.outdir, "index.html").write_text(f"<!doctype html>{go}<title>clipwise</title>\n")


def setup(app):
    app.connect("source-read", _toctrees)
    app.connect("build-finished", _front_page)
