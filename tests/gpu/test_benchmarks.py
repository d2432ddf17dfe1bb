"""The benchmarks of a device: FLOPs, traces, limits of time, and texts."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ROOT, make_tiny_model, thorough
from tests.gpu.measurements import dies, fails, hangs, squared
from tests.models.tiny import tiny

BENCH = ROOT / "scripts/bench"


@pytest.fixture(autouse=True)
def _import_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.mark.parametrize("lengths", [[7], [12, 3, 12]])
def test_flops_of_a_step_are_those_that_torch_counts(tmp_path, lengths):
    from shapes import step_flops
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModel

    folder = make_tiny_model(tmp_path / "model")
    model = AutoModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)
    embeddings = model.get_input_embeddings()
    with FlopCounterMode(display=False) as counter:
        for length in lengths:
            inputs = embeddings(torch.ones(1, length, dtype=torch.long))
            model(inputs_embeds=inputs).last_hidden_state.sum().backward()
    assert step_flops(folder, lengths) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_flops_of_layers_with_a_window_grow_with_the_length_only(tmp_path):
    from shapes import step_flops

    folder = tiny("modernbert", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    kinds = {"layer_types": ["sliding_attention"] * 2, "local_attention": 8}
    (folder / "config.json").write_text(json.dumps(config | kinds))
    assert step_flops(folder, [400]) == pytest.approx(4 * step_flops(folder, [100]))
    (folder / "config.json").write_text(json.dumps(config | {"layer_types": ["full_attention"] * 2}))
    assert step_flops(folder, [400]) > 4.5 * step_flops(folder, [100])


def test_a_peak_is_only_stated_for_gpus_in_the_table():
    from device import peak_flops

    assert peak_flops("NVIDIA H200") == peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == peak_flops("NVIDIA A100-PCIE-40GB") == 312e12
    assert peak_flops("NVIDIA H100 PCIe") is peak_flops("NVIDIA H200 NVL") is peak_flops("AMD EPYC") is None


def event(name, start, length, kind="kernel", thread=1):
    return {"ph": "X", "name": name, "cat": kind, "ts": start, "dur": length, "tid": thread}


def test_a_trace_is_read_into_kernels_gaps_and_waits():
    from step_profile import analyze

    events = [
        event("ProfilerStep#2", 0, 5000, "user_annotation"),
        event("matmul", 0, 1000),
        event("matmul", 500, 1000, thread=2),  # at the same time, on another stream
        event("softmax", 2500, 500),
        event("Memcpy HtoD", 3000, 1000, "gpu_memcpy"),
        event("cudaStreamSynchronize", 100, 10, "cuda_runtime"),
        event("cudaLaunchKernel", 200, 10, "cuda_runtime"),
        event("aten::_local_scalar_dense", 90, 30, "cpu_op"),
        {"ph": "M", "name": "process_name"},
    ]
    found = analyze(events, "cuda")
    assert found["steps"] == 1 and found["span_ms"] == 4 and found["busy_ms"] == 3
    assert found["idle_share"] == 0.25 and found["gaps"] == 1 and found["largest_gaps_ms"] == [1]
    assert next((each["name"], each["calls"], each["ms"]) for each in found["kernels"]) == ("matmul", 2, 2)
    assert sum(each["share"] for each in found["kernels"]) == pytest.approx(1)
    assert found["waits"] == {"aten::_local_scalar_dense": 1, "cudaStreamSynchronize": 1}
    with pytest.raises(SystemExit, match="no kernels"):
        analyze(events[:1], "cuda")


def test_on_a_cpu_operators_that_others_call_are_not_counted_twice():
    from step_profile import analyze

    events = [event("linear", 0, 10, "cpu_op"), event("addmm", 2, 6, "cpu_op"), event("gelu", 10, 10, "cpu_op")]
    found = analyze(events, "cpu")
    assert {each["name"]: each["ms"] for each in found["kernels"]} == {"linear": 0.01, "gelu": 0.01}
    assert found["idle_share"] == 0


def test_a_trace_that_is_too_large_is_written_without_operators_or_not_at_all(tmp_path):
    from step_profile import write_trace

    path = tmp_path / "trace.json.gz"
    operators = [event(os.urandom(50).hex(), i, 1, "cpu_op") for i in range(2000)]
    trace = {"traceEvents": [*operators, event("matmul", 0, 1)], "schema": 1}
    assert "2,001 events" in write_trace(trace, path, 10)
    assert "of 1 events" in write_trace(trace, path, 0.01)
    assert json.loads(gzip.decompress(path.read_bytes())) == {"traceEvents": [event("matmul", 0, 1)], "schema": 1}
    path.unlink()
    assert "not written" in write_trace(trace, path, 0)
    assert not path.exists()


def test_more_pairs_than_there_are_have_no_text_twice():
    from texts import pairs

    few, many = pairs("short", 100), pairs("short", 30_000)
    assert many[:100] == few == pairs("short")[:100]
    assert len(many) == len(set(many)) == 30_000


def test_a_measurement_that_fails_hangs_or_dies_is_one_line():
    from prepared import MeasurementError, Prepared

    prepared = Prepared("cpu", libraries=[])
    answer = prepared.measure(squared, (3,), 30)
    assert answer["square"] == 9 and answer["seconds_in_all"] > 0 and answer["process_mb"] > 0
    for function, limit, words in (
        (fails, 30, "RuntimeError: number 3$"),
        (hangs, 1, "longer than 1 s"),
        (dies, 30, "status 7"),
    ):
        with pytest.raises(MeasurementError, match=words):
            prepared.measure(function, (3,), limit)


class StubPrepared:
    """Measures nothing and returns fixed numbers; the peer fails in the second round."""

    def __init__(self):
        self.order = []

    def measure(self, function, told, limit):
        from prepared import MeasurementError

        self.order.append(function.__name__)
        if self.order.count("theirs") == 2 and function.__name__ == "theirs":
            raise MeasurementError("OutOfMemoryError: CUDA out of memory")
        pace = 300.0 if function.__name__ == "ours" else 100.0
        return {"pairs_per_second": pace, "most_mb": 10.0, "seconds_in_all": 1.0}


def test_rounds_alternate_and_a_table_has_ratio_and_mfu():
    import train_device
    from results import Deadline

    case = {"shape": "bert-base", "texts": "ragged", "batch": 128, "precision": "bf16-mixed", "device": "cpu",
            "large": False, "steps": 20, "warmup": 5}  # fmt: skip
    entry = {"case": case, "flops_per_pair": 2e9, "contestants": {}}
    arguments, prepared = SimpleNamespace(device="cpu", only=None), StubPrepared()
    for round_ in range(3):
        told = (entry, round_, arguments, {"bert-base": Path("model")}, prepared, Deadline(100))
        train_device._measure_round(*told)
    # The peer is not measured again after its failure.
    assert prepared.order == ["ours", "theirs", "theirs", "ours", "ours"]
    facts = {"cases": [entry], "matmul_flops": 3e12, "peak_flops": 6e12}
    table = train_device.markdown(facts, "cpu")
    assert "ragged, 128, bf16-mixed: ours | 300.0 | 1.00 | 10 | 10.0% | 20.0% | 3 |" in table
    assert "sentence-transformers, sdpa | 100.0 | 3.00 | 10 | 3.3% | 6.7% | 1 |" in table


def test_without_time_nothing_is_measured():
    import train_device
    from results import Deadline

    case = {"shape": "bert-base", "texts": "ragged", "batch": 128, "precision": "bf16-mixed", "device": "cpu",
            "large": False, "steps": 20, "warmup": 5}  # fmt: skip
    entry = {"case": case, "flops_per_pair": 2e9, "contestants": {}}
    arguments, prepared = SimpleNamespace(device="cpu", only=None), StubPrepared()
    train_device._measure_round(entry, 0, arguments, {"bert-base": Path("model")}, prepared, Deadline(3))
    assert not prepared.order
    table = train_device.markdown({"cases": [entry], "matmul_flops": 1.0, "peak_flops": None}, "cpu")
    assert table.count("not measured: no time left") == 2


@pytest.mark.parametrize("script", ["train.py", thorough("embed_device.py"), thorough("step_profile.py")])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_exit_code_is_not_zero(script, tmp_path):
    command = [sys.executable, BENCH / script, "--device", "cuda", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no GPU" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_one_case_of_training_on_a_cpu(tmp_path):
    command = [sys.executable, BENCH / "train.py", "--tiny", "--texts", "short", "--shapes", "bert-base", "--batches",
               "8", "--rounds", "1", "--out", tmp_path]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "train.json").read_text())["cases"]
    assert set(case["contestants"]) == {"ours", "sentence-transformers, sdpa"}
    assert all(found["rounds"][0]["pairs_per_second"] > 0 for found in case["contestants"].values())
