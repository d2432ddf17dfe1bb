"""`python -m finetune VERB …`."""

from finetune.cli import main

if __name__ == "__main__":
    main()
