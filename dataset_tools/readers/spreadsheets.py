"""Workbooks (*.xlsx) as text."""

import io
import zipfile

Sheets = dict[str, list[list[str]]]
"""Name of a sheet -> its rows of stripped cell texts; an empty cell is an empty text."""


def read_sheets(data: bytes, path: str) -> Sheets:
    """Read all sheets of a workbook, in order.

    Args:
        data: the bytes of the file.
        path: its path, for error messages.
    Raises:
        ImportError: openpyxl is not installed.
        ValueError: the file is not a workbook.
    """
    try:
        import openpyxl
    except ImportError:
        raise ImportError("Reading .xlsx files needs openpyxl: pip install 'mf2-face[xlsx]'.") from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        return {
            sheet.title: [["" if cell is None else str(cell).strip() for cell in row] for row in sheet.values]
            for sheet in book.worksheets
        }
    except (zipfile.BadZipFile, KeyError, ValueError, IndexError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a spreadsheet: {error}.") from None
