"""A Python that has imported what every run imports; each run of a test is a fork of it, and starts at once.

Half of what a short run takes is imports. A fork has them, and is otherwise a process like any: arguments, folder,
environment, files and exit code are its own. What is decided at the import (threads, hubs, the hash seed) is the
same for all of them, so a test that sets such a thing starts a Python of its own (`run_train` with `env`).
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LONGEST = 1 << 17  # bytes of a request: arguments and environment


class Warm:
    """Runs scripts in forks of one process, one after the other."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
            env = os.environ | {"HF_HUB_OFFLINE": "1"}
            self._server = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()])
        self._lock = threading.Lock()

    def run(self, *argv: str, cwd: Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run the script `argv[0]` as `subprocess.run` would, and return what it printed and its exit code.

        Raises:
            subprocess.TimeoutExpired: it ran longer than `timeout` seconds, and was killed.
        """
        request = json.dumps({"argv": argv, "cwd": str(cwd), "env": env}).encode()
        with (
            Path(os.devnull).open() as nothing,
            tempfile.TemporaryFile("w+") as out,
            tempfile.TemporaryFile("w+") as err,
        ):
            files = [nothing.fileno(), out.fileno(), err.fileno()]
            with self._lock:
                socket.send_fds(self._socket, [request], files)
                exit_code = self._ended(argv, timeout)
            printed = [file.seek(0) or file.read() for file in (out, err)]
        return subprocess.CompletedProcess(argv, exit_code, *printed)

    def _ended(self, argv: Sequence[str], timeout: float) -> int:
        process = self._answer()
        ended_in_time = bool(select.select([self._socket], [], [], timeout)[0])
        if not ended_in_time:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        exit_code = self._answer()
        if not ended_in_time:
            raise subprocess.TimeoutExpired(argv, timeout)
        return exit_code

    def _answer(self) -> int:
        answer = self._socket.recv(64)
        if not answer:
            raise ChildProcessError(f"the process that runs are forked from has ended: {self._server.wait()}")
        return int(answer)

    def close(self) -> None:
        """End the process; what it started has ended before."""
        self._socket.close()
        self._server.wait()


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Answer requests until there are no more; in a fork, return the request that it is for."""
    while True:
        request, files, _, _ = socket.recv_fds(connection, _LONGEST, 3)
        if not request:
            return None
        child = os.fork()
        if child == 0:
            connection.close()
            for here, there in enumerate(files):
                os.dup2(there, here)
                os.close(there)
            return dict(json.loads(request))
        for each in files:
            os.close(each)
        connection.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())


def _import_all() -> None:
    import pandas  # noqa: F401 - pyarrow imports it where it is installed
    import transformers.models.bert.modeling_bert  # noqa: F401

    import finetune.cli.main
    import finetune.training.fit  # noqa: F401


def _be(request: dict[str, Any]) -> None:
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _import_all()
    if (found := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _be(found)
