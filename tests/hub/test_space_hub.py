"""A Space on the loopback Hub: what `mf2 publish --space` puts there starts with nothing but its requirements."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from clean_site import link_requirements
from finished_runs import finish_checkpoint
from fresh_process import call_fresh
from hub_server import Account, HubServer
from huggingface_hub import DatasetCard

pytest.importorskip("gradio", reason="gradio is not installed")
VISITS = Path(__file__).with_name("publish_visits.py")
TOKEN = "hf_alice"
START_S = 240


@pytest.fixture(scope="module")
def hub():
    with HubServer({TOKEN: Account("alice")}) as server:
        yield server


@pytest.fixture(scope="module")
def publications(hub, checkpoint, tmp_path_factory) -> list[dict[str, Any]]:
    """The model with its Space, twice, and then with another title on the card."""
    work = tmp_path_factory.mktemp("work")
    run = finish_checkpoint(checkpoint, work / "run")
    command = [str(run), "--repo", "alice/mf2-tiny", "--space", "alice/mf2-page", "--public", "--unchecked"]
    return call_fresh(VISITS, "publish", env=hub.client_env(work / "home", TOKEN), commands=[command, command])


def test_the_space_shows_the_commit_that_was_published(publications, hub):
    assert [report["status"] for report in publications] == [0, 0], publications
    model, space = hub.repos["models", "alice/mf2-tiny"], hub.repos["spaces", "alice/mf2-page"]
    files = space.files()
    assert f'["alice/mf2-tiny", "{list(model.commits)[-1]}"]' in files["app.py"].decode()
    assert not space.private and len(space.commits) == 2, "the second publication changes nothing"
    card = DatasetCard(files["README.md"].decode()).data.to_dict()
    pins = dict(line.split("==") for line in files["requirements.txt"].decode().splitlines())
    assert (card["sdk"], card["sdk_version"], card["app_file"]) == ("gradio", pins["gradio"], "app.py")
    assert card["models"] == ["alice/mf2-tiny"] and len(card["short_description"]) <= 60
    assert "mediapipe" not in pins and "face_landmarker.task" not in files
    assert "spaces/alice/mf2-page" in model.files()["README.md"].decode()
    assert not any(TOKEN.encode() in content for content in files.values())


@pytest.mark.slow
def test_the_app_starts_with_only_its_requirements(publications, hub, tmp_path):
    """In a process that has these packages and the Space's files alone, and no account."""
    space = hub.repos["spaces", "alice/mf2-page"].files()
    for path, content in space.items():
        file = tmp_path / "space" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    requirements = (tmp_path / "space" / "requirements.txt").read_text().splitlines()
    names = [re.split("==", line)[0] for line in requirements]
    if missing := link_requirements(names, tmp_path / "site"):
        pytest.skip(f"not installed: {', '.join(missing)}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = hub.client_env(tmp_path / "home") | {"PYTHONPATH": str(tmp_path / "site"), "GRADIO_SERVER_PORT": str(port)}
    env |= {"GRADIO_TEMP_DIR": str(tmp_path / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False", "TMPDIR": str(tmp_path)}
    log = tmp_path / "log.txt"
    with log.open("w") as lines:
        command = [sys.executable, "-S", "app.py"]
        process = subprocess.Popen(command, cwd=tmp_path / "space", env=env, stdout=lines, stderr=lines)
    try:
        config = wait_for(f"http://127.0.0.1:{port}/config", process, log)
        assert config["title"] == "mf2-tiny · MF²"
        text = json.dumps(config)
        assert "No face detector here" in text and "Intended use and limits" in text
        assert f"{hub.endpoint}/alice/mf2-tiny/tree/" in text
    finally:
        process.terminate()
        process.wait(30)


def wait_for(address: str, process: subprocess.Popen, log: Path) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with opener.open(address, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the Space did not start ({os.fspath(log)}):\n{log.read_text()[-4000:]}", pytrace=False)
