"""A small Hugging Face Hub on localhost, for the real client to talk to.

It speaks the endpoints that pushing and pulling models use (create, validate-yaml, branch, preupload, LFS
batch and PUT, commit, resolve, model info, tree), keeps a log of requests, and does wrong on request.
"""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """What to do wrong with requests whose "METHOD /path" matches a pattern."""

    pattern: str
    skip: int = 0  # do right so many times first
    times: int = 1_000_000
    status: int | None = None  # answer with this
    code: str | None = None  # X-Error-Code
    keep: int | None = None  # send only so many bytes of the body ...
    honest: bool = False  # ... and say so in Content-Length, as a cutting proxy does
    etag: str | None = None  # claim that the content has this hash
    delay: float = 0.0  # seconds before the answer


@dataclass
class Repo:
    """Commits by id, oldest first, and branches by name."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str | None] = field(default_factory=lambda: {"main": None})

    def commit(self, branch: str, files: dict[str, bytes], deleted: tuple[str, ...] = ()) -> str:
        parent = self.refs[branch]
        tree = {**self.commits.get(parent or "", {}), **files}
        tree = {path: data for path, data in tree.items() if path not in deleted}
        sha = hashlib.sha1(f"{len(self.commits)}{branch}{sorted(tree)}".encode()).hexdigest()  # noqa: S324
        self.commits[sha] = tree
        self.refs[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.refs.get(revision)


class FakeHub:
    """The server and what it holds; a context manager."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []  # "METHOD /path", in order
        self.agents: set[str] = set()
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo_id: str, files: dict[str, bytes]) -> str:
        """Commit files to a repository's main branch and return the commit."""
        return self.repos.setdefault(repo_id, Repo()).commit("main", files)

    def requests(self, text: str) -> list[str]:
        """Return the logged requests that contain `text`."""
        return [line for line in self.log if text in line]


def _lfs(path: str) -> bool:
    return path.endswith(".safetensors")


def _etag(path: str, data: bytes) -> str:
    if _lfs(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324 - git's own


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _serve(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {self.path}"
        self.body = self._read()
        if line == "GET /_log":  # for tests in another process
            return self._json(self.state.log)
        if line != "GET /api/agent-harnesses":  # the client's own, once a day
            self.state.log.append(line)
        self.state.agents.add(self.headers.get("User-Agent", ""))
        self.fault = self._next_fault(line)
        time.sleep(self.fault.delay)
        if self.fault.status:
            return self._error(self.fault.status, self.fault.code)
        for pattern, action in self.routes:
            if match := re.fullmatch(pattern, line):
                return action(self, *match.groups())
        return self._error(404, None)

    def _next_fault(self, line: str) -> Fault:
        for fault in self.state.faults:
            if fault.times and re.search(fault.pattern, line):
                if fault.skip:
                    fault.skip -= 1
                else:
                    fault.times -= 1
                    return fault
        return Fault("")

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 - names that http.server looks for

    # --- Answers

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        cut = body if self.command == "HEAD" or self.fault.keep is None else body[: self.fault.keep]
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(cut if self.fault.honest else body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(cut)
        if len(cut) < len(body):
            self.close_connection = True

    def _json(self, data: object, status: int = 200) -> None:
        self.fault = getattr(self, "fault", Fault(""))
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str | None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code} if code else {})

    # --- Push

    def _create(self) -> None:
        request = json.loads(self.body)
        repo_id = f"{request['organization']}/{request['name']}"
        answer = {"url": f"{self.state.url}/{repo_id}"}
        if repo_id in self.state.repos:
            return self._json(answer | {"error": "You already created this model repo"}, 409)
        self.state.repos[repo_id] = Repo()
        return self._json(answer)

    def _validate(self) -> None:
        content = json.loads(self.body)["content"]
        valid = re.match(r"---\n(?=[\s\S]*^license: \S)(?=[\s\S]*^library_name: \S)[\s\S]*?\n---\n", content, re.M)
        self._json({"errors": [] if valid else [{"message": "no metadata"}], "warnings": []}, 200 if valid else 400)

    def _branch(self, repo_id: str, branch: str) -> None:
        refs = self.state.repos[repo_id].refs
        self._json({}, 409 if branch in refs else 200)
        refs.setdefault(branch, refs["main"])

    def _preupload(self) -> None:
        files = [
            {"path": f["path"], "uploadMode": "lfs" if _lfs(f["path"]) else "regular", "shouldIgnore": False}
            for f in json.loads(self.body)["files"]
        ]
        self._json({"files": files})

    def _batch(self) -> None:
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.state.url}/_lfs/{o['oid']}"}}}
            for o in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _put(self, oid: str) -> None:
        good = hashlib.sha256(self.body).hexdigest() == oid
        self.state.blobs[oid] = self.body
        self._json({}, 200 if good else 400)

    def _commit(self, repo_id: str, branch: str) -> None:
        files: dict[str, bytes] = {}
        deleted: list[str] = []
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                deleted.append(value["path"])
        sha = self.state.repos[repo_id].commit(branch, files, tuple(deleted))
        self._json({"commitUrl": f"{self.state.url}/{repo_id}/commit/{sha}", "commitOid": sha, "success": True})

    # --- Pull

    def _found(self, repo_id: str, revision: str) -> str | None:
        repo = self.state.repos.get(repo_id)
        sha = repo.find(revision) if repo else None
        if sha is None:
            self._error(404, "RevisionNotFound" if repo else "RepoNotFound")
        return sha

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        if not (sha := self._found(repo_id, revision)):
            return None
        data = self.state.repos[repo_id].commits[sha].get(path)
        if data is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        etag = self.fault.etag or _etag(path, data)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if _lfs(path):
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start:
            first = int(start[1])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return self._send(206, data[first:], headers)
        return self._send(200, data, headers)

    def _info(self, repo_id: str, revision: str | None = None) -> None:
        if sha := self._found(repo_id, revision or "main"):
            tree = self.state.repos[repo_id].commits[sha]
            self._json({"id": repo_id, "sha": sha, "siblings": [{"rfilename": path} for path in tree]})

    def _tree(self, repo_id: str, revision: str) -> None:
        if sha := self._found(repo_id, revision):
            files = self.state.repos[repo_id].commits[sha].items()
            self._json([{"type": "file", "path": p, "size": len(d), "oid": _etag("", d)} for p, d in files])

    repo_id = r"([\w.-]+/[\w.-]+)"
    routes = (
        (r"POST /api/repos/create", _create),
        (r"POST /api/validate-yaml", _validate),
        (rf"POST /api/models/{repo_id}/branch/(.+)", _branch),
        (r"POST /api/models/.+/preupload/.+", _preupload),
        (r"POST /.+\.git/info/lfs/objects/batch", _batch),
        (r"PUT /_lfs/(\w+)", _put),
        (rf"POST /api/models/{repo_id}/commit/(.+)", _commit),
        (rf"(?:HEAD|GET) /{repo_id}/resolve/([^/]+)/(.+)", _resolve),
        (rf"GET /api/models/{repo_id}(?:/revision/(.+))?", _info),
        (rf"GET /api/models/{repo_id}/tree/([^/]+)", _tree),
    )
