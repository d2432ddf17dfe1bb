"""The command line: `finetune VERB ...`."""
