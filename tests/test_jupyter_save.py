"""A real JupyterLab server with the kit's configuration: open, run and save leave a notebook's bytes as they were."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid

import pytest
from toy import make_repository

from visdyn import paths

TOKEN = uuid.uuid4().hex


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """The REST side of a Jupyter server."""

    def __init__(self, port):
        self.address = f"127.0.0.1:{port}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def wait(self, process, seconds=120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            try:
                return self.call("GET", "api/status")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def execute(self, kernel, source):
        """Run one cell on the kernel through its websocket; return its outputs as a notebook holds them."""
        websocket = pytest.importorskip("websocket")
        url = f"ws://{self.address}/api/kernels/{kernel}/channels?token={TOKEN}"
        channel = websocket.create_connection(url, timeout=60)
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": "s",
            "username": "",
            "version": "5.3",
        }
        content = {"code": source, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        channel.send(json.dumps(message))
        outputs, idle = [], False
        while not idle:
            reply = json.loads(channel.recv())
            if reply["parent_header"].get("msg_id") != header["msg_id"]:
                continue
            kind, body = reply["header"]["msg_type"], reply["content"]
            if kind in ("stream", "error", "execute_result", "display_data"):
                outputs.append({"output_type": kind, **body})
            idle = kind == "status" and body["execution_state"] == "idle"
        channel.close()
        return outputs


@pytest.fixture
def server(tmp_path):
    """JupyterLab with the repository's configuration in a configuration folder of its own, on a toy repository."""
    repository = paths.repository_root()
    root = make_repository(tmp_path / "repository", "print('ran', stage.seed)")
    config = tmp_path / "config"
    config.mkdir()
    shutil.copy(repository / "jupyter/jupyter_server_config.json", config)
    variables = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "VISDYN_ROOT": str(root),
        "PYTHONPATH": str(repository / "src"),
    }
    port = free_port()
    options = [f"--port={port}", "--port-retries=0", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--notebook-dir={root}", *options]
    with open(tmp_path / "server.log", "w") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, cwd=root)
    found = Server(port)
    try:
        found.wait(process)
        yield root, found
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
def test_open_run_and_save_leaves_the_file_as_it_was(server):
    root, jupyter = server
    path = root / "notebooks/toy.ipynb"
    before = path.read_bytes()
    model = jupyter.call("GET", "api/contents/notebooks/toy.ipynb?type=notebook&content=1")
    session = {"path": "notebooks/toy.ipynb", "type": "notebook", "name": "toy", "kernel": {"name": "python3"}}
    kernel = jupyter.call("POST", "api/sessions", session)["kernel"]["id"]
    notebook = model["content"]
    codes = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for count, cell in enumerate(codes, start=1):
        cell["outputs"], cell["execution_count"] = jupyter.execute(kernel, cell["source"]), count
        cell["metadata"]["execution"] = {"iopub.status.idle": "2026-01-01T00:00:00Z"}
    assert codes[-1]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "ran 0\n"}]
    notebook["metadata"]["language_info"] = {"name": "python", "version": "3.11.99"}
    jupyter.call("PUT", "api/contents/notebooks/toy.ipynb", {"type": "notebook", "format": "json", "content": notebook})
    assert path.read_bytes() == before
    copied = {"type": "notebook", "format": "json", "content": notebook}
    jupyter.call("PUT", "api/contents/elsewhere.ipynb", copied)
    assert "ran 0" in (root / "elsewhere.ipynb").read_text()  # only the source notebooks are stripped
