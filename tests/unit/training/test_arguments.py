"""Arguments of the training scripts: what wins, what is refused, and what the shipped configurations say."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mf2.hub.file_names import RESOLVED_NAME
from mf2.peft_dfn import DFNConfig
from mf2.training.arguments import FinetuneArguments, PretrainArguments, check_same_run, parse_arguments, save_resolved
from mf2.utils.command_line import run_script
from mf2.utils.yaml_files import load_yaml

ROOT = Path(__file__).parents[3]
CONFIGS = sorted(path for path in (ROOT / "training" / "configs").glob("*.yaml") if "accelerate" not in path.name)


def is_finetuning(path):
    return "method" in load_yaml(path)


def parse(*argv):
    return parse_arguments(PretrainArguments, [str(value) for value in argv])


@pytest.fixture
def config(tmp_path):
    """Write a YAML file and return its path."""

    def write(text):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return write


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(config):
    path = config("learning_rate: 2e-4\nseed: 7\n")
    arguments = parse("--config", path, "--seed", 8)
    assert (arguments.learning_rate, arguments.seed, arguments.weight_decay) == (2e-4, 8, 0.05)


def test_numbers_are_numbers_in_every_spelling(config):
    arguments = parse("--config", config("learning_rate: 1e-3\nwarmup_steps: 10\n"), "--min_learning_rate", "1E-6")
    assert arguments.learning_rate == 0.001
    assert arguments.warmup_steps == 10.0 and isinstance(arguments.warmup_steps, float)
    assert arguments.min_learning_rate == 1e-6


def test_text_stays_text(config):
    assert parse("--output_dir", "2024").output_dir == "2024"
    assert parse("--eval_data", "none").eval_data is None


def test_a_switch_needs_no_value():
    assert parse("--bf16").bf16 is True
    assert parse("--augment", "false").augment is False


def test_dots_reach_into_mappings_and_keep_the_rest(config):
    path = config("model: {emo_text: random, emo_config: {hidden_size: 64}}\n")
    arguments = parse("--config", path, "--model.emo_config.num_query_tokens", 8, "--model.use_au_vl=false")
    assert arguments.model == {
        "emo_text": "random",
        "emo_config": {"hidden_size": 64, "num_query_tokens": 8},
        "use_au_vl": False,
    }


@pytest.mark.parametrize(
    ("argv", "yaml_text", "message"),
    [
        (["--lerning_rate", "1"], "", "did you mean 'learning_rate'"),
        ([], "lerning_rate: 1", "did you mean 'learning_rate'"),
        ([], "max_steps: many", "max_steps is 'many', of type str; it must be int"),
        ([], "bf16: 1", "bf16 is 1, of type int; it must be bool"),
        (["--image_size", "8"], "", "image_size is 8; it must be >= 16"),
        (["--size", "huge"], "", "size is 'huge'; choose one of tiny, small, base, paper"),
        (["--per_device_train_batch_size", "0"], "", "per_device_train_batch_size is 0; it must be >= 1"),
        (["--min_learning_rate", "1"], "", "min_learning_rate is 1.0; it must be <= learning_rate"),
        (["--model_name_or_path", "x", "--init_text", "y"], "", "init_text would change a new model"),
        (["--model.emo_text"], "", "--model.emo_text has no value"),
        (["stray"], "", "'stray' follows no flag"),
        (["--seed.x", "1"], "seed: 3", "seed is not a mapping"),
        ([], "- a\n- b", "holds list instead of"),
        ([], "a: [", "is not valid YAML"),
    ],
)
def test_mistakes_are_named(config, argv, yaml_text, message):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        parse("--config", config(yaml_text or "seed: 1"), *argv)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no configuration file .*nowhere\.yaml"):
        parse("--config", tmp_path / "nowhere.yaml")


def test_the_resolved_configuration_runs_the_same(tmp_path):
    arguments = parse("--output_dir", tmp_path, "--model.au_pairs_per_image", 3, "--learning_rate", "3e-5")
    save_resolved(arguments, tmp_path)
    assert parse("--config", tmp_path / RESOLVED_NAME) == arguments


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    save_resolved(parse("--seed", 1), tmp_path)
    check_same_run(parse("--seed", 1, "--logging_steps", 3, "--output_dir", "elsewhere"), tmp_path)
    with pytest.raises(ValueError, match=r"another configuration \(seed 1 -> 2\)"):
        check_same_run(parse("--seed", 2), tmp_path)


def test_help_is_quick_and_complete():
    """It must not load torch, which takes seconds."""
    code = "import sys; from mf2.training import pretrain; pretrain.main(['--help'])"
    script = f"import sys, atexit; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {code}"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "False"
    for name in PretrainArguments.__dataclass_fields__:
        assert f"--{name} " in result.stdout


def test_a_script_says_what_it_logs(capsys):
    assert run_script(lambda: logging.getLogger("mf2.training").info("256 rows")) == 0
    assert capsys.readouterr().err == "256 rows\n"
    assert not logging.getLogger("mf2").handlers


# ------------------------------------------------------------------------------------------- shipped configurations
@pytest.mark.parametrize("path", [path for path in CONFIGS if is_finetuning(path)], ids=lambda path: path.stem)
def test_shipped_configurations_of_fine_tuning_are_valid(path):
    """Of one model and data set; the fields of an adapter are those that there are."""
    argv = ["--config", str(path), "--model", "m", "--data", "d"]
    arguments = parse_arguments(FinetuneArguments, argv)
    assert arguments.method == path.stem or arguments.method == "dfn"
    DFNConfig(**arguments.dfn)


@pytest.mark.parametrize("path", [path for path in CONFIGS if not is_finetuning(path)], ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path):
    from transformers import BertTokenizer

    from mf2.processing_mf2 import add_decoder_token
    from mf2.training.model_setup import build_config

    arguments = parse("--config", path)
    config = build_config(arguments, add_decoder_token(BertTokenizer()))
    assert config.label_space.au_codes[0] == "AU1"
    assert arguments.output_dir == f"outputs/{path.stem}"


def test_the_paper_configuration_is_table_vi():
    arguments = parse("--config", ROOT / "training" / "configs" / "paper.yaml")
    table = {
        "num_train_epochs": 30,
        "weight_decay": 0.05,
        "warmup_steps": 2000,
        "learning_rate": 1e-4,
        "image_size": 224,
        "per_device_train_batch_size": 56,
    }
    assert {name: getattr(arguments, name) for name in table} == table
    model = {"itc_temperature": 0.07, "au_text_length": 169, "emotion_text_length": 61}
    assert {name: arguments.model[name] for name in model} == model


def test_defaults_hold_what_the_paper_leaves_open():
    arguments = PretrainArguments()
    assert (arguments.adam_beta1, arguments.adam_beta2) == (0.9, 0.999)
    assert (arguments.min_learning_rate, arguments.max_grad_norm) == (1e-5, 1.0)


def test_the_accelerate_configuration_is_yaml():
    content = load_yaml(ROOT / "training" / "configs" / "accelerate_fsdp.yaml")
    assert content["distributed_type"] == "FSDP"
    assert yaml.safe_dump(content)
