"""The process that talks to Weights & Biases for a run, started by `weights_and_biases.py`.

What the run is, its rows and its end come in as lines of JSON; what a person should know goes out as lines of text.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import Any

# Before wandb is there: nothing but what was asked for leaves this machine, and what is to be said is said here.
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_SILENT"] = "true"

import wandb


def main() -> None:
    """Do what comes in until the run ends; without a last word it was killed."""
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
        return _online(settings) if _has_key() else _offline(settings)
    except wandb.Error as error:
        print(f"it cannot be reached: {str(error).splitlines()[0]}", flush=True)
        wandb.teardown()
        return _offline(settings)


def _has_key() -> bool:
    try:
        return bool(wandb.login(verify=False))
    except wandb.errors.UsageError:  # nobody is here to be asked for one
        return False


def _online(settings: dict[str, Any]) -> Any:
    run = _init(settings, mode=os.environ.get("WANDB_MODE", "online"), resume="allow")
    if run.url:
        print(run.url, flush=True)
    return run


def _offline(settings: dict[str, Any]) -> Any:
    run = _init(settings, mode="offline")
    where = f"{shlex.quote(settings['directory'])}/wandb/offline-*"
    print(f"recorded on this machine; send it with: wandb sync {where}", flush=True)
    return run


def _init(settings: dict[str, Any], **how: Any) -> Any:
    return wandb.init(
        **how,
        **{name: settings[name] for name in ("project", "entity", "id", "name", "group", "config")},
        dir=settings["directory"],
        settings=wandb.Settings(
            # Of this machine only its load: no host, no folders, no source, no packages.
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
    # Both ends are UTF-8, whatever the locale; after a kill of the run there may be no reader.
    sys.stdin.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    try:
        main()
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        # Not the usual way out, on which wandb would wait for what is gone.
        os._exit(1)
