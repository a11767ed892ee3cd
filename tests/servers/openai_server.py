"""A loopback server that speaks enough of the OpenAI API to test the caption engine, and counts what it answers.

It serves chat/completions, files, files/{id}/content, batches, batches/{id}, batches/{id}/cancel and models on
127.0.0.1. Every completion is *billed* once it is made, whether or not the client hears it. A right answer is built
from the labels in the prompt; `faults` are used up one by one by the completions that are asked for,
`create_faults` by the calls that create a batch, and `batch_faults` by the batches that end.

As a program it prints its port and runs until it is killed; `GET /_counts` tells what it counted.
"""

import argparse
import email.utils
import hashlib
import json
import re
import socket
import struct
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mf2.dataset_tools.captions import parse_au_caption, template_captions
from mf2.labels_mf2 import AU_IDS

Fault = str | Callable[[dict[str, Any]], str]

TIMEOUT_S = 3.0
"""How long an answer of the fault "timeout" takes."""
REFUSALS = {
    "429": (429, "rate_limit_exceeded"),
    "insufficient_quota": (429, "insufficient_quota"),
    "400": (400, "invalid_request_error"),
    "401": (401, "invalid_api_key"),
    "500": (500, "server_error"),
}
"""Faults that are answered with a status and an error code."""


WRAPPED: dict[str, Callable[[str], Any]] = {
    "fence": lambda text: f"```json\n{text}\n```",
    "think": lambda text: f'<think>\nMaybe {{"caption": "a draft"}}?\n</think>\n\n{text}',
    "late_think": lambda text: f"The template opened the thought.\n</think>{text}",
    "chatty": lambda text: f"Sure! Here is the JSON:\n\n{text}\n\nHope it helps {{smile}}.",
    "draft": lambda text: f'An example is {{"caption": 3}} and the answer is {text}',
    "parts": lambda text: [{"type": "thinking", "thinking": "{}"}, {"type": "text", "text": text}],
}
"""Faults that are right answers in a wrapping, with `finish_reason` null."""


class OpenAIServer(ThreadingHTTPServer):
    """Start with `with OpenAIServer() as server:`; `server.base_url` is its address.

    Args:
        latency_s: how long a completion takes.
        port: 0 takes a free one.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, latency_s: float = 0.0, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.latency_s = latency_s
        self.schemas = {"json_schema", "json_object", "none"}
        self.schema_status = 422
        self.max_running: int | None = None
        self.max_batch_requests: int | None = None
        self.refusal: tuple[int, bytes] | None = None
        self.headers: dict[str, str] = {}
        self.models = ["test-model"]
        self.faults: list[Fault] = []
        self.create_faults: list[str] = []
        self.batch_faults: list[str] = []
        self.polls_per_batch = 2
        self.create_latency_s = 0.0
        self.hits: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.keeps_requests = True
        self.files: dict[str, bytes] = {}
        self.file_fields: dict[str, dict[str, str]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.polls: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()

    def refuses(self, body: dict[str, Any]) -> tuple[int, bytes] | None:
        """Status and body of what the server says to every such request; None where it answers."""
        form = body.get("response_format", {"type": "none"})["type"]
        if form not in self.schemas:
            return self.schema_status, json.dumps(
                {"detail": [{"loc": ["body", "response_format"], "msg": f"no {form}"}]}
            ).encode()
        return self.refusal

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def profile(self) -> dict[str, Any]:
        """The profile of a model here, whose answers are short."""
        return {
            "model": "m",
            "base_url": self.base_url,
            "token_limit_name": "max_tokens",
            "max_output_tokens": 90,
        }

    def __enter__(self) -> "OpenAIServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed in the middle of a request are part of the tests."""

    def next_fault(self, body: dict[str, Any]) -> str:
        with self.lock:
            fault = self.faults.pop(0) if self.faults else "ok"
        return fault if isinstance(fault, str) else fault(body)

    @staticmethod
    def name_of(body: dict[str, Any]) -> str:
        """The name under which equal requests are counted."""
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def note_hit(self, body: dict[str, Any]) -> str:
        """Count a request; returns its name."""
        key = self.name_of(body)
        with self.lock:
            self.hits[key] += 1
            if self.keeps_requests:
                self.requests.append(body)
        return key

    def bill(self, key: str) -> None:
        with self.lock:
            self.billed[key] += 1

    def add_file(self, content: bytes) -> str:
        file_id = f"file-{uuid.uuid4().hex[:12]}"
        self.files[file_id] = content
        return file_id

    def add_batch(self, body: dict[str, Any]) -> dict[str, Any]:
        batch_id = f"batch-{uuid.uuid4().hex[:12]}"
        batch = {**body, "id": batch_id, "object": "batch", "created_at": int(time.time()), "status": "validating"}
        with self.lock:
            self.batches[batch_id] = batch
        return batch

    def poll_batch(self, batch_id: str) -> dict[str, Any]:
        """The batch, which ends when it is polled for the `polls_per_batch`th time."""
        with self.lock:
            self.polls[batch_id] += 1
            ends_now = self.polls[batch_id] == self.polls_per_batch
            fault = self.batch_faults.pop(0) if ends_now and self.batch_faults else "ok"
        batch = self.batches[batch_id]
        if batch["status"] == "validating" and self._has_no_room(batch):
            batch["status"] = "failed"
            error = {"code": "token_limit_exceeded", "line": None, "message": "Enqueued token limit reached"}
            batch["errors"] = {"object": "list", "data": [error]}
            return batch
        if batch["status"] == "failed":
            return batch
        if ends_now:
            run_batch(self, batch, fault)
        elif batch["status"] == "validating":
            batch["status"] = "in_progress"
        return batch

    def _has_no_room(self, batch: dict[str, Any]) -> bool:
        num_running = sum(other["status"] == "in_progress" for other in self.batches.values())
        num_requests = len(self.files[batch["input_file_id"]].splitlines())
        is_full = self.max_running is not None and num_running >= self.max_running
        return is_full or (self.max_batch_requests is not None and num_requests > self.max_batch_requests)

    @property
    def num_calls(self) -> int:
        """Completions asked for, files uploaded, batches created and looked at."""
        return sum(self.calls.values())

    def paid_twice(self) -> int:
        """Answers that were billed beyond the first to the same request."""
        return sum(count - 1 for count in self.billed.values())


