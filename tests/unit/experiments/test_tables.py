"""Tables: what a cell shows, which runs are needed, and that finished ones are kept."""

import csv
import io
import math
import shlex
from pathlib import Path

import pytest

from mf2.baselines.registry import baseline_names
from mf2.experiments import paper_results, runs
from mf2.experiments.budgets import STEP_SECONDS_NAME
from mf2.experiments.runs import Run, RunFolder, run_all
from mf2.experiments.table_layouts import (
    FilledTable,
    Table,
    au_f1,
    emotion,
    make_tables,
    one_vs_rest,
    seconds_per_epoch,
)
from mf2.experiments.tables import choose_rows, choose_tables, to_csv, to_markdown
from mf2.experiments.transfer import TransferTable
from mf2.hub.file_names import METRICS_NAME
from mf2.training.arguments import FinetuneArguments, PretrainArguments, parse_arguments
from mf2.utils.files import write_json

SCORES = {"a": Run("a", "pretrain"), "b": Run("b", "pretrain")}


def metrics_with(f1: float) -> dict:
    return {"evaluation": {"aus": {"f1": f1, "per_au": {}}}}


def fill(values: dict[str, list[float]]) -> FilledTable:
    table = Table("T", SCORES, {"mean": au_f1()}, {"Other": (50.0,)}, ["mean"], "a", ("a note",))
    return FilledTable(table, {row: {"mean": of_seeds} for row, of_seeds in values.items()})


def test_a_cell_is_the_mean_and_the_deviation_over_seeds():
    filled = fill({"a": [10.0, 20.0, 30.0], "b": [12.0, None, None]})
    assert filled.show("a", "mean") == "20.00 ± 10.00"
    assert filled.show("b", "mean") == "12.00"


def test_a_difference_pairs_equal_seeds_and_has_students_interval():
    filled = fill({"a": [10.0, 20.0, 30.0], "b": [11.0, 23.0, 32.0]})
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t(0.975, 2) · sd of (1, 3, 2) / √3
    assert filled.difference("b", "mean") == f"+2.00 [{2 - half:+.2f}, {2 + half:+.2f}]"


def test_what_was_not_measured_is_no_number():
    filled = fill({"a": [None, None], "b": [1.0, 2.0]})
    assert filled.show("a", "mean") == "–"
    assert filled.difference("b", "mean") == "–"


def test_one_vs_rest_accuracy_from_a_confusion_matrix():
    """Two of ten faces are of class B; one is missed, and one of A is taken for B: two of ten are wrong."""
    scores = {"num_labelled": 10, "per_class": {"A": {}, "B": {}}, "confusion": [[7, 1], [1, 1]]}
    metrics = {"evaluation": {"emotion": scores}}
    assert one_vs_rest("B")(metrics) == pytest.approx(80.0)
    assert one_vs_rest("Contempt")(metrics) is None
    assert emotion("top1")({"evaluation": {"emotion": {"num_labelled": 0}}}) is None


def test_the_papers_tables_agree_with_their_own_means_where_they_should():
    """Table II's means verify; those of the two ablations in Table IV are half a point too high, as the note says."""
    for *values, printed in paper_results.TABLE_II.values():
        assert sum(values) / 12 == pytest.approx(printed, abs=0.011)
    for name, (*values, printed, _, _, _) in paper_results.TABLE_IV.items():
        slip = 0.5 if name in ("w/o Emo-VL", "w/o AU-VL") else 0.0
        assert printed - sum(values) / 8 == pytest.approx(slip, abs=0.011)


def test_a_table_as_markdown_and_csv():
    filled = fill({"a": [10.0, 20.0], "b": [11.0, 22.0]})
    text = to_markdown("II", filled)
    assert "Other, the paper" in text and "50.00" in text
    assert "15.00 ± 7.07" in text and "Differences from a" in text and "- a note" in text
    rows = list(csv.reader(io.StringIO(to_csv(filled, [0, 1]))))
    assert rows[1:] == [
        ["a", "mean", "0", "10.0"],
        ["a", "mean", "1", "20.0"],
        ["b", "mean", "0", "11.0"],
        ["b", "mean", "1", "22.0"],
    ]


def test_every_table_names_its_runs_without_contradiction():
    """A run's name stands for it: wherever it appears it has the same flags and base."""
    tables = make_tables("data", "llm", {"data": "task"}, {"other": "other.csv"}, baseline_names())
    by_name: dict[str, Run] = {}
    for table in tables.values():
        assert table.compare_with is None or table.compare_with in table.rows
        for run in (needed for row in table.rows.values() for needed in row.with_bases()):
            assert by_name.setdefault(run.name, run) == run
    assert tables["II"].rows["other"].flags == {"predictions": "other.csv", "data": "data"}


