"""A Python that has imported what every run imports; each run of a test is a fork of it, and starts at once.

Half of what a short run takes is imports. A fork has them, and is otherwise a process like any: arguments, folder,
environment, files, signals and exit code are its own. What is decided at the import (threads, hubs, the hash seed) is
the same for all of them, so a test that sets such a thing starts a Python of its own (`run_train` with `env`).

The server forks a monitor for every request, and the monitor forks the run, sends its process id and its exit code.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_LONGEST = 1 << 17  # bytes of a request: arguments and environment


class WarmProcess:
    """A run in a fork, with those methods of `subprocess.Popen` that the tests use."""

    def __init__(self, server: socket.socket, argv: tuple[str, ...], cwd: Path, env: dict[str, str]) -> None:
        self.args, self.returncode = argv, None
        self._out, self._err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._monitor, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = json.dumps({"argv": argv, "cwd": str(cwd), "env": env}).encode()
        with theirs, Path(os.devnull).open() as nothing:
            files = [file.fileno() for file in (nothing, self._out, self._err, theirs)]
            socket.send_fds(server, [request], files)
        self.pid = self._receive()

    def _receive(self) -> int:
        message = self._monitor.recv(64)
        if not message:
            raise ChildProcessError("the process that runs are forked from has ended")
        return int(message)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None and select.select([self._monitor], [], [], 0)[0]:
            self.returncode = self._receive()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once it has ended; minus the number of the signal that killed it."""
        if self.returncode is None:
            if not select.select([self._monitor], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._receive()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait, and return what it printed to standard output and to standard error."""
        self.wait(timeout)
        printed = []
        for file in (self._out, self._err):
            file.seek(0)
            printed.append(file.read())
        return printed[0], printed[1]

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Warm:
    """Starts scripts and modules in forks of one process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.warm", str(theirs.fileno())]
            env = os.environ | {"HF_HUB_OFFLINE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # torch reads it at the import
            self._server = subprocess.Popen(command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()])

    def start(self, *argv: str, cwd: Path, env: dict[str, str]) -> WarmProcess:
        """Start the script `argv[0]`, or with `-m` the module `argv[1]`."""
        return WarmProcess(self._socket, argv, cwd, env)

    def run(self, *argv: str, cwd: Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Do as `subprocess.run` would, and return what it printed and its exit code.

        Raises:
            subprocess.TimeoutExpired: it ran longer than `timeout` seconds, and was killed.
        """
        process = self.start(*argv, cwd=cwd, env=env)
        try:
            printed = process.communicate(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(argv, process.wait(), *printed)

    def close(self) -> None:
        """End the server; runs that have not ended keep running."""
        self._socket.close()
        self._server.wait()


def _serve(connection: socket.socket) -> dict[str, Any] | None:
    """Answer requests until there are no more; in a fork for a run, return its request."""
    while True:
        request, files, _, _ = socket.recv_fds(connection, _LONGEST, 4)
        if not request:
            return None
        if os.fork() == 0:
            connection.close()
            *streams, report = files
            if (found := _monitor(json.loads(request), streams, socket.socket(fileno=report))) is not None:
                return found
            os._exit(0)
        for each in files:
            os.close(each)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # monitors that have ended
                pass


def _monitor(request: dict[str, Any], streams: list[int], report: socket.socket) -> dict[str, Any] | None:
    """Fork the run and report its process id and its exit code; in the fork, return the request."""
    child = os.fork()
    if child == 0:
        report.close()
        for here, there in enumerate(streams):
            os.dup2(there, here)
            os.close(there)
        return request
    with contextlib.suppress(BrokenPipeError):
        report.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        report.send(str(os.waitstatus_to_exitcode(status)).encode())
    return None


def _import_all() -> None:
    import pandas  # noqa: F401 - pyarrow imports it where it is installed
    import transformers.models.bert.modeling_bert  # noqa: F401

    import finetune.cli.main
    import finetune.training.fit  # noqa: F401

    gc.collect()
    gc.freeze()  # else the first collection in a fork would copy every page that holds an object


def _become(request: dict[str, Any]) -> None:
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    program, *arguments = request["argv"]
    if program == "-m":
        sys.argv, sys.path[0] = arguments, request["cwd"]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = request["argv"], str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    _import_all()
    if (found := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(found)
