"""Saves the trained model as a folder that other programs can load.

`finetune.export(...)` writes a model in other formats, see `finetune.formats`.
"""

from finetune.callable_package import make_callable

make_callable(__name__, "finetune.api.publish:export")
