"""`mf2 report`: one self-contained web page of what an analysis found."""

import argparse
from pathlib import Path

REPORT_NAME = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `mf2 report`."""
    parser.add_argument("run_folder", metavar="RUN_FOLDER", type=Path, help="what `mf2 analyze` wrote")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"page to write [RUN_FOLDER/{REPORT_NAME}]")
    parser.add_argument("--title", help="headline of the page [the name of the folder]")


def run(args: argparse.Namespace) -> int:
    """Write the page and say where it is."""
    print(write_report(args.run_folder, args.output, args.title))
    return 0


def write_report(run_folder: str | Path, output: str | Path | None = None, title: str | None = None) -> Path:
    """Write the page of an analysis.

    Args:
        run_folder: holds the table of faces and `manifest.json`.
        output: the HTML file; `report.html` in the folder by default.
        title: its headline; the folder's name by default.
    Returns:
        The file.
    Raises:
        FileNotFoundError: the folder holds no analysis.
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
