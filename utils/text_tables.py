"""Delimiters and decimal points of text tables."""

DELIMITERS = ",;\t"


def find_delimiter(header: str) -> str:
    """The most frequent of comma, semicolon and tab in a header; a comma without any."""
    return max(DELIMITERS, key=header.count)


def decimal_point(delimiter: str, first_row: str) -> str:
    """A comma if cells are separated by semicolons and the row has commas, as in many locales; else a point."""
    return "," if delimiter == ";" and "," in first_row else "."
