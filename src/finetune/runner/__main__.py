"""The entry script of the processes that finetune starts: runs of a sweep, jobs, the other ranks of a run."""

import sys

from finetune.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
