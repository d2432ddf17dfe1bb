"""The shipped Hydra configuration; a package so that a wheel carries it as `pkg://finetune.conf`."""
