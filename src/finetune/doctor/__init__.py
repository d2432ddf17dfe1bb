"""`finetune doctor`: what is installed, what this machine can do, and what will not work."""
