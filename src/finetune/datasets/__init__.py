"""Data that ships with finetune: one folder per data set, named by `shipped://FOLDER/FILE` in `data.path`."""
