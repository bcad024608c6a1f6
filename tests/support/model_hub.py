"""A model hub on loopback, for the hub's real client: repositories with commits, large and small files, and faults.

It answers what `huggingface_hub` asks: `/api/models/<repo>/revision/<rev>` with sizes and hashes, `/tree/`, and
`/<repo>/resolve/<commit>/<path>` by HEAD and GET with ranges. Error answers carry `X-Error-Code` as the public hub's do.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 2000
"""From this size a file is listed with its SHA-256, as files in Git LFS are."""


@dataclass
class Repository:
    """One repository: its commits, each the content of its files by path."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""

    def commit(self, commit: str, folder: Path, without: Callable[[str], bool] = lambda _: False) -> None:
        """Publish the files of *folder* as *commit*, and move `main` to it."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        named = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        own = ("manifest.json", "complete")
        self.commits[commit] = {
            name: content for name, content in named.items() if name not in own and not without(name)
        }
        self.main = commit


@dataclass
class Fault:
    """What goes wrong with the requests whose path holds *where*."""

    where: str
    status: int = 0
    code: str = ""
    cut_after_bytes: int | None = None
    altered: bool = False
    times: int = 1_000_000


class FakeHub:
    """The server; a context manager."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.downloads: list[str] = []
        self._closed = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop to answer: connections are refused from now on."""
        self._closed = True
        self._server.shutdown()
        self._server.server_close()

    def fault_at(self, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.where in path and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                if hub._closed:  # also on connections that are open
                    self.close_connection = True
                    return
                path = unquote(urlsplit(self.path).path)
                fault = hub.fault_at(path)
                if fault is not None and fault.status:
                    self._send(fault.status, b"{}", {"X-Error-Code": fault.code} if fault.code else {})
                elif path.startswith("/api/models/"):
                    self._api(path.removeprefix("/api/models/"))
                else:
                    self._file(path.strip("/"), fault)

            def _api(self, path: str) -> None:
                name, kind, revision = self._parts(path, ("revision", "tree"))
                repository = hub.repositories.get(name)
                if repository is None:
                    return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
                commit = repository.main if revision == "main" else revision
                if commit not in repository.commits:
                    return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                files = repository.commits[commit]
                if kind == "tree":
                    return self._send_json([_tree_entry(path, content) for path, content in files.items()])
                siblings = [_sibling(path, content) for path, content in files.items()]
                return self._send_json({"id": name, "sha": commit, "siblings": siblings})

            def _file(self, path: str, fault: Fault | None) -> None:
                name, _, rest = self._parts(path, ("resolve",))
                commit, _, file = rest.partition("/")
                files = hub.repositories[name].commits.get(commit, {})
                if file not in files:
                    self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
                    return
                content = files[file]
                headers = {"X-Repo-Commit": commit, "ETag": f'"{etag(content)}"', "Accept-Ranges": "bytes"}
                if self.command == "GET":
                    hub.downloads.append(file)
                begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
                sent = content[begin:]
                if fault is not None and fault.altered:
                    sent = bytes([sent[0] ^ 1]) + sent[1:]
                cut = fault.cut_after_bytes if fault is not None else None
                self._send(206 if begin else 200, sent, headers, cut)

            def _parts(self, path: str, kinds: tuple[str, ...]) -> tuple[str, str, str]:
                for kind in kinds:
                    name, found, rest = path.partition(f"/{kind}/")
                    if found:
                        return name, kind, rest
                return path, "", "main"

            def _send_json(self, content: object) -> None:
                self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

            def _send(
                self, status: int, body: bytes, headers: dict[str, str], cut_after_bytes: int | None = None
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "HEAD":
                    return
                self.wfile.write(body[:cut_after_bytes])
                if cut_after_bytes is not None and cut_after_bytes < len(body):
                    self.close_connection = True  # fewer bytes than promised: the cable was pulled

        return Handler


def git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def etag(content: bytes) -> str:
    """Return the ETag of a file, as the public hub has it."""
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE_BYTES else git_id(content)


def _large(content: bytes, key: str) -> dict[str, object]:
    if len(content) < LARGE_BYTES:
        return {}
    lfs = {key: hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return {"lfs": lfs}


def _sibling(path: str, content: bytes) -> dict[str, object]:
    listed = {"rfilename": path, "size": len(content), "blobId": git_id(content)}
    return listed | _large(content, "sha256")


def _tree_entry(path: str, content: bytes) -> dict[str, object]:
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
    return entry | _large(content, "oid")
