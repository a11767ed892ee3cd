"""The caption engine against OpenAI-compatible servers that nobody here wrote.

    python tests/third_party/run.py [transformers] [gateway] [llama] [--folder DIR]      (make test-servers)

Each server comes from its package, in an environment of its own below DIR, which is kept for the next time; it listens
on 127.0.0.1 alone and needs no network once it is installed.

transformers   `transformers serve` of the transformers that is installed here, with a tiny LLaVA checkpoint
gateway        the LiteLLM proxy in front of `tests/servers/openai_server.py`
llama          the server of llama-cpp-python, with a tiny GGUF file

Prints what every run of `mf2 data caption` did, in the server's own words; ends with 1 where one is not as expected.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "servers"))
from openai_server import OpenAIServer  # noqa: E402
from samples import write_mfa_folder  # noqa: E402

from mf2.dataset_tools.captions import template_captions  # noqa: E402
from mf2.dataset_tools.schema import load_mfa  # noqa: E402
from mf2.labels_mf2 import AU_IDS, EMOTIONS  # noqa: E402
from mf2.utils.markdown import markdown_table  # noqa: E402

START_S, INSTALL_S, RUN_S = 180, 3600, 300
CAPTION = template_captions("tiny", [], "Happiness", unlabelled_aus=AU_IDS).emotion or ""
ANSWER = json.dumps({"caption": CAPTION})
MINIMUM = ("--yes", "--pilot", "3", "--concurrency", "2", "--timeout", "60")


@dataclass
class Bench:
    """Where things lie, and what was seen: rows of (server, run, exit status, as expected, what it said)."""

    folder: Path
    work: Path
    rows: list[tuple[str, str, int, str, str]] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        """Whether any run was not as expected."""
        return any(row[3] != "yes" for row in self.rows)

    def caption(
        self, server: str, run: str, data: Path, *words: str, status: int, says: str, holds: Callable[[Path], bool]
    ) -> None:
        """Run `mf2 data caption` on a data set and note whether it ended and spoke as expected.

        Args:
            status: the exit status that is expected.
            says: a pattern that its output has to hold.
            holds: what has to be true of the folder that it was to make.
        """
        out = self.work / f"{server}-{re.sub('[^a-z]+', '-', run)}"
        argv = [sys.executable, "-m", "mf2.cli", "data", "caption", str(data), "--out", str(out), *MINIMUM, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_S, check=False)
        text = f"{done.stdout}\n{done.stderr}"
        is_fine = done.returncode == status and bool(re.search(says, text)) and holds(out)
        if not is_fine:
            print(f"--- {server}, {run}: wanted {status} and {says!r}\n{text}", file=sys.stderr)
        self.rows.append((server, run, done.returncode, "yes" if is_fine else "NO", _gist(text)))


def _gist(text: str) -> str:
    """What a run said about itself: its stops and its errors, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if re.search(r"error:|stopped|trying it without", line)]
    return " / ".join(line[:260] for line in told or [line for line in lines if "captioned:" in line] or lines[-1:])


def is_whole(out: Path) -> bool:
    """Whether a data set was written in which no caption that can be is missing."""
    rows = load_mfa(out, "train")
    return len(rows) > 0 and None not in rows["caption_emotion"]


def says_the_answer(out: Path) -> bool:
    """Whether all captions are those of the tiny models."""
    return set(load_mfa(out, "train")["caption_emotion"]) == {CAPTION}


def is_absent(out: Path) -> bool:
    """Whether no data set was written and no caption was given up."""
    letters = out.with_name(f"{out.name}.captions") / "dead_letters.jsonl"
    return not out.exists() and not (letters.is_file() and letters.read_text())


