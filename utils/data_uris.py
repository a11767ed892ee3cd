"""Data URIs: content that stands in a page or a request instead of an address."""

import base64


def make_data_uri(content: bytes, media_type: str) -> str:
    """The content as `data:MEDIA_TYPE;base64,…`."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