# --------------------------------------------------------------------------------------------------------- answers
def right_content(body: dict[str, Any]) -> dict[str, Any]:
    """The content of a valid answer to a request of the caption engine."""
    labels = _labels(body)
    unlabelled = AU_IDS if labels["kind"] == "emotion" else ()  # the question names none, so that nothing is at rest
    captions = template_captions("server", labels["active_aus"], labels["emotion"], unlabelled_aus=unlabelled)
    if labels["kind"] == "au":
        sentences = parse_au_caption(captions.au)
        return {"items": [{"au": au_id, "sentence": sentence} for au_id, sentence in sentences.items()]}
    if labels["kind"] == "emotion":
        return {"caption": captions.emotion}
    key_aus = sorted({int(number) for number in re.findall(r"AU(\d+)", captions.key_au or "")})
    return {"key_aus": key_aus, "caption": captions.key_au}


def _labels(body: dict[str, Any]) -> dict[str, Any]:
    """Kind, active AUs and emotion, read from the question (the first user message)."""
    question = next(message for message in body["messages"] if message["role"] == "user")["content"][0]["text"]
    aus = re.search(r"^Active action units: (.*)$", question, re.M)
    emotion = re.search(r"^Emotion: (.*)$", question, re.M)
    kind = ("key_au" if emotion else "au") if aus else "emotion"
    active_aus = [int(number) for number in re.findall(r"AU(\d+)", aus[1])] if aus else []
    return {"kind": kind, "active_aus": active_aus, "emotion": emotion[1] if emotion else None}


def _wrong_aus(content: dict[str, Any], change: str) -> dict[str, Any]:
    items = content["items"]
    if change == "missing_au":
        return {"items": items[1:]}
    if change == "duplicate_au":
        return {"items": [*items, items[0]]}
    stranger = next(au_id for au_id in AU_IDS if au_id not in {item["au"] for item in items})
    return {"items": [{**items[0], "au": stranger}, *items[1:]]}


