"""A whole run on the device."""
import collections
from tests.devices.fake_cuda import FakeCuda
from finetune.training.fit import fit
from tests.training.conftest import start  # noqa

def test_scratch(start, monkeypatch):
    cfg, dataset, run = start("x", "trainer.max_steps=3", "trainer.max_epochs=null")
    cfg.trainer.accelerator = "gpu"
    with FakeCuda.active() as cuda:
        try:
            fit(cfg, dataset, run)
        finally:
            for k, v in collections.Counter(cuda.syncs).items(): print(v, k)
            print(cuda.copies, cuda.without_fake)