# ----------------------------------------------------------------------------------------------------------- servers
def environment(bench: Bench, name: str, *packages: str, shared: bool = False) -> Path:
    """The Python of an environment with these packages, made where there is none yet.

    Args:
        shared: what is installed here is seen there, too.
    """
    folder = bench.folder / name
    python = folder / "bin" / "python"
    if not (folder / "is_whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if shared:
            paths = "\n".join(path for path in sys.path if path.endswith("-packages") or "/env/" in path)
            site = next((folder / "lib").glob("python*")) / "site-packages"
            (site / "shared.pth").write_text(f"{paths}\n")
        install = [str(python), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(install, check=True, timeout=INSTALL_S)
        (folder / "is_whole").touch()
    return python


@contextmanager
def running(bench: Bench, name: str, argv: list[str], port: int, **variables: str) -> Iterator[str]:
    """A server while it is needed; yields its base URL."""
    log = bench.work / f"{name}.log"
    keep = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", **variables}
    base_url = f"http://127.0.0.1:{port}/v1"
    with log.open("wb") as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, env={**os.environ, **keep}, cwd=bench.work)
        try:
            _wait_for(f"{base_url}/models", process, log)
            yield base_url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except urllib.error.HTTPError:
            return  # it answers, and wants a key
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"{' '.join(map(str, process.args))} does not answer:\n{log.read_text()[-3000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ------------------------------------------------------------------------------------------------------ data and runs
def emotion_only(bench: Bench) -> Path:
    """Happy faces without a labelled AU: one caption each, which the tiny models know."""
    columns: dict[str, Any] = {f"AU{au_id}": -1 for au_id in AU_IDS}
    return write_mfa_folder(bench.work / "happy", 6, 2, emotion=EMOTIONS.index("Happiness"), **columns)


def check_transformers(bench: Bench) -> None:
    """`transformers serve`, which knows no form of answers and takes images."""
    python = environment(bench, "transformers", "transformers[serving]", shared=True)
    model, port, data = bench.work / "llava", free_port(), emotion_only(bench)
    subprocess.run([python, str(HERE / "tiny_models.py"), "transformers", str(model), ANSWER], check=True)
    serve = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
    argv = [str(python), "-c", serve, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with running(bench, "transformers", argv, port, HF_HOME=str(bench.work / "hf")) as base_url:
        local = ("--profile", "local", "--base_url", base_url)
        named = (*local, "--model", str(model))
        bench.caption("transformers", "captions", data, *named, status=0, says="captioned", holds=says_the_answer)
        bench.caption("transformers", "captions", data, *named, status=0, says=r"\b0 requests", holds=says_the_answer)
        unknown = (*local, "--model", "nobody/nothing")
        bench.caption("transformers", "unknown model", data, *unknown, status=1, says="HTTP 500", holds=is_absent)
        batch = (*named, "--mode", "batch")
        bench.caption("transformers", "batch", data, *batch, status=3, says="HTTP 404", holds=is_absent)


def check_llama(bench: Bench) -> None:
    """The server of llama.cpp's Python package, with a grammar for every schema."""
    python = environment(bench, "llama", "llama-cpp-python[server]", "gguf")
    model, port, data = bench.work / "tiny.gguf", free_port(), emotion_only(bench)
    subprocess.run([python, str(HERE / "tiny_models.py"), "gguf", str(model), ANSWER], check=True)
    argv = [str(python), "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1", "--port", str(port)]
    with running(bench, "llama", [*argv, "--n_ctx", "8192", "--model_alias", "tiny"], port) as base_url:
        local = ("--profile", "local", "--base_url", base_url)
        bench.caption("llama", "captions", data, *local, status=0, says="without json_schema", holds=says_the_answer)
        bench.caption("llama", "captions", data, *local, status=0, says=r"\b0 requests", holds=says_the_answer)
        batch = (*local, "--mode", "batch")
        bench.caption("llama", "batch", data, *batch, status=3, says="HTTP 404", holds=is_absent)


def check_gateway(bench: Bench) -> None:
    """The LiteLLM proxy: keys, models by its own names, errors in its own words, batches of what is behind it."""
    python = environment(bench, "gateway", "litellm[proxy]")
    data = write_mfa_folder(bench.work / "full", 6, 2)
    key, port = "sk-loopback-0123456789", free_port()
    os.environ.update(GATEWAY_KEY=key, WRONG_KEY="sk-wrong")
    with OpenAIServer() as upstream:
        behind = {"api_base": upstream.base_url, "api_key": "none"}
        config = {
            "model_list": [
                {"model_name": name, "litellm_params": {"model": f"openai/{name}", **behind}}
                for name in ("smart", "gpt-4o")
            ],
            "files_settings": [{"custom_llm_provider": "openai", **behind}],
            "litellm_settings": {"num_retries": 0, "telemetry": False},
            "general_settings": {"master_key": key},
        }
        (bench.work / "gateway.yaml").write_text(yaml.safe_dump(config))
        litellm = str(python.with_name("litellm"))
        argv = [litellm, "--config", str(bench.work / "gateway.yaml"), "--host", "127.0.0.1", "--port", str(port)]
        with running(bench, "gateway", argv, port, LITELLM_LOCAL_MODEL_COST_MAP="True") as base_url:
            _run_gateway(bench, data, _gateway_profiles(bench, base_url), upstream)


def _gateway_profiles(bench: Bench, base_url: str) -> Path:
    path = bench.work / "profiles.yaml"
    limits = {"base_url": base_url, "token_limit_name": "max_tokens", "max_output_tokens": 300}
    profiles = {
        "gateway": {"model": "smart", "api_key_env": "GATEWAY_KEY", **limits},
        "wrong_key": {"model": "smart", "api_key_env": "WRONG_KEY", **limits},
    }
    path.write_text(yaml.safe_dump(profiles))
    return path


def _run_gateway(bench: Bench, data: Path, profiles: Path, upstream: OpenAIServer) -> None:
    given = ("--profiles", str(profiles), "--profile")
    mine = (*given, "gateway")

    def caption(run: str, *words: str, status: int, says: str, holds: Callable[[Path], bool]) -> None:
        bench.caption("gateway", run, data, *words, status=status, says=says, holds=holds)

    caption("captions", *mine, status=0, says="captioned", holds=is_whole)
    caption("captions", *mine, status=0, says=r"\b0 requests", holds=is_whole)
    upstream.schemas = {"none"}
    caption("no schemas", *mine, status=0, says="(?s)without json_schema.*without json_object", holds=is_whole)
    upstream.schemas = {"json_object", "none"}
    caption("no json schema", *mine, status=0, says="without json_schema", holds=is_whole)
    upstream.schemas = {"json_schema", "json_object", "none"}
    caption("batch", *mine, "--mode", "batch", "--poll", "0.2", status=0, says="captioned", holds=is_whole)
    caption("wrong key", *given, "wrong_key", status=1, says="HTTP 40[013]", holds=is_absent)
    caption("unknown model", *mine, "--model", "nothing", status=1, says="HTTP 40[04]", holds=is_absent)
    num_calls = upstream.num_calls
    hosted = (*mine, "--model", "gpt-4o")
    caption("hosted name", *hosted, status=1, says="i_may_upload", holds=lambda out: upstream.num_calls == num_calls)
    upstream.refusal = 400, b'{"error": {"message": "this model takes no images", "type": "x", "code": null}}'
    caption("no images", *mine, status=1, says="takes no images", holds=is_absent)
    upstream.refusal = 503, b"<html><body>down for repair</body></html>"
    caption("upstream down", *mine, status=3, says="HTTP 503", holds=is_absent)


CHECKS = {"transformers": check_transformers, "gateway": check_gateway, "llama": check_llama}


def main() -> int:
    """Start each server, run, report; 1 where something is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", choices=[[], *CHECKS], help="default: all of them")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "mf2-third-party"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    folder = args.folder.resolve()
    failed = False
    for name in args.servers or CHECKS:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as work:
            bench = Bench(folder, Path(work))
            try:
                CHECKS[name](bench)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                bench.rows.append((name, "start", 1, "NO", f"{type(error).__name__}: {error}"))
            print(markdown_table(("server", "run", "exit", "as expected", "what it said"), bench.rows), flush=True)
            failed |= bench.has_failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
