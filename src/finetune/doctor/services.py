"""What runs may talk to: the model hub, trackers, and SLURM."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from finetune.doctor.finding import Finding
from finetune.doctor.redact import hide_credentials
from finetune.runs.jobs import call_slurm

_SLURM_COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
_SECONDS = 10


def hub_findings(*, network: bool) -> Iterator[Finding]:
    """Yield the settings of the Hugging Face hub; with `network` also whether it can be reached."""
    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token; needed for gated models and `finetune push` (hf auth login)"
    yield Finding("hub", "token", "fine", token)
    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "mode", "fine", "offline (HF_HUB_OFFLINE): models come from folders and the cache")
    if not network:
        yield Finding("hub", "reachable", "fine", "not tried; --network tries")
    else:
        yield _reachable(constants.ENDPOINT)


def _reachable(endpoint: str) -> Finding:
    import http.client
    import urllib.error
    import urllib.request

    shown = hide_credentials(endpoint)
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        with urllib.request.urlopen(request, timeout=_SECONDS):
            return Finding("hub", "reachable", "fine", shown)
    except urllib.error.HTTPError as error:
        return Finding("hub", "reachable", "fine", f"{shown} (it answered {error.code})")
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        advice = (
            "Without a network, give a folder as model.name; behind a proxy, set HTTPS_PROXY; a mirror: HF_ENDPOINT."
        )
        return Finding(
            "hub", "reachable", "doubtful", f"{shown} does not answer: {hide_credentials(str(reason))}.", advice
        )


def tracker_findings() -> Iterator[Finding]:
    """Yield whether the loggers can be used, and whether W&B has credentials; these are not read."""
    mode = os.environ.get("WANDB_MODE")
    if mode:
        text = f"WANDB_MODE={mode}"
    elif "WANDB_API_KEY" in os.environ or _netrc_names_wandb():
        text = "logged in"
    else:
        text = "not logged in: logger=wandb writes into the run directory (wandb sync uploads it)"
    yield Finding("trackers", "W&B", "fine", text)
    for package in ("tensorboard", "mlflow"):
        found = importlib.util.find_spec(package) is not None
        text = "installed" if found else f"not installed (optional; pip install 'finetune[{package}]')"
        yield Finding("trackers", package, "fine", text)


def _netrc_names_wandb() -> bool:
    try:
        return "api.wandb.ai" in (Path.home() / ".netrc").read_text(errors="replace")
    except (OSError, RuntimeError):
        return False


def slurm_findings() -> Iterator[Finding]:
    """Yield whether this machine can submit to a cluster."""
    from finetune.errors import RunError

    found = [name for name in _SLURM_COMMANDS if shutil.which(name)]
    if not found:
        yield Finding("SLURM", "commands", "fine", "none: this machine is not part of a cluster")
        return
    missing = [name for name in _SLURM_COMMANDS if name not in found]
    if missing:
        advice = "Install SLURM's client commands; finetune submit needs all of them."
        yield Finding("SLURM", "commands", "doubtful", f"{', '.join(missing)} not found.", advice)
        return
    yield Finding("SLURM", "commands", "fine", ", ".join(found))
    try:
        partitions = sorted(set(call_slurm(["sinfo", "--noheader", "--format=%R"]).split()))
    except RunError as error:
        advice = error.advice or "Does `sinfo` work in this shell?"
        yield Finding("SLURM", "controller", "doubtful", f"it does not answer: {error.what}", advice)
        return
    yield Finding("SLURM", "controller", "fine", f"partitions: {', '.join(partitions) or 'none'}")
