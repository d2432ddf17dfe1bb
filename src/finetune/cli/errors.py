"""From a command to its exit code: 0, 2 for a mistake of the user, 1 for a failure, 130 if it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from finetune import garbage_collector, library_settings, ranks, signals, streams
from finetune.errors import FinetuneError, Interrupted

P = ParamSpec("P")


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; errors of the user are printed as text, bugs keep their traceback."""
    from finetune.console import be_quiet, print_error  # imports Rich, which the help texts do not need

    if not ranks.should_print():
        be_quiet()  # the first process of the run prints the same
    if streams.is_program():
        garbage_collector.freeze_loaded_objects()
    library_settings.apply()
    try:
        return command()
    except FinetuneError as error:
        print_error(error)
        return error.exit_code
    except PermissionError as error:
        from finetune.runs.atomic import explain

        refused = explain(error, f"use {error.filename}", "check who may read and write it.")
        print_error(refused)
        return refused.exit_code
    except KeyboardInterrupt:
        print_error(Interrupted(signals.INTERRUPTED_MESSAGE))
        return Interrupted.exit_code
    except Exception:
        if not signals.stop_requested():
            raise
        print_error(Interrupted(signals.INTERRUPTED_MESSAGE))  # a library turned the interrupt into another error
        return Interrupted.exit_code


def reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Decorate a Typer command that prints something: errors and exit codes as in `exit_code_of`.

    A reader that has gone (`| head`) ends it.
    """

    @wraps(command)
    def decorated(*args: P.args, **kwargs: P.kwargs) -> None:
        import typer

        from finetune.console import exit_on_closed_pipe

        def run() -> int:
            exit_on_closed_pipe()
            command(*args, **kwargs)
            return 0

        code = exit_code_of(run)
        if code:  # not for 0, because a callback is followed by its subcommand
            raise typer.Exit(code)

    return decorated
