"""Renders cards from the Jinja templates in `model_cards/`; every figure on a card comes from its caller.

A template must not contain figures, a missing figure is an error rather than a blank, and so is one that is not
finite.
"""

import math
import re
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

TEMPLATES = Path(__file__).resolve().parent.parent / "model_cards"

_ALLOWED_NUMBERS = re.compile(
    r"^```.*?^```"  # code blocks
    r"|Art\. \d+(?:\(\w+\))*",  # articles of a law
    re.M | re.S,
)
_FIGURE = re.compile(r"(?<![\w.])(?:\d[\d.,]*\d|\d(?=\s*%))")


def render_card(template: str, *, templates: Path = TEMPLATES, **facts: Any) -> str:
    """Render a template.

    Args:
        template: file name of the template.
        templates: folder of the template and of the files that it includes.
        facts: the variables of the template.
    Raises:
        ValueError: the template uses a missing variable or contains a figure, or a value is not finite.
    """
    environment = jinja2.Environment(
        loader=_FigurelessLoader(templates),
        undefined=jinja2.StrictUndefined,
        finalize=_check_finite,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"score": _format_score, "count": _format_count, "percent": _format_percent}
    try:
        text = environment.get_template(template).render(**facts)
    except jinja2.UndefinedError as error:
        raise ValueError(f"The card {template} names something that was not measured: {error.message}.") from None
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


class _FigurelessLoader(jinja2.FileSystemLoader):
    """Loads templates; one with a figure in its text or its expressions is rejected."""

    def get_source(self, environment: jinja2.Environment, template: str) -> Any:
        source = super().get_source(environment, template)
        tree = environment.parse(source[0])
        text = "\0".join(node.data for node in tree.find_all(nodes.TemplateData))
        figures = _FIGURE.findall(_ALLOWED_NUMBERS.sub("", text))
        figures += [str(node.value) for node in tree.find_all(nodes.Const) if isinstance(node.value, float)]
        if figures:
            raise ValueError(
                f"The card template {template} states {', '.join(figures)}; a figure on a card has to be measured."
            )
        return source


def _check_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"A figure of the card is {value}; it must be finite.")
    return value


def _format_score(value: float | None) -> str:
    """A score with three decimals; a dash if it does not apply."""
    return "–" if value is None else f"{_check_finite(float(value)):.3f}"


def _format_percent(share: float) -> str:
    return f"{float(share):.0%}"


def _format_count(value: int | None) -> str:
    """A count with thousands separators; a dash if it was not recorded."""
    return "–" if value is None else f"{int(value):,}"
