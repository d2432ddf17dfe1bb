"""The connections that show that a process or a machine is gone."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from finetune.runner.liveness import KILLED, MACHINE_LOST, Connection, Listener
from tests.training.test_processes import ip, two_hosts

# A process with rank 1 that connects and does not answer any more, and the first process, in probes of a second.
PEER = """import faulthandler, sys, time
from finetune.runner import liveness
faulthandler.dump_traceback_later(30, exit=True)  # else a test would wait for ever
liveness._SECONDS_TO_PROBE = 1
"""
OTHER = f"{PEER}link = liveness.Connection(sys.argv[1], sys.argv[2], 1)\nprint('connected', flush=True)\n"
FIRST = f"""{PEER}
listener = liveness.Listener()
print(listener.invitation, flush=True)
while not listener.ended():
    time.sleep(0.05)
print(listener.ended()[1], flush=True)
"""


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def start(code, *words, before=()):
    return subprocess.Popen([*before, sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True)


def test_a_process_that_is_killed_is_noticed_at_once_and_one_that_holds_the_interpreter_is_not_taken_for_it():
    listener = Listener()
    other = start(OTHER + "import ctypes\nctypes.PyDLL(None).sleep(600)", "127.0.0.1", listener.invitation)
    try:
        assert other.stdout.readline() == "connected\n"
        time.sleep(0.5)
        assert listener.ended() == {}
    finally:
        other.kill()
        other.wait()
    wait_for(listener.ended, seconds=2)
    assert listener.ended() == {1: KILLED}
    assert listener.ended() == {1: KILLED}


def test_a_stopped_process_still_exists():
    listener = Listener()
    other = start(OTHER + "time.sleep(600)", "127.0.0.1", listener.invitation)
    try:
        assert other.stdout.readline() == "connected\n"
        other.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        assert listener.ended() == {}
    finally:
        other.kill()
        other.wait()


def test_the_end_of_the_first_process_is_noticed():
    first = start(FIRST)
    connection = Connection("127.0.0.1", first.stdout.readline().strip(), 1)
    first.kill()
    first.wait()
    assert connection.wait_for_end() == KILLED


@pytest.mark.parametrize("greeting", [b"wrong 1", b"", b"x" * 100, b"1"])
def test_who_has_no_invitation_is_turned_away(greeting):
    listener = Listener()
    with socket.create_connection(("127.0.0.1", int(listener.invitation.split()[0]))) as stranger:
        stranger.send(greeting)
        stranger.shutdown(socket.SHUT_WR)
        stranger.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert listener.ended() == {}
    Connection("127.0.0.1", listener.invitation, 1)
    wait_for(listener.ended)  # it is garbage at once


@pytest.mark.skipif(os.getuid() != 0, reason="needs two network namespaces, which only root can make")
def test_a_machine_that_no_longer_answers_is_noticed_by_both_sides():
    code = OTHER + "print(link.wait_for_end(), flush=True)"
    try:
        with two_hosts() as (starts, address):
            first = start(FIRST, before=starts[0])
            invitation = first.stdout.readline().strip()
            other = start(code, address, invitation, before=starts[1])
            try:
                assert other.stdout.readline() == "connected\n"
                before = time.monotonic()
                ip(f"-n {starts[0][-1]} link set eth0 down")
                assert first.stdout.readline().strip() == MACHINE_LOST
                assert other.stdout.readline().strip() == MACHINE_LOST
                assert time.monotonic() - before < 20
            finally:
                for process in (first, other):
                    process.kill()
                    process.wait()
    except OSError as error:
        pytest.skip(f"this machine has no network namespaces: {error}")
