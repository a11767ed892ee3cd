"""Loads a model without this package, as other users would; run as a script in a separate process.

python -I publish_probe.py FOLDER REPORT.json [BASE_REVISION]
"""

import json
import sys
from pathlib import Path
from typing import Any

HIDDEN = "mf2"


class ImportBlocker:
    """Import finder that blocks this package."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise for this package; return None for all other modules."""
        if name.partition(".")[0] == HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def probe(folder: str, base_revision: str | None = None) -> dict[str, Any]:
    """Load model and processor with the Auto classes; returns `mismatches` by kind, and the `label_space`.

    Args:
        folder: checkpoint or adapter.
        base_revision: commit of an adapter's base.
    """
    from transformers import AutoModel, AutoProcessor

    pin = {"revision": base_revision} if base_revision else {}
    model, info = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True, **pin)
    AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    mismatches = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    return {"mismatches": mismatches, "label_space": model.label_space.to_dict()}


if __name__ == "__main__":
    sys.meta_path.insert(0, ImportBlocker())
    report = probe(sys.argv[1], *sys.argv[3:])
    Path(sys.argv[2]).write_text(json.dumps(report), "utf-8")
