"""Cards from the Jinja templates of `model_cards/`: every figure on a card was handed in.

A template cannot bring a figure of its own, a figure that is missing is an error instead of a blank, and one that is
not finite is refused.
"""

import math
import re
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

TEMPLATES = Path(__file__).resolve().parent.parent / "model_cards"

_NO_FIGURES = re.compile(
    r"^```.*?^```"  # code to copy
    r"|Art\. \d+(?:\(\w+\))*",  # a paragraph of a law
    re.M | re.S,
)
_FIGURE = re.compile(r"(?<![\w.])(?:\d[\d.,]*\d|\d(?=\s*%))")


def render_card(template: str, *, templates: Path = TEMPLATES, **facts: Any) -> str:
    """Fill a template of the folder.

    Args:
        template: its file name.
        templates: the folder; what it includes is looked for there too.
        facts: what it may name.
    Raises:
        ValueError: the template wants a fact that is not there, or holds a figure; a fact is not finite.
    """
    environment = jinja2.Environment(
        loader=_FigurelessLoader(templates),
        undefined=jinja2.StrictUndefined,
        finalize=_finite,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"score": _score, "count": _count, "percent": lambda share: f"{float(share):.0%}"}
    try:
        text = environment.get_template(template).render(**facts)
    except jinja2.UndefinedError as error:
        raise ValueError(f"The card {template} names something that was not measured: {error.message}.") from None
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


class _FigurelessLoader(jinja2.FileSystemLoader):
    """Templates of a folder; one with a figure in its text or its expressions is refused."""

    def get_source(self, environment: jinja2.Environment, template: str) -> Any:
        source = super().get_source(environment, template)
        tree = environment.parse(source[0])
        text = "\0".join(node.data for node in tree.find_all(nodes.TemplateData))
        figures = _FIGURE.findall(_NO_FIGURES.sub("", text))
        figures += [str(node.value) for node in tree.find_all(nodes.Const) if isinstance(node.value, float)]
        if figures:
            raise ValueError(
                f"The card template {template} states {', '.join(figures)}; a figure on a card has to be measured."
            )
        return source


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"A figure of the card is {value}; it must be finite.")
    return value


def _score(value: float | None) -> str:
    """Three decimals, or a dash for what does not apply."""
    return "–" if value is None else f"{_finite(float(value)):.3f}"


def _count(value: int | None) -> str:
    """With thousands set apart, or a dash for what nobody recorded."""
    return "–" if value is None else f"{int(value):,}"
