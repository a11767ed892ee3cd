"""`mf2 report`: writes the results of an analysis as one self-contained web page."""

import argparse
from pathlib import Path

REPORT_NAME = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `mf2 report`."""
    parser.add_argument("run_folder", metavar="RUN_FOLDER", type=Path, help="output folder of `mf2 analyze`")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"page to write [RUN_FOLDER/{REPORT_NAME}]")
    parser.add_argument("--title", help="title of the page [name of the folder]")


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path."""
    print(write_report(args.run_folder, args.output, args.title))
    return 0


def write_report(run_folder: str | Path, output: str | Path | None = None, title: str | None = None) -> Path:
    """Write the page of an analysis.

    Args:
        run_folder: folder with the table of faces and `manifest.json`.
        output: HTML file to write; `report.html` in the folder by default.
        title: title of the page; the folder's name by default.
    Returns:
        The written file.
    Raises:
        FileNotFoundError: the folder has no analysis.
    """
    from ...utils.files import write_text
    from .page import render
    from .views import find_views, read_run

    run_folder = Path(run_folder)
    table, manifest = read_run(run_folder)
    findings = find_views(table, manifest["thresholds"])
    page = render(findings, manifest, title or run_folder.resolve().name)
    output = Path(output or run_folder / REPORT_NAME)
    write_text(output, page)
    return output
