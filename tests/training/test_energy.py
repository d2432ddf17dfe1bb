from pathlib import Path

import torch

from finetune.training.energy import Energy, Package


def zone(folder: Path, name: str, microjoules: int, end: int = 1_000_000_000) -> Path:
    folder.mkdir()
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{end}\n")
    return folder


def test_packages_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    zones = {name: zone(tmp_path / f"intel-rapl:{place}", name, 5_000_000) for place, name in
             [("0", "package-0"), ("0:0", "core"), ("1", "package-1"), ("2", "psys")]}  # fmt: skip
    energy = Energy(torch.device("cpu"), tmp_path)
    for folder in zones.values():
        (folder / "energy_uj").write_text("41000000")
    assert energy.watt_hours() == 2 * 36 / 3600


def test_a_counter_that_overflows_continues(tmp_path: Path) -> None:
    package = Package(zone(tmp_path / "intel-rapl:0", "package-0", 900, end=1000))
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100")
    assert package.joules() == 200e-6
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("150")
    assert package.joules() == 250e-6


def test_without_counters_there_is_no_energy(tmp_path: Path) -> None:
    folder = zone(tmp_path / "intel-rapl:0", "package-0", 1)
    (folder / "energy_uj").unlink()
    assert Energy(torch.device("cpu"), tmp_path).watt_hours() is None
    assert Energy(torch.device("cpu"), tmp_path / "none").watt_hours() is None
