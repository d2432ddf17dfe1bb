"""The folder format of sentence-transformers: reading, checking and writing it.

`json_files` reads and writes JSON with type checks; `settings` has the two settings files; `modules` has `modules.json`
and the config of each module; `config` puts them together as `StConfig` and checks it against the settings of `model`.
None of these imports torch. `load` makes the torch modules with their weights, `write` writes the whole layout.
"""
