"""Fine-tune an embedding model.

python train.py model=bert data=csv
python train.py data.path=pairs.csv trainer.max_epochs=2
python train.py check=true recipe=reverse_dictionary
python train.py --help
"""

import sys

try:
    from finetune.cli.train import main
except ModuleNotFoundError as error:
    if error.name != "finetune":
        raise
    sys.exit("This Python does not have finetune: run `make install`, then .venv/bin/python train.py ...")

if __name__ == "__main__":
    sys.exit(main())
