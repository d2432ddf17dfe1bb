"""Errors of CUDA, NCCL and gloo, in the words that torch 2 prints (from its sources and its users' reports)."""

import pytest
import torch

from finetune.runs.failure_causes import cause_of, explained_error, is_secondary_failure

Dist, Accelerator = torch.distributed.DistBackendError, torch.AcceleratorError
_LATE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Device-side assertion tracking was not enabled by user."
)


def nccl(summary, kind, last):
    """Return an error as `C10D_NCCL_CHECK` and `getNcclErrorDetailStr` make it."""
    where = "/pytorch/torch/csrc/distributed/c10d/NCCLUtils.hpp:268"
    return Dist(f"NCCL error in: {where}, {summary}, NCCL version 2.27.5\n{kind}\nLast error:\n{last}")


REMOTE = "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
SYSTEM = (
    "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. "
    "It can be also caused by unexpected exit of a remote peer."
)
INTERNAL = "ncclInternalError: Internal check failed."
CUDA = "ncclUnhandledCudaError: Call to CUDA function failed."
USAGE = "ncclInvalidUsage: This usually reflects invalid usage of NCCL library."
WATCHDOG = (
    "[PG ID 0 PG GUID 0(default_pg) Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1580, "
    "OpType=ALLREDUCE, NumelIn=466119168, NumelOut=466119168, Timeout(ms)=600000) ran for 600060 milliseconds "
    "before timing out."
)
# The error, its cause, a part of what is said, a part of the advice.
FIRST_CAUSES = [
    (Accelerator("CUDA error: uncorrectable ECC error encountered" + _LATE), "gpu", "hardware error", "nvidia-smi -q"),
    (Accelerator("CUDA error: uncorrectable NVLink error detected during the execution" + _LATE), "gpu", "hardware",
     "another machine"),
    (nccl("unhandled cuda error (run with NCCL_DEBUG=INFO for details)", CUDA,
          "Cuda failure 214 'uncorrectable ECC error encountered'"), "gpu", "hardware error", "Xid"),
    (Accelerator("CUDA error: device-side assert triggered" + _LATE), "error", "index", "trainer.accelerator=cpu"),
    (RuntimeError("CUDA error: device-side assert triggered"), "error", "index", "CUDA_LAUNCH_BLOCKING=1"),
    (Accelerator("CUDA error: an illegal memory access was encountered" + _LATE), "error", "memory that is not its own",
     "CUDA_LAUNCH_BLOCKING=1"),
    (Accelerator("CUDA error: no kernel image is available for execution on the device" + _LATE), "gpu",
     "no code for this GPU", "get_arch_list"),
    (RuntimeError("CUDA driver version is insufficient for CUDA runtime version"), "gpu", "driver", "nvidia-smi"),
    (RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."), "gpu", "driver", "Update"),
    (Accelerator("CUDA error: invalid device ordinal" + _LATE), "gpu", "does not exist", "trainer.devices"),
    (Accelerator("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), "gpu", "another program",
     "CUDA_VISIBLE_DEVICES"),
    (nccl("invalid usage (run with NCCL_DEBUG=WARN for details)", USAGE,
          "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 34000"), "gpu", "the same GPU",
     "trainer.devices"),
    (nccl("internal error", INTERNAL, "Bootstrap : no socket interface found"), "network", "no network interface",
     "NCCL_SOCKET_IFNAME"),
    (nccl("internal error", INTERNAL,
          "ncclSocketInit: connecting to address  with family 59936 is neither AF_INET(2) nor AF_INET6(10)"),
     "network", "no network interface", "ip -br addr"),
    (nccl("unhandled system error", SYSTEM,
          "Error while creating shared memory segment /dev/shm/nccl-VrdfBd (size 9637888)"), "out of memory",
     "shared memory", "--shm-size"),
    (nccl("unhandled system error", SYSTEM, "Call to ibv_create_qp failed"), "network", "InfiniBand", "ulimit -l"),
    (nccl("unhandled cuda error", CUDA, "Cuda failure 2 'out of memory'"), "out of memory", "no memory left",
     "engine.activation_mb"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory",
     "Memory ran out", "engine.token_budget"),
    (nccl("invalid argument", "ncclInvalidArgument: Invalid value for an argument.", "Broadcast : invalid root 3"),
     "error", "does not support: Broadcast : invalid root 3", "NCCL_DEBUG=WARN"),
]  # fmt: skip
CONSEQUENCES = [
    (nccl("remote process exited or there was a network error", REMOTE,
          "socketProgressOpt: Call to recv from 172.16.1.9<33759> failed : Connection reset by peer"), "node lost"),
    (nccl("internal error", INTERNAL, "Net : Connection closed by remote peer node07<50260>"), "node lost"),
    (nccl("remote process exited or there was a network error", REMOTE,
          "NET/IB: Got completion from peer 11.214.147.122<39138> with status=12 opcode=0 len=0 vendor err 129"),
     "node lost"),
    (Dist("NCCL communicator was aborted on rank 1. "), "node lost"),
    (Dist(f"NCCL communicator was aborted on rank 1.  Original reason for failure was: {WATCHDOG}"), "timeout"),
    (Dist(WATCHDOG), "timeout"),
    (Dist("NCCL timeout in communicator initialization."), "timeout"),
    (torch.distributed.DistStoreError("wait timeout after 1800000ms, keys: /default_pg/0//cuda//0"), "timeout"),
    (torch.distributed.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed. Did the remote "
                                        "server shutdown or crash?"), "node lost"),
    (RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:24988. This is typically "
                  "caused by a remote worker crashing."), "node lost"),
    (RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to "
                  "complete"), "timeout"),
    (nccl("unhandled system error", SYSTEM, "ncclProxyConnect failed"), "network"),
    (nccl("internal error", INTERNAL, "Unknown"), "error"),
    (nccl("unhandled cuda error", CUDA, "Cuda failure 'unknown error'"), "gpu"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "cause", "what", "advice"), FIRST_CAUSES, ids=str)
def test_an_error_of_a_gpu_or_of_nccl_is_explained_and_is_a_first_cause(error, cause, what, advice):
    explained = explained_error(error)
    assert cause_of(error) == cause
    assert what in explained.what
    assert advice in explained.advice
    assert explained.exit_code == 1
    assert not is_secondary_failure(error)


@pytest.mark.parametrize(("error", "cause"), CONSEQUENCES, ids=str)
def test_an_error_that_the_end_of_another_process_causes_is_only_a_consequence(error, cause):
    assert is_secondary_failure(error)
    assert cause_of(error) == cause
    assert explained_error(error).advice


def test_the_last_error_of_nccl_is_what_is_said():
    error = nccl("internal error", INTERNAL, "Net : Connection closed by remote peer node07<50260>")
    assert explained_error(error).what.endswith(": Net : Connection closed by remote peer node07<50260>")


def test_a_bug_in_a_kernel_keeps_its_traceback_and_a_broken_gpu_has_none():
    assert "AcceleratorError" in explained_error(Accelerator("CUDA error: device-side assert triggered")).trace
    assert not explained_error(Accelerator("CUDA error: uncorrectable ECC error encountered")).trace


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA error: device-side assert triggered"),
        RuntimeError("The request timed out."),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_other_errors_are_not_explained(error):
    assert explained_error(error) is None


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate 2.00 GiB.", "CUDA error: out of memory"])
def test_memory_that_ran_out_is_explained_as_before(text):
    error = torch.OutOfMemoryError(text)
    assert cause_of(error) == "out of memory"
    assert explained_error(error).what == "Memory ran out."
