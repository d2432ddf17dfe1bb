"""From the command line to runs: one process each."""

from __future__ import annotations

from collections.abc import Sequence

from finetune import native_libraries, signals, streams


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the words say and return the exit code: 0, 2 for a mistake in them, 1 for a failed run, 130 if stopped.

    Without `argv` this process is the program itself: the words are those of the command line, and Ctrl-C is answered
    from here on. With `argv` it may be called by any Python program, from any thread; its process is left as it was
    (`caller.py`). One call at a time: a run changes much that belongs to the whole process.
    """
    if argv is None:
        signals.exit_on_interrupt()
        streams.settle()
    from finetune.errors import FinetuneError
    from finetune.runner.process_state import preserve_process_state

    try:
        with preserve_process_state():
            native_libraries.set_defaults()
            # Not sooner: the imports change something too.
            from finetune.cli.main import main as launch
            from finetune.runner import slurm_job

            slurm_job.handle_warning()
            return launch(argv)
    except FinetuneError as error:  # of the process itself: `launch` answers those of a run
        from finetune.console import complain

        complain(error)
        return error.exit_code
