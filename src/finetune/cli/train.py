"""From the command line to runs: one process each."""

from __future__ import annotations

from collections.abc import Sequence

from finetune import native_libraries, signals, streams


def main(argv: Sequence[str] | None = None) -> int:
    """Run what `argv` asks for; returns the exit code: 0, 2 for a mistake in it, 1 for a failed run, 130 if stopped.

    Without `argv` this process is the program itself: it takes the arguments of the command line and handles Ctrl-C.
    With `argv` any Python program can call it, from any thread; the state of its process is restored afterwards
    (`runner/process_state.py`). One call at a time, because a run changes state that belongs to the whole process.
    """
    if argv is None:
        signals.exit_on_interrupt()
        streams.install()
    from finetune.errors import FinetuneError
    from finetune.runner.process_state import preserve_process_state

    try:
        with preserve_process_state():
            native_libraries.set_defaults()
            # Imported here because the imports change process state too.
            from finetune.cli.main import main as launch
            from finetune.runner import slurm_job

            slurm_job.handle_warning()
            return launch(argv)
    except FinetuneError as error:  # raised by preserve_process_state; `launch` reports those of a run
        from finetune.console import print_error

        print_error(error)
        return error.exit_code


def check(argv: Sequence[str]) -> int:
    """Do the same as `main` with `check=true`: everything is checked and nothing is started."""
    return main([*argv, "check=true"])
