"""The site, built by `make docs`: Markdown pages, the API from docstrings, the command line from the program."""

import gc
import importlib.metadata
from importlib.util import find_spec

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

gc.disable()  # a quarter of the time of a build, which ends soon, goes to looking for garbage

project = "cvrnet"
author = "the cvrnet authors"
release = importlib.metadata.version("cvrnet")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_heading_anchors = 4  # links to headings, as GitHub has them
default_role = "literal"  # docstrings write `code`
pygments_style = "friendly"
smartquotes = False  # --option stays --option
myst_enable_extensions = ["dollarmath"]
html_math_renderer = "mathml"  # no script from elsewhere

OPTIONAL = (
    "accelerate", "cv2", "datasets", "gradio", "h5py", "matplotlib", "nibabel", "onnx", "onnxruntime", "onnxscript",
    "openvino", "pydicom", "scipy", "sklearn",
)  # fmt: skip
autodoc_mock_imports = [name for name in OPTIONAL if find_spec(name) is None]  # what the extras bring
autodoc_inherit_docstrings = False  # of torch.nn.Module
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_type_aliases = {"NDArray": "NDArray"}
python_maximum_signature_line_length = 110
napoleon_use_ivar = True  # attributes as one list

html_theme = "furo"
html_title = "cvrnet"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_show_copyright = html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"

ELSEWHERE = {
    "README": "/index.md",
    "CHANGELOG": "/changelog.md",
    "CONTRIBUTING": "/contributing.md",
    "examples/timm_train": "/howto/timm-train.md",
}


def follow_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Links to Markdown files above docs/ lead to the site's own pages; on GitHub they lead to the files.

    Links to any other file above docs/ need no rule: they become downloads.
    """
    above = "../" * (docname.count("/") + 1)
    for name, page in ELSEWHERE.items():
        source[0] = source[0].replace(f"]({above}{name}.md", f"]({page}")


def show_examples(app: Sphinx, context: object, lines: list[str]) -> None:
    """Show the parts of `--help` after a backspace as code, and its other text without markup."""
    shown, code = [], False
    for line in lines:
        if not line.startswith("| "):
            code = False
            shown.append(line.replace("*", r"\*"))
        elif line == "| Examples:":
            code = True
            shown += ["**Examples**", "", ".. code-block:: shell", ""]
        else:
            shown += [] if code else [".. code-block:: text", ""]
            code = True
            shown.append("   " + line.removeprefix("| ").removeprefix("  "))
    lines[:] = shown


def escape_options(app: Sphinx, context: object, lines: list[str]) -> None:
    """Escape asterisks in the help of an option, which is plain text."""
    lines[:] = [line if line.startswith(".. ") else line.replace("*", r"\*") for line in lines]


def keep_comments(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Show the text of a field or property as it is: napoleon would read words before its first colon as a type."""
    if what in ("attribute", "property", "data"):
        lines.insert(0, "\\ ")  # shown as nothing


def render_math(translator: nodes.NodeVisitor, node: nodes.Node) -> None:
    """A formula as MathML, which browsers draw by themselves."""
    translator.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """The entry point that Sphinx calls."""
    app.add_html_math_renderer("mathml", (render_math, None), (render_math, None))
    app.connect("source-read", follow_links)
    app.connect("autodoc-process-docstring", keep_comments, priority=400)  # napoleon: 500
    app.connect("sphinx-click-process-description", show_examples)
    app.connect("sphinx-click-process-options", escape_options)
