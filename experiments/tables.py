r"""Makes the paper's tables and further ones, running the required trainings.

    mf2 tables --tables II III IV V captions methods --data data/faces --output_dir results \
        --seeds 0 1 2 --pretrain_config training/configs/demo.yaml --finetune_config training/configs/dfn.yaml

Repeating the command resumes an interrupted run. Writes `tables.md` and one CSV file per table, with the values of all
seeds, into OUTPUT_DIR.
"""

import argparse
import csv
import io
from collections.abc import Mapping, Sequence

from mf2.experiments.arguments import TRANSFER
from mf2.experiments.budgets import give_equal_time
from mf2.experiments.runs import Run, RunFolder, list_commands, run_all
from mf2.experiments.table_layouts import OURS, FilledTable, Table, make_tables
from mf2.experiments.transfer import TransferTable
from mf2.utils.files import write_text
from mf2.utils.markdown import markdown_table

COMPARED = ("II", "III")
"""Tables with other systems."""


def run(args: argparse.Namespace) -> None:
    """Run what is not finished, and write and print the tables."""
    task = {"data": args.task_data or args.data, "au_ids": args.task_au_ids, "emotions": args.task_emotions}
    systems = dict(parse_named(text, "--systems") for text in args.systems)
    tables = make_tables(
        args.data, args.llm_data, {name: value for name, value in task.items() if value}, systems, args.baselines
    )
    folder = RunFolder(args.output_dir, {"pretrain": args.pretrain_config, "finetune": args.finetune_config})
    chosen = choose_tables(tables, args.tables, args.budgets, folder)
    transfer = None
    if TRANSFER in args.tables:
        data = dict(parse_named(text, "--transfer_data") for text in args.transfer_data)
        transfer = TransferTable(data, tables["II"].rows[OURS])
    runs = [*choose_rows(chosen, args.rows), *(transfer.runs if transfer else [])]
    if args.list_commands:
        print("\n".join(list_commands(folder, runs, args.seeds)))
        return
    if not args.only_show:
        run_all(folder, runs, args.seeds, args.parallel)
    filled = {name: FilledTable.read(table, folder, args.seeds) for name, table in chosen.items()}
    texts = [to_markdown(name, table) for name, table in filled.items()]
    if transfer:
        texts.append(transfer.to_markdown(folder, args.seeds))
    text = f"# Tables\n\nSeeds {', '.join(map(str, args.seeds))}; mean ± standard deviation.\n\n" + "\n".join(texts)
    write_text(args.output_dir / "tables.md", text)
    for name, table in filled.items():
        write_text(args.output_dir / f"table_{name.replace(' ', '_')}.csv", to_csv(table, args.seeds))
    print(text)
    if transfer:
        transfer.draw(folder, args.seeds)


def choose_tables(
    tables: Mapping[str, Table], names: Sequence[str], budgets: Sequence[str], folder: RunFolder
) -> dict[str, Table]:
    """Select the named tables; those with other systems once per budget."""
    found = {name: tables[name] for name in names if name in tables and ("steps" in budgets or name not in COMPARED)}
    if "time" in budgets and (compared := [name for name in names if name in COMPARED]):
        timed = give_equal_time({name: tables[name] for name in COMPARED}, tables["II"].rows[OURS], folder)
        found |= {f"{name} at equal time": timed[name] for name in compared}
    return found


def choose_rows(tables: Mapping[str, Table], names: Sequence[str] | None) -> list[Run]:
    """Select the runs of the named rows, or of all rows.

    Raises:
        ValueError: no table has such a row.
    """
    rows = [(title, run) for table in tables.values() for title, run in table.rows.items()]
    titles = {title for title, _ in rows}
    for name in names or ():
        if name not in titles:
            raise ValueError(f"--rows has {name!r}; the tables have {', '.join(sorted(titles))}.")
    return [run for title, run in rows if names is None or title in names]


def parse_named(text: str, flag: str) -> tuple[str, str]:
    """Parse `NAME=VALUE`; raises a `ValueError` for other texts."""
    name, is_pair, value = text.partition("=")
    if not (name and is_pair and value):
        raise ValueError(f"{flag} is {text!r}; it must be NAME=PATH.")
    return name, value


def to_markdown(name: str, filled: FilledTable) -> str:
    """Format a table: the paper's rows, ours, and the differences."""
    table = filled.table
    columns = list(table.columns)
    rows = [[f"{row}, the paper", *paper_cells(table, values)] for row, values in table.paper.items()]
    rows += [[row, *(filled.show(row, column) for column in columns)] for row in table.rows]
    parts = [f"## {name}. {table.title}\n", markdown_table(["", *columns], rows)]
    if table.compare_with:
        others = [row for row in table.rows if row != table.compare_with]
        cells = [[row, *(filled.difference(row, column) for column in columns)] for row in others]
        parts += [
            f"Differences from {table.compare_with}, with 95 % intervals:\n",
            markdown_table(["", *columns], cells),
        ]
    return "\n".join([*parts, *(f"- {note}" for note in table.notes), ""])


def paper_cells(table: Table, values: Sequence[float]) -> list[str]:
    """The cells of a row of the paper; empty in columns that it lacks."""
    known = dict(zip(table.paper_columns, values, strict=True))
    return [f"{known[column]:.2f}" if column in known else "" for column in table.columns]


def to_csv(filled: FilledTable, seeds: Sequence[int]) -> str:
    """Format as CSV, one line per row, column and seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "seed", "value"])
    for row, columns in filled.values.items():
        for column, values in columns.items():
            writer.writerows([row, column, seed, value] for seed, value in zip(seeds, values, strict=True))
    return text.getvalue()
