"""Standard streams that never raise: whatever is at their other end, the program continues and ends as it would."""

import os
import subprocess
import sys

import pytest

SPEAK = """
import logging, sys
from finetune import streams
streams.install()
logging.basicConfig(stream=sys.stdout, force=True)
for number in range(3000):
    print("caf\\u00e9 \\u2192", number, flush=True)
    logging.getLogger("library").warning("\\u4e2d")
sys.stdout.buffer.write(b"bytes\\n")
sys.stderr.write("\\u2713\\n" * 3000)
sys.exit(7)
"""


def speak(program=SPEAK, encoding="utf-8", before="", **files):
    """Run a program whose text streams have an encoding; `before` is what its shell does with them."""
    command = ["sh", "-c", f'exec "$0" -c "$1" {before}', sys.executable, program.replace("\\\\u", "\\u")]
    env = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(command, env=env, check=False, timeout=60, **files)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "ascii:strict", "utf-8"])
def test_characters_that_an_encoding_lacks_are_replaced(encoding):
    done = speak(encoding=encoding, capture_output=True)
    assert done.returncode == 7
    assert b"Error" not in done.stderr
    accent = {"ascii": b"?", "utf-8": "\u00e9".encode()}.get(encoding.partition(":")[0], b"\xe9")
    assert done.stdout.startswith(b"caf" + accent + b" ")
    assert b"2999\n" in done.stdout and b"bytes\n" in done.stdout


@pytest.mark.parametrize("before", [">/dev/full", ">/dev/full 2>&1", ">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_full_disk_and_closed_descriptors_are_no_error(before):
    done = speak(before=before, stderr=subprocess.PIPE)
    assert done.returncode == 7
    assert b"Error" not in done.stderr


def test_a_reader_that_has_gone_is_no_error_also_at_the_end():
    ours, theirs = os.pipe()
    os.close(ours)
    # Block-buffered, so that most of it is written when the interpreter ends.
    done = speak(
        "from finetune import streams; streams.install(); print('x' * 100); raise SystemExit(7)", stdout=theirs
    )
    os.close(theirs)
    assert done.returncode == 7


def test_a_pipe_that_is_full_and_does_not_block_is_waited_for():
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    program = "from finetune import streams; streams.install(); print('x' * 1_000_000)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs) as process:
        os.close(theirs)
        with os.fdopen(ours, "rb") as file:
            assert file.read() == b"x" * 1_000_000 + b"\n"
    assert process.returncode == 0


def test_a_file_that_is_opened_where_standard_output_is_closed_does_not_become_it(tmp_path):
    program = f"""
import os, sys
from finetune import streams
streams.install()
with open({str(tmp_path / "data")!r}, "w") as file:
    os.write(1, b"a C library prints")
    print("and so does Python", flush=True)
assert sys.stdin.read() == ""
"""
    assert speak(program, before="<&- >&-").returncode == 0
    assert (tmp_path / "data").read_text() == ""


def test_the_bytes_of_a_file_name_are_written_as_they_are():
    program = "from finetune import streams; streams.install(); print('\\udcff/a')"
    assert speak(program, capture_output=True).stdout == b"\xff/a\n"


def test_streams_of_another_program_are_given_back(capsys):
    from finetune import streams

    before = sys.stdin, sys.stdout, sys.stderr
    with streams.replaced():
        print("kept")
    assert (sys.stdin, sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "kept\n"
    assert not streams.is_program()
