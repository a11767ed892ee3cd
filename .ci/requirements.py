"""What pyproject.toml asks for, seen from the active environment: for the scripts beside this file.

python .ci/requirements.py names      what the tests need, by name, without ranges
python .ci/requirements.py installed  all that is installed, NAME==VERSION a line, and not the package itself
python .ci/requirements.py outside    what is installed outside of its declared range
python .ci/requirements.py app        constraints/app.txt anew, with what constraints/tested.txt pins now
"""

import re
import sys
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TEST_EXTRA = "test"
APP_ONLY = {"pillow"}
"""What constraints/app.txt pins otherwise than constraints/tested.txt: Gradio takes an older one."""


def declared(extra: str | None = None) -> list[Requirement]:
    """The requirements of the package and of one extra, with those of the extras that it names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    found, waiting = [], [*project["dependencies"]]
    waiting += project["optional-dependencies"][extra] if extra else []
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == project["name"]:
            waiting += [text for name in requirement.extras for text in project["optional-dependencies"][name]]
        else:
            found.append(requirement)
    return sorted(found, key=lambda requirement: canonicalize_name(requirement.name))


def installed() -> list[str]:
    """`NAME==VERSION` of every distribution but the package itself, sorted."""
    found = {canonicalize_name(item.metadata["Name"]): item.version for item in distributions()}
    return sorted(f"{name}=={release}" for name, release in found.items() if name != "mf2-face")


def outside() -> list[str]:
    """`NAME VERSION (declared: RANGE)` of what is installed outside of its range."""
    return [
        f"{requirement.name} {version(requirement.name)} (declared: {requirement.specifier})"
        for requirement in declared(TEST_EXTRA)
        if not requirement.specifier.contains(version(requirement.name), prereleases=True)
    ]


def names() -> list[str]:
    """Each requirement of the tests without its range."""
    return [re.split(r"[<>=!~;]", str(requirement))[0].strip() for requirement in declared(TEST_EXTRA)]


def app() -> list[str]:
    """The lines of constraints/app.txt: its comments, its own pins, and those of constraints/tested.txt."""
    ours, tested = (
        (ROOT / "constraints" / name).read_text("utf-8").splitlines() for name in ("app.txt", "tested.txt")
    )
    pins, own = (dict(line.split("==") for line in lines if not line.startswith("#")) for lines in (tested, ours))
    pins |= {name: release for name, release in own.items() if name in APP_ONLY or name not in pins}
    return [line for line in ours if line.startswith("#")] + [f"{name}=={pins[name]}" for name in sorted(pins)]


if __name__ == "__main__":
    print(*{"names": names, "installed": installed, "outside": outside, "app": app}[sys.argv[1]](), sep="\n")
