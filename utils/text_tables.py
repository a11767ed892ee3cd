"""What separates the cells of a table in a text file."""

DELIMITERS = ",;\t"


def find_delimiter(header: str) -> str:
    """The one of comma, semicolon and tab that stands most often in a header; a comma where none does."""
    return max(DELIMITERS, key=header.count)


def decimal_point(delimiter: str, first_row: str) -> str:
    """A comma where semicolons separate cells and a row has commas, as spreadsheets of half of the world write."""
    return "," if delimiter == ";" and "," in first_row else "."
