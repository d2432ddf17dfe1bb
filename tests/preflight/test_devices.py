"""What a run wants to train on, held against what there is, and against what torchrun or srun has started."""

import pytest
from omegaconf import OmegaConf

from finetune import ranks
from finetune.cli.main import main
from finetune.errors import CheckFailed
from finetune.preflight import devices
from finetune.ranks import RankInfo, current_rank

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in (*ranks.RANK_VARIABLES, *SRUN):
        monkeypatch.delenv(name, raising=False)


def config(devices=1, num_nodes="auto", accelerator="cpu"):
    trainer = {"accelerator": accelerator, "devices": devices, "num_nodes": num_nodes}
    return OmegaConf.create({"trainer": trainer, "check": False})


@pytest.mark.parametrize(("said", "starter"), [(TORCHRUN, "torchrun"), (SRUN, "srun")])
def test_which_process_it_is_says_who_started_it(monkeypatch, said, starter):
    assert current_rank() == RankInfo(0, 1, 0, 1, "")
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert current_rank() == RankInfo(3, 4, 1, 2, starter)
    assert current_rank().machines == 2
    assert not ranks.is_first()


def test_a_batch_script_of_slurm_is_one_process(monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert current_rank().world == 1


def test_what_was_started_must_be_what_the_config_says(monkeypatch):
    assert not devices.check_devices(config(devices=3))
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert not devices.check_devices(config("auto"))
    assert not devices.check_devices(config(2, 2))
    many, machines = devices.check_devices(config(3, 1))
    assert (many.where, many.what) == ("trainer.devices", "torchrun started 2 on this machine, and this says 3.")
    assert (machines.where, machines.what) == (
        "trainer.num_nodes",
        "torchrun started processes on 2 machines, and this says 1.",
    )


def test_one_process_starts_none_on_other_machines():
    devices.check_start(config(num_nodes=1))
    with pytest.raises(CheckFailed) as refused:
        devices.check_start(config(num_nodes=2))
    (problem,) = refused.value.problems
    assert problem.where == "trainer.num_nodes"
    assert "torchrun --nnodes=2" in problem.advice


def test_more_gpus_than_there_are(monkeypatch, tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert devices._count_usable_gpus(tmp_path) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices._count_usable_gpus(tmp_path) == 1
    monkeypatch.setattr(devices, "_count_usable_gpus", lambda: 1)
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    (problem,) = devices.check_devices(config(2, accelerator="gpu"))
    assert problem.what == "this machine has 1 GPU to use, and this asks for 2."
    assert not devices.check_devices(config(1, accelerator="gpu"))


def test_a_sweep_is_started_without_torchrun(monkeypatch, capsys):
    for name, value in (TORCHRUN | {"RANK": "0"}).items():
        monkeypatch.setenv(name, value)
    assert main(["-m", "seed=1,2"]) == 2
    assert "Start it without torchrun or srun." in capsys.readouterr().err
