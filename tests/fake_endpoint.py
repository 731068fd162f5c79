"""A server on localhost that answers as an OpenAI-compatible endpoint does, and misbehaves as told."""

import json
import re
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from visdyn.endpoint.client import Endpoint, EndpointSettings
from visdyn.endpoint.replies import Question
from visdyn.evaluation.judges.ask import JudgedItem

KEY = "sk-visdyn/0123456789+secret"


QUIET = {"report": lambda line: None}


def completion(text, finish="stop", **usage):
    body = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    return 200, {}, json.dumps(body | ({"usage": usage} if usage else {}))


def fine(name, repeat):
    """What the server answers for an item when nothing is wrong: scores that name the item and the repeat."""
    scores = {"instruction": int(name) % 8 + repeat, "identity": 9, "temporal_coherence": 8, "object_consistency": 7}
    return completion(json.dumps(scores), prompt_tokens=100, completion_tokens=20, total_tokens=150)


class FakeEndpoint(ThreadingHTTPServer):
    """`script(name, nth, repeat)` gives (status, headers, text) for the nth request for "item <name>" (or any text).

    Header `x-cut` sends half the text and hangs up; `x-drip` sends a byte at a time.
    """

    daemon_threads, block_on_close, request_queue_size = True, False, 64

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.seen, self.payloads, self.headers, self.times = script, Counter(), [], [], []
        self.bodies = []
        self.lock, self.under_way, self.most_under_way = threading.Lock(), 0, 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that was killed or gave up waiting is part of these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        payload = json.loads(body)
        text = next(part["text"] for part in payload["messages"][0]["content"] if part["type"] == "text")
        name = found[1] if (found := re.search(r"item (\w+)", text)) else text
        repeat = payload.get("seed", 0)
        with server.lock:
            server.seen[name, repeat] += 1
            server.payloads.append(payload)
            server.bodies.append(body)
            server.headers.append((self.path, dict(self.headers)))
            server.times.append(time.monotonic())
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            status, headers, text = server.script(name, server.seen[name, repeat], repeat)
        finally:
            server.under_way -= 1
        self.answer(status, dict(headers), text.encode())

    def answer(self, status, headers, data):
        cut, drip = headers.pop("x-cut", None), headers.pop("x-drip", None)
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        for i in range(len(data) if drip else 0):
            self.wfile.write(data[i : i + 1])
            time.sleep(0.05)
        if not cut and not drip:
            self.wfile.write(data)


def endpoint(server, **changes):
    quick = {"model": "judge-1", "key_variable": "JUDGE_KEY", "backoff_s": 0.01, "timeout_s": 30, "max_attempts": 3}
    return Endpoint(EndpointSettings(server.url, **{**quick, **changes}))


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def items(names, system="ours"):
    return [JudgedItem(system, name, picture(1), picture(int(name) + 2), f"open item {name}") for name in names]


def ask(server, prompt="item 1", **changes):
    with endpoint(server, **changes) as one:
        return one.ask(Question((picture(1),), prompt))
