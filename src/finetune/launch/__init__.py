"""From the command line to runs: one process each."""

from __future__ import annotations

from finetune import interrupts, native_libraries


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code, see `entry.main`; Ctrl-C is answered from here on."""
    interrupts.end_at_once()
    native_libraries.set_defaults()
    from finetune.launch.slurm import job

    job.listen()
    from finetune.launch.entry import main as launch

    return launch(argv)
