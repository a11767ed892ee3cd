"""`mf2 data caption`: the three captions of every image, offline from a template or from a model."""

import argparse
from pathlib import Path

from tqdm import tqdm

from ..stage_settings import settings_of
from .mfa_io import MfaImages
from .profiles import SCHEMAS
from .prompting import PROMPTS_FOLDER, CaptionJob
from .results import ImageCaptions, template_image_captions
from .shortfall import check_share

_MODEL_OPTIONS = (
    *("profile", "base_url", "model", "schema", "compare", "rpm", "tpm", "answers"),
    *("batch_requests", "max_usd", "i_may_upload", "signatory"),
)
"""Options that say something about a model."""
DEFAULT_PROFILE = "current"
COMPARED_IMAGES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("data", type=Path, help="data set folder")
    add(
        "--output_dir",
        "--out",
        dest="out",
        type=Path,
        help="folder of the captioned data set (default: in the place of DATA)",
    )
    add("--backend", choices=("template", "model"), help="template is offline, the default without --profile")
    add("-n", "--limit", type=int, metavar="N", help="only N images, evenly spread")
    add("--seed", type=int, default=0, help="of the template (default: %(default)s)")
    add("--dry_run", action="store_true", help="print what would be asked and what it would cost")
    _add_model_arguments(parser)
    _add_run_arguments(parser)
    _add_batch_arguments(parser)
    _add_money_arguments(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--profile", metavar="NAME", help=f"paper, current, local or one of --profiles (default: {DEFAULT_PROFILE})")
    add("--profiles", type=Path, metavar="FILE", help="YAML file with profiles of your own")
    add("--base_url", metavar="URL", help="another OpenAI-compatible server")
    add("--model", metavar="NAME", help="another model")
    add(
        "--schema",
        choices=SCHEMAS,
        help="how the form of an answer is asked for (default: as the profile says, or less where that is refused)",
    )
    add("--prompts", type=Path, default=PROMPTS_FOLDER, metavar="DIR", help="folder with prompt files of your own")
    add("--tokenizer", metavar="NAME", help="tokenizer that counts a caption's tokens (default: an estimate)")
    add("--compare", nargs=2, metavar=("A", "B"), help=f"compare two profiles, on -n {COMPARED_IMAGES} images")


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("run").add_argument
    add("--store", type=Path, metavar="DIR", help="folder of what was asked and answered (default: OUT.captions)")
    add("--concurrency", type=int, default=16, metavar="N", help="requests at once (default: %(default)s)")
    add("--rpm", type=float, metavar="N", help="requests a minute (default: what the server says)")
    add("--tpm", type=float, metavar="N", help="tokens a minute (default: what the server says)")
    add("--timeout", type=float, default=120.0, metavar="S", help="seconds for an answer (default: %(default)s)")
    add("--max_reasks", type=int, default=2, metavar="N", help="of an invalid answer (default: %(default)s)")
    add(
        "--in_doubt",
        choices=("resend", "skip"),
        default="resend",
        help="requests that were sent and never answered: resend may pay twice (default: %(default)s)",
    )
    add("--retry_dead", action="store_true", help="ask for the dead letters of earlier runs again")
    add(
        "--fallback",
        choices=("none", "template"),
        default="none",
        help="what stands in for a caption that there is none of, marked as such (default: %(default)s)",
    )
    add(
        "--min_valid",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="write nothing, and stop after the pilot, where fewer captions are valid (default: %(default)s)",
    )


def _add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("batch").add_argument
    add(
        "--mode",
        choices=("online", "batch", "write-shards"),
        default="online",
        help="batch uses the Batch API; write-shards writes its files for `vllm run-batch` (default: %(default)s)",
    )
    add("--batch_requests", type=int, metavar="N", help="requests in one batch file (default: as many as are allowed)")
    add("--poll", type=float, default=30.0, metavar="S", help="seconds between looks (default: %(default)s)")
    add("--no_wait", action="store_true", help="submit and end; the same command collects later")
    add("--answers", type=Path, nargs="+", metavar="FILE", help="answers of `vllm run-batch` to written shards")


def _add_money_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("money and permission").add_argument
    add("--pilot", type=int, default=30, metavar="N", help="requests before the estimate (default: %(default)s)")
    add("--max_usd", type=float, metavar="USD", help="never spend more, earlier runs on the store included")
    add("--yes", action="store_true", help="do not ask whether the estimate is fine")
    add("--prices", type=Path, metavar="FILE", help="YAML file with prices of your own")
    add("--i_may_upload", metavar="AGREEMENT", help="the agreement that allows uploading the images")
    add("--signatory", metavar="NAME", help="who signed it")


def run(args: argparse.Namespace) -> int:
    """Caption a data set; 0 when it was written, 3 when the same command has to be run again."""
    check_share(args.min_valid)
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"-n is {args.limit}; it must be at least 1.")
    if not _asks_model(args):
        return _caption_with_template(args)
    try:
        from .session import compare_profiles, run_session
    except ModuleNotFoundError as error:
        if error.name != "openai":
            raise
        raise ImportError("Asking a model needs the openai client: pip install 'mf2-face[captions]'.") from error

    if args.compare:
        args.limit = args.limit or COMPARED_IMAGES
        return compare_profiles(args)
    args.profile = args.profile or DEFAULT_PROFILE
    return run_session(args)


def _asks_model(args: argparse.Namespace) -> bool:
    """Whether a model writes the captions, which a profile, a comparison or `--backend model` asks for.

    Raises:
        ValueError: other options only have a meaning with a model, and none of these is there.
    """
    if args.backend != "template" and (args.backend or args.profile or args.compare):
        return True
    given = [name for name in _MODEL_OPTIONS if getattr(args, name) is not None]
    given += ["mode"] * (args.mode != "online")
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise ValueError(
            f"{options} {'needs' if len(given) == 1 else 'need'} a model, and the template would write the captions: "
            "pass --profile NAME or --backend model"
            + (" instead of --backend template." if args.backend else ", or leave the option away.")
        )
    return False


def _caption_with_template(args: argparse.Namespace) -> int:
    images = MfaImages(args.data)
    out_dir = args.out or args.data
    count = images.count(args.limit)
    if args.dry_run:
        print(f"{count:,} images would get template captions into {out_dir}; nothing would leave this machine.")
        return 0
    with tqdm(total=count, unit="image", desc="captions") as bar:

        def captions_of(job: CaptionJob) -> ImageCaptions:
            bar.update()
            return template_image_captions(job, args.seed)

        settings = settings_of(args, add_arguments)
        images.write(out_dir, captions_of, {"backend": "template", "seed": args.seed}, settings, args.limit)
    in_place = " (in the place of the old one, which stood until this one was whole)" if args.out is None else ""
    print(f"{count:,} images with template captions: {out_dir}{in_place}")
    return 0
