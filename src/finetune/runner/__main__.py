"""The script that processes of a run are started from: those of a sweep, and the further ranks of a run."""

import sys

from finetune.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
