"""The names of `import finetune`: imported when they are used, and known to type checkers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import finetune


def names_for_type_checkers():
    tree = ast.parse(Path(finetune.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {name.asname or name.name: node.module for node in imports for name in node.names}


def test_every_public_name_is_there_and_is_what_type_checkers_see():
    typed = names_for_type_checkers()
    assert sorted([*typed, "__version__"]) == sorted(finetune.__all__)
    assert set(finetune.__all__) <= set(dir(finetune))
    for name, module in typed.items():
        found = getattr(finetune, name)
        if name in ("embed", "export", "runs", "sweep"):  # packages that can be called
            assert callable(found) and found.__name__ == f"finetune.{name}"
        else:
            assert found.__module__ == module
    with pytest.raises(AttributeError, match="has no attribute 'fitt'"):
        finetune.fitt  # noqa: B018


@pytest.mark.parametrize("first", ["import finetune", "import finetune.runs.record, finetune.sweep.settings"])
def test_packages_with_the_name_of_a_function_are_both(first, tmp_path):
    program = (
        f"{first}; import finetune; assert finetune.runs() == [] == finetune.list_runs();"
        "from finetune.runs.record import read_run; import finetune.runs.lock as lock;"
        "assert finetune.runs.lock is lock and finetune.runs() == [];"
        "\ntry: finetune.sweep('optimizer.lrr=1,2')"
        "\nexcept finetune.CheckFailed as error: print(error.problems[0].where)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "optimizer.lrr=1\n"), done.stderr
