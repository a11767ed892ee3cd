"""A server's own words, out of whatever form its refusals have."""

import json
import re
from typing import Any

MAX_WORDS = 300
"""Characters of a server's own words that are kept."""
_WORD_KEYS = ("message", "detail", "details", "error", "errors", "msg", "title", "reason")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def server_words(body: Any) -> str:
    """What the body of a refusal says, in one line and cut; whatever form the server gave it.

    Args:
        body: text (JSON, HTML or plain), or JSON that was read already.
    """
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            body = _MARKUP.sub(" ", body) if body.lstrip().startswith("<") else body
    text = " ".join(_said(body).split())
    return f"{text[:MAX_WORDS]}…" if len(text) > MAX_WORDS else text or "no reason given"


def _said(body: Any) -> str:
    """The message inside JSON: under the usual keys, of every entry of a list, else the JSON itself."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(_said(entry) for entry in body)
    if isinstance(body, dict):
        told = next((body[key] for key in _WORD_KEYS if body.get(key)), None)
        if told is not None:
            place = ".".join(map(str, body["loc"])) + ": " if isinstance(body.get("loc"), list) else ""
            return f"{place}{_said(told)}"
    return "" if body is None else json.dumps(body, ensure_ascii=False)