def wrong_content(body: dict[str, Any], fault: str) -> dict[str, Any]:
    """The content of an answer that breaks one rule."""
    content = right_content(body)
    if fault in ("missing_au", "duplicate_au", "wrong_au"):
        return _wrong_aus(content, fault)
    if fault == "wrong_name":
        return {**content, "caption": re.sub(r"\([A-Z][^)]*\)", "(Face Mover)", content["caption"], count=1)}
    if fault == "not_schema":
        return {"text": "Something else."}
    addition = {
        "rival_emotion": "The person looks surprised, angry and sad.",
        "banned_word": "The young woman looks away.",
        "disclaimer": "As an AI, I cannot identify anyone.",
        "overlong": "The face is shown again and again. " * 40,
    }[fault]
    if "items" in content:
        first, *others = content["items"]
        return {"items": [{**first, "sentence": f"{first['sentence']} {addition}"}, *others]}
    return {**content, "caption": f"{content['caption']} {addition}"}


def completion(body: dict[str, Any], fault: str = "ok") -> dict[str, Any]:
    """A chat completion: right for "ok", else with the fault of that name."""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    finish_reason = "stop"
    if fault == "refusal":
        message["refusal"] = "I cannot help with that."
    elif fault == "content_filter":
        finish_reason = "content_filter"
    elif fault == "length":
        finish_reason, message["content"] = "length", '{"caption": "The person'
    elif fault in WRAPPED:
        finish_reason = None
        message["content"] = WRAPPED[fault](json.dumps(right_content(body)))
    elif fault == "prose":
        message["content"] = "I see a face that shows something."
    else:
        content = right_content(body) if fault in ("ok", "null_choices") else wrong_content(body, fault)
        message["content"] = json.dumps(content)
    choices = [{"index": 0, "finish_reason": finish_reason, "message": message, "logprobs": None}]
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex[:12]}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": f"{body['model']}-0001",
        "choices": None if fault == "null_choices" else choices,
        "usage": {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460},
    }


def _error(code: str, message: str = "refused") -> dict[str, Any]:
    return {"error": {"message": message, "type": "test", "param": None, "code": code}}


# --------------------------------------------------------------------------------------------------------- batches
def run_batch(server: OpenAIServer, batch: dict[str, Any], fault: str) -> None:
    """Bring a batch to its end: bill its requests, write its files, set its status."""
    lines = [json.loads(line) for line in server.files[batch["input_file_id"]].splitlines()]
    batch["request_counts"] = {"total": len(lines), "completed": 0, "failed": 0}
    if fault == "failed_validation":
        batch["status"] = "failed"
        batch["errors"] = {"object": "list", "data": [{"code": "invalid_json_line", "line": 3, "message": "bad line"}]}
        return
    finished = len(lines) // 2 if fault in ("half_expired", "cancelled") else len(lines)
    outputs, errors = [], []
    for number, line in enumerate(lines):
        key = server.note_hit(line["body"])
        if fault == "all_refused":
            errors.append(_batch_line(line["custom_id"], 400, {"detail": "this model takes no images"}))
        elif fault == "no_output_file" or (fault == "mixed_errors" and number % 3 == 0):
            status = 400 if number % 2 else 500
            errors.append(_batch_line(line["custom_id"], status, _error("server_error")))
        elif number < finished:
            server.bill(key)
            content_fault = fault.removeprefix("content:") if fault.startswith("content:") else "ok"
            outputs.append(_batch_line(line["custom_id"], 200, completion(line["body"], content_fault)))
        else:
            errors.append(_batch_line(line["custom_id"], None, None, code="batch_expired"))
    if fault == "shuffled":
        outputs.reverse()
        outputs += [outputs[0], _batch_line("nobody", 200, completion(lines[0]["body"])), *outputs[-1:]]
    if fault == "missing_line":
        outputs = outputs[:-1]
    batch["output_file_id"] = server.add_file(_jsonl(outputs)) if outputs else None
    batch["error_file_id"] = server.add_file(_jsonl(errors)) if errors else None
    batch["request_counts"] = {"total": len(lines), "completed": len(outputs), "failed": len(errors)}
    batch["status"] = {"half_expired": "expired", "cancelled": "cancelled"}.get(fault, "completed")


def _batch_line(custom_id: str, status: int | None, body: Any, code: str | None = None) -> dict[str, Any]:
    response = None if status is None else {"status_code": status, "request_id": "r", "body": body}
    error = {"code": code, "message": "not run in time"} if code else None
    return {"id": f"batch_req_{uuid.uuid4().hex[:8]}", "custom_id": custom_id, "response": response, "error": error}


def _jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


