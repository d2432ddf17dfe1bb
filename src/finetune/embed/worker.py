"""A further process of an embedding on this machine: `python -m finetune.embed.worker OUT DEVICE PARENT`."""

from __future__ import annotations

import sys
from pathlib import Path


def main(words: list[str]) -> int:
    """Work on the embedding in a folder, quietly: the process that started this one shows the progress."""
    from finetune import library_settings
    from finetune.console import be_quiet
    from finetune.embed.processes import continue_embedding
    from finetune.errors import FinetuneError

    out, device, parent = words
    be_quiet()
    library_settings.apply()
    try:
        continue_embedding(Path(out), device, int(parent))
    except FinetuneError as error:
        sys.stderr.write(f"The process on {device}: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
