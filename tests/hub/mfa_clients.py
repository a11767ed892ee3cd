"""What readers of a data set on the loopback Hub do, in a process of their own."""

from typing import Any

from datasets import load_dataset

from mf2.dataset_tools.schema import load_mfa


def read_data_set(repo_id: str) -> dict[str, Any]:
    """Both configurations by `load_mfa`, in a stream, and what is refused."""
    full = load_mfa(repo_id, "train", config="full")
    annotations = load_mfa(repo_id, "validation", with_images=False)
    stream = load_dataset(repo_id, "full", split="train", streaming=True)
    return {
        "red": [row["image"].getpixel((0, 0))[0] for row in full],
        "landmarks": [row["landmarks"][0] for row in full],
        "captions": list(annotations["caption_emotion"]),
        "columns": annotations.column_names,
        "streamed": [[row["frame"], row["image"].size] for row in stream.take(3)],
        "refusals": {
            "pixels": _refusal(repo_id, "train"),
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
