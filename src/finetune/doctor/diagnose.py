"""All findings, in the order in which they are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from finetune.doctor.devices import device_findings
from finetune.doctor.finding import Finding
from finetune.doctor.machine import disk_findings, limit_findings, locale_findings, memory_findings
from finetune.doctor.packages import package_findings, python_findings
from finetune.doctor.redact import hide_credentials
from finetune.doctor.services import hub_findings, slurm_findings, tracker_findings


def diagnose(output_root: Path, *, network: bool = False) -> Iterator[Finding]:
    """Yield one finding after another, each as soon as it is known; nothing is written, except a temporary file.

    Args:
        output_root: folder of the runs, whose disk is looked at.
        network: also try to reach the model hub. Otherwise nothing is sent anywhere.
    """
    topics: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("finetune", python_findings),
        ("packages", package_findings),
        ("devices", device_findings),
        ("memory", memory_findings),
        ("disk", lambda: disk_findings(output_root)),
        ("hub", lambda: hub_findings(network=network)),
        ("trackers", tracker_findings),
        ("SLURM", slurm_findings),
        ("limits", limit_findings),
        ("locale", locale_findings),
    ]
    for topic, findings in topics:
        try:
            yield from findings()
        except Exception as error:  # a broken installation is what this command is for
            text = hide_credentials(f"it cannot be examined: {type(error).__name__}: {error}")
            yield Finding(topic, "check", "wrong", text, "Is the installation complete?")
