"""What the page says of a model's limits: the section of its card, or that of every card where it has none."""

import re
from types import SimpleNamespace

from markupsafe import Markup

from ..analysis.report.page import read_card, render_markdown
from ..dataset_tools.card_template import render_card

HEADING = "## Intended use and limits"


def render_limits(model: str) -> Markup:
    """The section on intended use and limits as safe HTML, without its heading."""
    text = find_limits(read_card(model) or "") or find_limits(render_card("_limits.md", evaluation=SimpleNamespace()))
    return render_markdown(text)


def find_limits(card: str) -> str:
    """The section of a card as Markdown; empty where it has none."""
    found = re.search(rf"^{re.escape(HEADING)}\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""
