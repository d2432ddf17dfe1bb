"""The process that sends the metrics of a run to Weights & Biases, started by `weights_and_biases.py`.

The settings, the rows and the final state arrive as lines of JSON; messages for the user leave as lines of text.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Any

# Before wandb is imported: it sends no error reports, and prints nothing itself.
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_SILENT"] = "true"

import wandb


def main() -> None:
    """Process the messages until the run ends; if the final state is missing, the run was killed."""
    settings = json.loads(sys.stdin.readline())
    run = _begin(settings)
    state = "killed"
    for line in sys.stdin:
        message = json.loads(line)
        if "state" in message:
            state = message["state"]
            break
        run.log(message["row"], step=message["step"])
    run.finish(exit_code=0 if state == "finished" else 1)


def _begin(settings: dict[str, Any]) -> Any:
    if settings["mode"] == "offline":
        return _offline(settings)
    try:
        if _has_key():
            return _online(settings)
        return _offline(settings)
    except wandb.Error as error:
        print(f"it cannot be reached: {str(error).splitlines()[0]}", flush=True)
        wandb.teardown()
        return _offline(settings)


def _has_key() -> bool:
    try:
        return bool(wandb.login(verify=False))
    except wandb.errors.UsageError:  # it cannot ask for a key without a terminal
        return False


def _online(settings: dict[str, Any]) -> Any:
    run = _init(settings, mode=os.environ.get("WANDB_MODE", "online"), resume="allow")
    if run.url:
        print(run.url, flush=True)
    return run


def _offline(settings: dict[str, Any]) -> Any:
    run = _init(settings, mode="offline")
    folder = f"{shlex.quote(settings['directory'])}/wandb/offline-*"
    print(f"recorded on this machine; send it with: wandb sync {folder}", flush=True)
    return run


def _init(settings: dict[str, Any], **options: Any) -> Any:
    return wandb.init(
        **options,
        **{name: settings[name] for name in ("project", "entity", "id", "name", "group", "config")},
        dir=settings["directory"],
        settings=wandb.Settings(
            # Of this machine it sends the load only: no host name, no folders, no source code, no packages.
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_save_requirements=False,
            host="",
            x_stats_pid=settings["pid"],
            init_timeout=settings["init_seconds"],
            finish_timeout=settings["finish_seconds"],
        ),
    )


if __name__ == "__main__":
    # UTF-8 at both ends, whatever the locale.
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        main()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        # Skips exit handlers, in which wandb would wait for its lost service.
        os._exit(1)
