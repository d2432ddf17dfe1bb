"""`python -m finetune.launch model=bert data=csv`: the file that further processes of a run are started from."""

import sys

from finetune.launch import main

if __name__ == "__main__":
    sys.exit(main())
