"""The operations for a GPU, whose calls to torch are recorded, and those for a CPU."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from finetune import devices
from finetune.data.batching.batch import Batch
from finetune.training.preserve_state import random_state, set_random_state
from finetune.training.step_timer import StepTimer

MB = 2**20


class Stream:
    """A stream that records what waits for it."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def wait_stream(self, other):
        self.calls.append((self.name, "waits for", other.name))


class Recorder(TorchFunctionMode):
    """Records, with the current stream, how tensors are copied; nothing leaves the CPU."""

    def __init__(self):
        super().__init__()
        self.calls, self.current = [], Stream("computation", [])
        self.current.calls = self.calls

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name == "pin_memory":
            self.calls.append((self.current.name, "pin"))
            return args[0]
        if name == "to" and isinstance(args[1], torch.device) and args[1].type == "cuda":
            self.calls.append((self.current.name, "copy", kwargs))
            return args[0].clone()
        return function(*args, **(kwargs or {}))


@pytest.fixture
def recorded(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("copies", recorder.calls))
    monkeypatch.setattr(torch.cuda, "stream", recorder.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: recorder.current)

    def record_stream(tensor, stream):
        recorder.calls.append((recorder.current.name, "keep until used by", stream.name))

    monkeypatch.setattr(torch.Tensor, "record_stream", record_stream)
    return recorder


def a_batch():
    numbers = torch.arange(4)
    return Batch(numbers, numbers, numbers, numbers, numbers, numbers[:, None], torch.empty(0, 2), [1] * 4, 4)


def test_a_batch_is_copied_from_pinned_memory_in_a_stream_of_its_own(recorded):
    cuda = devices.Cuda(torch.device("cuda"))
    with recorded:
        copied = cuda.copy(a_batch())
        cuda.copy(a_batch())
    assert copied.items_N.tolist() == [0, 1, 2, 3] and copied.lengths_cpu == [1] * 4
    copies = [("copies", "pin"), ("copies", "copy", {"non_blocking": True})] * 7
    # The computation waits for the copy, not the host; and the memory is not reused before the computation is over.
    kept = [("computation", "keep until used by", "computation")] * 7
    assert recorded.calls == [*copies, ("computation", "waits for", "copies"), *kept] * 2


def test_planning_is_uploaded_from_pinned_memory_in_the_order_of_the_computation(recorded):
    with recorded:
        devices.Cuda(torch.device("cuda")).upload(np.arange(3))
    assert recorded.calls == [("computation", "pin"), ("computation", "copy", {"non_blocking": True})]


def test_what_is_available_is_free_or_in_whole_blocks_of_the_allocator(monkeypatch):
    stats = {"reserved_bytes.all.current": 400 * MB, "allocated_bytes.all.current": 250 * MB,
             "inactive_split_bytes.all.current": 50 * MB}  # fmt: skip
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (600 * MB, 1024 * MB))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    assert devices.Cuda(torch.device("cuda")).available() == (600 + 400 - 250 - 50) * MB
    stats.clear()  # nothing was allocated yet
    assert devices.Cuda(torch.device("cuda")).available() == 600 * MB


class Event:
    """An event of a GPU that is three times slower than its host."""

    queued = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.queued += 1
        self.milliseconds, self.is_done = 3000.0 * Event.queued, False

    def elapsed_time(self, end):
        assert Event.is_synchronized
        return end.milliseconds - self.milliseconds


def test_stages_of_a_step_are_timed_by_events_and_only_the_times_wait(monkeypatch):
    Event.queued, Event.is_synchronized = 0, False
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: setattr(Event, "is_synchronized", True))
    timer = StepTimer()
    timer.start_step(torch.device("cuda"))
    for stage in ("encode", "loss", "encode"):
        timer.end_stage(stage)
    assert not Event.is_synchronized
    assert timer.seconds() == {"encode": 6.0, "loss": 3.0}


def test_random_states_of_the_gpu_are_saved_and_restored_where_there_is_one(monkeypatch):
    own, seen = torch.tensor([7], dtype=torch.uint8), []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: own)
    monkeypatch.setattr(torch.cuda, "set_rng_state", seen.append)
    state = random_state(torch.device("cuda"))
    assert torch.equal(state["cuda"], own)
    expected = torch.rand(3)
    set_random_state(state)  # a GPU's checkpoint on a machine without one
    assert torch.equal(torch.rand(3), expected) and not seen
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_random_state(state)
    assert torch.equal(seen[0], own)


@pytest.mark.parametrize(
    ("accelerator", "gpu", "mps", "expected"),
    [("auto", True, False, "cuda"), ("auto", False, True, "mps"), ("auto", False, False, "cpu"),
     ("cpu", True, True, "cpu"), ("gpu", False, True, "mps"), ("mps", True, True, "mps"), ("cuda", True, True, "cuda")],
)  # fmt: skip
def test_the_fastest_device_of_an_accelerator_is_chosen(monkeypatch, accelerator, gpu, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.choose(accelerator).type == expected


def test_a_cpu_has_main_memory_and_copies_at_once():
    cpu = devices.of(torch.device("cpu"))
    assert cpu.available() > 10 * MB and cpu.peak() > 10 * MB
    assert cpu.allocated() is None and cpu.reserved() is None and not cpu.has_own_memory
    batch = a_batch()
    assert cpu.copy(batch).items_N.data_ptr() == batch.items_N.data_ptr()
    assert cpu.name() == "cpu"
    assert cpu.seconds_between(cpu.now(), cpu.now()) >= 0


def test_the_peak_of_a_gpu_is_that_of_its_tensors(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 123 * MB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 45 * MB)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 67 * MB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-c"))
    cuda = devices.Cuda(torch.device("cuda"))
    assert (cuda.peak(), cuda.allocated(), cuda.reserved()) == (123 * MB, 45 * MB, 67 * MB)
    assert cuda.uuid() == "GPU-ab-c"
