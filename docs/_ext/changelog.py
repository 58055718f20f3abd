"""The directive ``changelog``: CHANGELOG.md as a page, so that it is written once."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

_SOURCE = Path(__file__).resolve().parents[2] / "CHANGELOG.md"


def restructured(markdown: str) -> str:
    """Headings, lists, code and links of a Markdown file as reStructuredText; its title is left to the page."""
    text = re.sub(r"^# .*\n", "", markdown)
    for marks, rule in (("##", "-"), ("###", "~")):
        text = re.sub(rf"^{marks} (.+)$", lambda match, rule=rule: _heading(match[1], rule), text, flags=re.MULTILINE)
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)
    return re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", text)


def _heading(title: str, rule: str) -> str:
    return f"{title}\n{rule * len(title)}\n"


class Changelog(SphinxDirective):
    """The file, converted."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(_SOURCE))
        text = restructured(_SOURCE.read_text(encoding="utf-8"))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app):
    app.add_directive("changelog", Changelog)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