def test_every_system_of_the_papers_tables_is_a_row_beside_the_papers():
    tables = make_tables("data", None, {"data": "task"}, {}, baseline_names())
    assert {*paper_results.TABLE_II} <= {*tables["II"].rows} and {*paper_results.TABLE_III} <= {*tables["III"].rows}
    assert tables["II"].rows["Exp-BLIP"].flags["baseline_options.captions"] == "au"
    assert tables["III"].rows["Exp-BLIP"].flags["baseline_options.captions"] == "emotion"
    assert "linear heads" in tables["II"].rows and "linear heads" in tables["III"].rows
    assert "EfficientNet-B0" in tables["III"].notes[-1] and set(tables["IV"].rows) == set(
        make_tables("data", None, {"data": "task"}, {})["IV"].rows
    )


def test_the_command_of_a_system_is_understood(tmp_path):
    """With a YAML file that asks for what MF² alone has, too."""
    config = Path(runs.PACKAGE, "training", "configs", "photographs.yaml")
    folder = RunFolder(tmp_path, {"pretrain": str(config)})
    for run in make_tables("data", None, {"data": "task"}, {}, baseline_names())["II"].rows.values():
        if "baseline" in run.flags:
            parsed = parse_arguments(PretrainArguments, folder.command(run, 1)[2:])
            assert parsed.baseline == run.flags["baseline"] and parsed.feature_views is None and not parsed.probes


def test_the_table_of_valence_and_arousal_trains_them_and_shows_their_scores(tmp_path):
    table = make_tables("data", None, {"data": "task"}, {})["affect"]
    commands = {name: RunFolder(tmp_path, {}).command(run, 1)[2:] for name, run in table.rows.items()}
    pretrained = parse_arguments(PretrainArguments, commands["pre-trained with valence and arousal"])
    assert pretrained.model == {"affect": True, "affect_weight": 2.0}
    assert parse_arguments(FinetuneArguments, commands["DFN with valence and arousal, on a base without"]).affect
    scores = {"affect": {"per_dimension": {"valence": {"ccc": 0.8}}}, "mtl_sum": 2.25}
    columns = ("CCC valence", "CCC arousal", "P")
    assert [table.columns[column]({"evaluation": scores}) for column in columns] == [0.8, None, 2.25]
    assert [table.columns[column]({"evaluation": {}}) for column in columns] == [None, None, None]


def test_finished_runs_are_kept_and_bases_come_first(tmp_path: Path, monkeypatch):
    started = []

    def pretend(folder: RunFolder, run: Run, seed: int) -> None:
        if folder.metrics(run, seed) is None:
            started.append((run.name, seed))
            folder.path(run, seed).mkdir(parents=True, exist_ok=True)
            write_json(folder.path(run, seed) / METRICS_NAME, metrics_with(0.5))

    monkeypatch.setattr(runs, "run_once", pretend)
    folder = RunFolder(tmp_path, {"pretrain": "p.yaml"})
    base = Run("base", "pretrain", {"train_data": "d"})
    adapted = Run("adapted", "finetune", {"method": "dfn"}, base)
    run_all(folder, [adapted], [0, 1], 1)
    run_all(folder, [adapted, base], [0, 1], 1)
    assert started == [("base", 0), ("adapted", 0), ("base", 1), ("adapted", 1)]
    command = folder.command(adapted, 1)
    assert command[command.index("--model") + 1] == str(folder.path(base, 1))
    assert command[command.index("--seed") + 1] == "1"
    assert FilledTable.read(Table("T", {"adapted": adapted}, {"mean": au_f1()}), folder, [0, 1]).show(
        "adapted", "mean"
    ) == ("50.00 ± 0.00")


def test_a_run_that_fails_says_where_its_log_is(tmp_path: Path):
    folder = RunFolder(tmp_path, {})
    with pytest.raises(ChildProcessError, match=r"broken with seed 3 ended with status 1: .*'nonsense'.*run\.log"):
        run_all(folder, [Run("broken", "pretrain", {"nonsense": "1"})], [3], 1)


