"""`mf2 data caption`: writes the three captions of every image, from an offline template or a model."""

import argparse

from tqdm import tqdm

from ..stage_settings import collect_settings
from .arguments import COMPARED_IMAGES, DEFAULT_PROFILE, add_arguments
from .mfa_io import MfaImages
from .prompting import CaptionJob
from .results import ImageCaptions, template_image_captions
from .shortfall import check_share

_MODEL_OPTIONS = (
    *("profile", "base_url", "model", "schema", "compare", "rpm", "tpm", "answers"),
    *("batch_requests", "max_usd", "i_may_upload", "signatory"),
)
"""Options that only have a meaning with a model."""


def run(args: argparse.Namespace) -> int:
    """Caption a data set; returns 0 if it was written, 3 if the same command has to be run again."""
    check_share(args.min_valid)
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"-n is {args.limit}; it must be at least 1.")
    if not _uses_model(args):
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


def _uses_model(args: argparse.Namespace) -> bool:
    """Whether a model writes the captions: with a profile, a comparison or `--backend model`.

    Raises:
        ValueError: without these, an option that only has a meaning with a model is set.
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
            + (" instead of --backend template." if args.backend else ", or leave out the option.")
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

        settings = collect_settings(args, add_arguments)
        images.write(out_dir, captions_of, {"backend": "template", "seed": args.seed}, settings, args.limit)
    in_place = " (replaced in place once it was complete)" if args.out is None else ""
    print(f"{count:,} images with template captions: {out_dir}{in_place}")
    return 0
