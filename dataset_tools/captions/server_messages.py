"""Extracts the message from the body of a server's error response."""

import json
import re
from typing import Any

MAX_LENGTH = 300
"""Maximal number of characters of a message."""
_MESSAGE_KEYS = ("message", "detail", "details", "error", "errors", "msg", "title", "reason")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def server_message(body: Any) -> str:
    """Extract the message from the body of an error response, as one shortened line.

    Args:
        body: text (JSON, HTML or plain), or parsed JSON.
    """
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            body = _MARKUP.sub(" ", body) if body.lstrip().startswith("<") else body
    text = " ".join(_find_message(body).split())
    return f"{text[:MAX_LENGTH]}…" if len(text) > MAX_LENGTH else text or "no reason given"


def _find_message(body: Any) -> str:
    """The message in JSON: the value of a usual key, the messages of all entries of a list, else the JSON itself."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(_find_message(entry) for entry in body)
    if isinstance(body, dict):
        message = next((body[key] for key in _MESSAGE_KEYS if body.get(key)), None)
        if message is not None:
            location = ".".join(map(str, body["loc"])) + ": " if isinstance(body.get("loc"), list) else ""
            return f"{location}{_find_message(message)}"
    return "" if body is None else json.dumps(body, ensure_ascii=False)