def test_transfer_tests_everybody_everywhere(tmp_path: Path):
    base = Run("pretrain", "pretrain")
    transfer = TransferTable({"A": "a", "B": "b"}, base)
    assert list(transfer.trained) == ["base", "DFN on A", "DFN on B", "full on A", "full on B"]
    assert len(transfer.runs) == 10
    folder = RunFolder(tmp_path, {})
    test = transfer.evaluation(transfer.trained["DFN on A"], "B")
    folder.path(test, 0).mkdir(parents=True)
    scores = metrics_with(0.25)
    scores["evaluation"]["emotion"] = {"num_labelled": 0}
    write_json(folder.path(test, 0) / METRICS_NAME, scores)
    text = transfer.to_markdown(folder, [0])
    assert "| DFN on A | – | 25.00 |" in text.replace("  ", " ").replace("  ", " ")
    transfer.draw(folder, [0])
    assert (tmp_path / "transfer.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="two or more"):
        TransferTable({"A": "a"}, base)


ALL = make_tables("data", None, {"data": "task"}, {}, baseline_names())


@pytest.fixture
def timed(tmp_path: Path) -> RunFolder:
    """A results folder in which linear heads take a quarter of MF²'s time, and all others nearly as long."""
    (tmp_path / "config.yaml").write_text("max_steps: 100\n")
    names = {run.name for name in ("II", "III") for run in ALL[name].rows.values()}
    seconds = {name: {"seconds_per_step": {"baseline-linear": 0.1, "pretrain": 0.4}.get(name, 0.41)} for name in names}
    write_json(tmp_path / STEP_SECONDS_NAME, {"runs": seconds})
    return RunFolder(tmp_path, {"pretrain": str(tmp_path / "config.yaml")})


def test_equal_time_is_counted_in_steps_of_each(timed: RunFolder):
    both = choose_tables(ALL, ["II", "III", "IV", "transfer"], ["steps", "time"], timed)
    assert list(both) == ["II", "III", "IV", "II at equal time", "III at equal time"]
    same, longer = both["II"].rows, both["II at equal time"].rows
    assert longer["linear heads"].name == "baseline-linear-400-steps"
    assert longer["linear heads"].flags["max_steps"] == "400" and "max_steps" not in same["linear heads"].flags
    assert longer["ME-GraphAU"] is same["ME-GraphAU"], "2.5 % is less than what times are known to"
    note = both["II at equal time"].notes[-1]
    assert "100 of MF² (pre-train)" in note and "linear heads 400" in note and "ME-GraphAU 100" in note
    assert list(choose_tables(ALL, ["II", "IV"], ["time"], timed)) == ["IV", "II at equal time"]


def test_equal_time_needs_a_number_of_steps(timed: RunFolder):
    with pytest.raises(ValueError, match=r"--budgets time counts in steps of MF².*max_steps"):
        choose_tables(ALL, ["II"], ["time"], RunFolder(timed.root, {"pretrain": None}))


def test_times_of_other_systems_are_not_enough(timed: RunFolder):
    write_json(timed.root / STEP_SECONDS_NAME, {"runs": {"pretrain": {"seconds_per_step": 1.0}}})
    with pytest.raises(ValueError, match=f"{STEP_SECONDS_NAME} has no 'baseline-.*remove it"):
        choose_tables(ALL, ["II"], ["time"], timed)


def test_rows_are_chosen_by_name():
    tables = {name: ALL[name] for name in ("II", "III")}
    assert [run.name for run in choose_rows(tables, ["HSEmotion", "Exp-BLIP"])] == [
        "baseline-exp_blip-au",
        "baseline-exp_blip-emotion",
        "baseline-hsemotion-shared",
    ]
    with pytest.raises(ValueError, match=r"--rows has 'hsemotion'; the tables have .*HSEmotion"):
        choose_rows(tables, ["hsemotion"])


def test_commands_for_a_queue_are_independent_of_each_other(tmp_path: Path):
    """A base stands before what starts from it, in one line; what is done is left out."""
    folder = RunFolder(tmp_path, {})
    base, alone = Run("base", "pretrain"), Run("alone", "pretrain", {"model": "{a: 1}"})
    runs_given = [Run("x", "finetune", base=base), alone, Run("y", "finetune", base=base)]
    folder.path(alone, 1).mkdir(parents=True)
    write_json(folder.path(alone, 1) / METRICS_NAME, metrics_with(0.5))
    lines = runs.list_commands(folder, runs_given, [0, 1])
    assert len(lines) == 3 and [line.count(" && ") for line in lines] == [2, 0, 2]
    assert shlex.split(lines[1])[-1] == str(folder.path(alone, 0)) and "'{a: 1}'" in lines[1]
    assert [shlex.split(part)[-1] for part in lines[0].split(" && ")] == [
        str(tmp_path / "runs" / "seed-0" / name) for name in ("base", "x", "y")
    ]


@pytest.mark.parametrize(("epochs", "expected"), [(4.0, 3.0), (0.05, None)])
def test_the_time_of_an_epoch_is_that_of_whole_ones(epochs, expected):
    training = {"seconds": 10.0, "preparation_seconds": 2.0, "epochs": epochs}
    assert seconds_per_epoch({"training": training}) == expected