# --------------------------------------------------------------------------------------------------------- handler
class _Handler(BaseHTTPRequestHandler):
    server: OpenAIServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server, path = self.server, self.path.split("?")[0]
        if path == "/_counts":
            self._send(200, {"hits": sum(server.hits.values()), "billed": server.billed, "calls": server.calls})
        elif path == "/v1/models":
            models = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in server.models]
            self._send(200, {"object": "list", "data": models})
        elif path == "/v1/batches":
            server.calls["list"] += 1
            newest_first = list(reversed(server.batches.values()))
            self._send(200, {"object": "list", "data": newest_first, "has_more": False})
        elif match := re.fullmatch(r"/v1/batches/([\w-]+)", path):
            server.calls["poll"] += 1
            self._send(200, server.poll_batch(match[1]))
        elif match := re.fullmatch(r"/v1/files/([\w-]+)/content", path):
            self._send(200, server.files[match[1]])
        else:
            self._send(404, _error("not_found", f"no {path}"))

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.split("?")[0]
        if path == "/v1/chat/completions":
            self._complete(json.loads(data))
        elif path == "/v1/files":
            self._upload(data)
        elif path == "/v1/batches":
            self._create_batch(json.loads(data))
        elif match := re.fullmatch(r"/v1/batches/([\w-]+)/cancel", path):
            self.server.batches[match[1]]["status"] = "cancelled"
            self._send(200, self.server.batches[match[1]])
        else:
            self._send(404, _error("not_found", f"no {path}"))

    def _complete(self, body: dict[str, Any]) -> None:
        server = self.server
        server.calls["completion"] += 1
        key = server.note_hit(body)
        if (refusal := server.refuses(body)) is not None:
            self._send(*refusal)
            return
        fault = server.next_fault(body)
        if fault in REFUSALS or fault.startswith("429:"):
            self._refuse(fault)
            return
        if fault == "drop":
            self._hang_up()
            return
        time.sleep(server.latency_s)
        server.bill(key)
        if fault == "timeout":
            time.sleep(TIMEOUT_S)
            self._hang_up()
        elif fault == "html":
            self._send(200, b"<html><body>Bad gateway</body></html>", "text/html")
        elif fault in ("truncated", "reset"):
            text = json.dumps(completion(body)).encode()
            self._send(200, text[: len(text) // 2], length=len(text) if fault == "reset" else None)
            if fault == "reset":
                self._hang_up()
        else:
            self._send(200, completion(body, fault), headers=server.headers)

    def _refuse(self, fault: str) -> None:
        if fault.startswith("429:"):
            wait = fault.removeprefix("429:")
            if wait == "date":
                wait = email.utils.formatdate(time.time() + 2, usegmt=True)
            self._send(429, _error("rate_limit_exceeded"), headers={"Retry-After": wait})
        else:
            status, code = REFUSALS[fault]
            self._send(status, _error(code))

    def _upload(self, data: bytes) -> None:
        """A multipart form: its fields are kept, the part named "file" becomes the file."""
        self.server.calls["upload"] += 1
        boundary = self.headers["Content-Type"].split("boundary=")[1].encode()
        fields, content = {}, b""
        for part in data.split(b"--" + boundary)[1:-1]:
            head, _, value = part.partition(b"\r\n\r\n")
            name = re.search(rb'name="([^"]+)"', head)[1].decode()  # type: ignore[index]
            value = value.removesuffix(b"\r\n")
            if name == "file":
                content = value
            else:
                fields[name] = value.decode()
        file_id = self.server.add_file(content)
        self.server.file_fields[file_id] = fields
        self._send(200, {"id": file_id, "object": "file", "bytes": len(content), "created_at": 0, "filename": "f",
                         "purpose": fields["purpose"], "status": "processed"})  # fmt: skip

    def _create_batch(self, body: dict[str, Any]) -> None:
        server = self.server
        server.calls["create"] += 1
        with server.lock:
            fault = server.create_faults.pop(0) if server.create_faults else "ok"
        if fault in REFUSALS:
            self._refuse(fault)
            return
        if fault == "lost_request":
            self._hang_up()
            return
        batch = server.add_batch(body)
        time.sleep(server.create_latency_s)
        if fault == "lost_answer":
            self._hang_up()
        else:
            self._send(200, batch)

    def _send(
        self,
        status: int,
        body: Any,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _hang_up(self) -> None:
        """Reset the connection."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-s", type=float, default=0.0)
    args = parser.parse_args()
    server = OpenAIServer(args.latency_s)
    server.keeps_requests = False
    print(server.base_url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
