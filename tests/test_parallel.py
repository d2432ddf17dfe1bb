"""The test suite's own machinery: workers that share and wait, processes that are forks, and few examples."""

import os
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.conftest import QUICK_EXAMPLES, THOROUGH, start_train
from tests.parallel import build_once, turn


def test_a_test_that_runs_alone_waits_for_the_others_and_is_not_overtaken(tmp_path):
    order, first_may_end = [], threading.Event()

    def run(name, alone, wait):
        with turn(tmp_path, alone):
            order.append(f"{name} begins")
            wait()
            order.append(f"{name} ends")

    def start(name, alone, wait=lambda: time.sleep(0.05)):
        thread = threading.Thread(target=run, args=(name, alone, wait))
        thread.start()
        time.sleep(0.2)
        return thread

    threads = [start("first", False, first_may_end.wait), start("second", False)]
    assert order == ["first begins", "second begins", "second ends"]
    threads += [start("alone", True), start("last", False)]
    assert order[3:] == []
    first_may_end.set()
    for thread in threads:
        thread.join()
    assert order[3:] == ["first ends", "alone begins", "alone ends", "last begins", "last ends"]


def test_what_workers_share_is_built_once_and_again_after_an_error(tmp_path_factory):
    built = []

    def build(folder):
        built.append(len(list(folder.iterdir())))
        (folder / "file").touch()
        if len(built) == 1:
            raise ValueError("the first one fails")
        return folder / "file"

    with pytest.raises(ValueError, match="the first one fails"):
        build_once(tmp_path_factory, f"shared{os.getpid()}", build)
    files = {build_once(tmp_path_factory, f"shared{os.getpid()}", build) for _ in range(3)}
    assert len(files) == 1 and files.pop().exists()
    assert built == [0, 0]


def test_forked_runs_end_with_their_own_exit_codes_also_several_at_once(tmp_path):
    killed, refused = (start_train(word, cwd=tmp_path) for word in ("check=true", "--nothing"))
    killed.kill()
    assert (killed.wait(60), killed.poll()) == (-signal.SIGKILL, -signal.SIGKILL)
    out, err = refused.communicate(60)
    assert (refused.returncode, out) == (2, "")
    assert "there is no option --nothing" in err


EXAMPLES = []


@hypothesis_settings(max_examples=200, database=None)
@given(st.integers())
def test_examples(number):
    EXAMPLES.append(number)


def test_few_examples_are_tried_unless_all_are_asked_for():
    if EXAMPLES:  # else another worker ran the test above
        assert len(EXAMPLES) == (200 if THOROUGH else QUICK_EXAMPLES)
