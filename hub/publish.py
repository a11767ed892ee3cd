"""`mf2 publish`: checks a checkpoint, an adapter or a data set, and pushes it to the Hub in one commit.

No other part of this project pushes to the Hub. The token is that of huggingface_hub (`hf auth login` or HF_TOKEN).
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # modules with torch are imported when needed, so that --help is fast
    from huggingface_hub import HfApi

    from mf2.hub.cards import Placement
    from mf2.hub.publish_contents import Contents
    from mf2.hub.publish_upload import State, Target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mf2 publish`."""
    parser.add_argument("path", help="folder of a checkpoint, an adapter, an exported data set or a recipe")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository; created if it does not exist")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", help="private repository [default for a new repository]")
    visibility.add_argument("--public", action="store_true", help="public repository, made public after the commit")
    parser.add_argument(
        "--permission",
        metavar="TEXT",
        help="who permitted the publication of restricted data, and how; shown on the card",
    )
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="branch to commit to [main]")
    parser.add_argument(
        "--base_repo", metavar="ORG/NAME", help="repository of the base model, if training used a local folder"
    )
    parser.add_argument(
        "--evaluation", metavar="FOLDER", help="output of `mf2 evaluate`, whose scores are shown on the card"
    )
    parser.add_argument("--eval_repo", metavar="ORG/NAME", help="data set that the scores were measured on")
    parser.add_argument("--space", metavar="ORG/NAME", help="also make a Space that shows the model in a browser")
    parser.add_argument(
        "--space_landmarker", type=Path, metavar="FILE", help="MediaPipe's face_landmarker.task, to go into the Space"
    )
    parser.add_argument("--dry_run", action="store_true", help="check and list, upload nothing")


def run(args: argparse.Namespace) -> None:
    """Publish; print the address, and code that loads this exact commit."""
    from huggingface_hub import HfApi

    from mf2.hub.cards import HUB_ID
    from mf2.hub.publish_contents import open_folder, prepare, use_evaluation
    from mf2.hub.publish_placement import find_placement
    from mf2.hub.publish_space import UNKNOWN_COMMIT, make_space
    from mf2.hub.publish_upload import explaining_hub_errors, upload

    for name in ("repo", "base_repo", "eval_repo", "space"):
        if (value := getattr(args, name)) and not HUB_ID.fullmatch(value):
            raise ValueError(f"--{name} is {value!r}; a repository is called owner/name.")
    contents, api = open_folder(args.path), HfApi()
    if args.evaluation:
        contents = use_evaluation(contents, args.evaluation)
    with explaining_hub_errors(args.repo):
        options = {name: getattr(args, name) for name in ("base_repo", "eval_repo", "permission")}
        placement = replace(find_placement(api, contents, args.repo, **options), space=args.space)
    contents = prepare(contents, placement)
    target, state = _find_target(api, args, args.repo, contents.repo_type, args.revision)
    _check_and_list(args, contents, target, state)
    if args.space:
        space = make_space(contents, placement, UNKNOWN_COMMIT, args.space, args.space_landmarker)
        space_target, space_state = _find_target(api, args, args.space, space.repo_type)
        _check_and_list(args, space, space_target, space_state)
    if args.dry_run:
        return
    with explaining_hub_errors(args.repo):
        commit = upload(api, contents, target, state)
    print(commit.commit_url)
    if args.space:
        space = make_space(contents, placement, commit.oid, args.space, args.space_landmarker)
        with explaining_hub_errors(args.space):
            print(upload(api, space, space_target, space_state).commit_url)
    print(pinned_lines(contents, placement, commit.oid))


def _find_target(
    api: "HfApi", args: argparse.Namespace, repo_id: str, repo_type: str, branch: str = "main"
) -> tuple["Target", "State"]:
    """Find the target of an upload and its state; a dry run assumes that it does not exist."""
    from mf2.hub.publish_upload import State, Target, explaining_hub_errors, find_state

    target = Target(repo_id, repo_type, branch, _parse_privacy(args))
    if args.dry_run:
        return target, State(exists=False)
    with explaining_hub_errors(repo_id):
        return target, find_state(api, target)


def _check_and_list(args: argparse.Namespace, contents: "Contents", target: "Target", state: "State") -> None:
    """Check the contents, then list them."""
    from mf2.hub.publish_checks import check

    is_private = state.private if target.private is None else target.private
    check(contents, is_public=not is_private, permission=args.permission)
    print(describe(contents, is_private))


def _parse_privacy(args: argparse.Namespace) -> bool | None:
    """True for private, False for public, None if not specified."""
    if args.private:
        return True
    return False if args.public else None


def describe(contents: "Contents", is_private: bool) -> str:
    """List the files to publish and those left out."""
    sizes = {path: contents.size(path) for path in contents.files}
    lines = [f"{contents.kind}, {'private' if is_private else 'public'}, {sum(sizes.values()):,} bytes:"]
    code = [path for path in sizes if contents.kind == "space" and path.startswith("mf2/")]
    lines += [f"  {size:>12,}  {path}" for path, size in sizes.items() if path not in code]
    if code:
        lines.append(f"  {sum(sizes[path] for path in code):>12,}  mf2/ ({len(code)} files of this package)")
    if contents.left_out:
        lines.append(f"stays here: {', '.join(contents.left_out)}")
    if contents.restricted:
        lines.append(f"inherits the terms of: {', '.join(contents.restricted)}")
    return "\n".join(lines)


def pinned_lines(contents: "Contents", placement: "Placement", sha: str) -> str:
    """Python code that loads this exact commit."""
    from mf2.hub.cards import loading_lines

    if contents.repo_type == "model":
        return loading_lines(placement.repo_id, sha, placement.base)
    if contents.kind == "recipe":
        call = f'snapshot_download("{placement.repo_id}", repo_type="dataset", revision="{sha}")'
        return f"from huggingface_hub import snapshot_download\n\nfolder = {call}"
    from mf2.dataset_tools.export import loading_line
    from mf2.dataset_tools.schema import FULL, read_manifest

    has_images = FULL in read_manifest(contents.source).get("configs", [])
    return f"from datasets import load_dataset\n\n{loading_line(placement.repo_id, has_images, sha)}"
