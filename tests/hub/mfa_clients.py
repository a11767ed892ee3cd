"""What readers of a data set on the loopback Hub do, in a process of their own."""

from pathlib import Path
from typing import Any

from datasets import load_dataset

from mf2.data_loading.splits import Split, describe_rows, find_label_space
from mf2.dataset_tools.hub_manifest import describe_origin
from mf2.dataset_tools.join import join_images
from mf2.dataset_tools.schema import load_mfa, read_manifest
from mf2.evaluation.protocols import load_protocol


def batch_rows(path: str) -> int:
    """How many rows training and evaluation find there."""
    label_space = find_label_space([path], "train")
    return len(Split.join([path], "train", None, label_space).faces) + len(
        load_protocol(path, "validation", "mfa", label_space.au_ids).faces
    )


def origins(repo_id: str, bare_id: str, joined: str) -> dict[str, Any]:
    """What is recorded of data from the Hub: with a manifest, with a card alone, and joined with pictures."""
    described = describe_rows(f"{repo_id}:full", "train", load_mfa(repo_id, "train"))
    return {"whole": described, "bare": describe_origin(bare_id), "joined": read_manifest(joined)["license"]}


def joined_red(repo_id: str, pictures: Path, out: Path) -> list[int]:
    """The red values of the annotations joined with other pictures."""
    return [row["image"].getpixel((0, 0))[0] for row in load_mfa(join_images(repo_id, pictures, out), "train")]


def read_data_set(repo_id: str, bare_id: str, pictures: str, out: str) -> dict[str, Any]:
    """Both configurations by `load_mfa`, in a stream, joined with pictures, and what is refused."""
    full = load_mfa(repo_id, "train")
    annotations = load_mfa(repo_id, "validation", with_images=False)
    stream = load_dataset(repo_id, "full", split="train", streaming=True)
    return {
        "red": [row["image"].getpixel((0, 0))[0] for row in full],
        "landmarks": [row["landmarks"][0] for row in full],
        "trained_on": [batch_rows(repo_id), batch_rows(f"{repo_id}:full")],
        "joined": joined_red(repo_id, Path(pictures), Path(out)),
        "origins": origins(repo_id, bare_id, out),
        "captions": list(annotations["caption_emotion"]),
        "columns": annotations.column_names,
        "streamed": [[row["frame"], row["image"].size] for row in stream.take(3)],
        "refusals": {
            "pixels": _refusal(f"{repo_id}:annotations", "train"),
            "split": _refusal(repo_id, "test", with_images=False),
            "repository": _refusal("alice/nothing", "train"),
        },
    }


def _refusal(*args: Any, **kwargs: Any) -> str:
    try:
        load_mfa(*args, **kwargs)
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"
