"""python3 reaper.py COMMAND...: in the background, with the orphans that it leaves.

A node of its own has a process that takes orphans up; without one slurmd waits for those of its jobs.
"""

import ctypes
import os
import sys

_PR_SET_CHILD_SUBREAPER = 36  # a name of Linux's prctl.h


def main(command: list[str]) -> None:
    """Start a command that outlives this one, and wait for all processes that become its children."""
    if os.fork():
        os._exit(0)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        sys.exit("this system has no subreapers")
    child = os.fork()
    if child == 0:
        os.execvp(command[0], command)
    while os.wait()[0] != child:
        pass


if __name__ == "__main__":
    main(sys.argv[1:])
