"""The text of `train.py --help`: example commands, the config groups with their options, and the flags."""

from __future__ import annotations

from finetune.config.command_line import Arguments
from finetune.config.commands import program
from finetune.config.compose import composer

_TRAIN = """\
Fine-tune an embedding model for search, matching or clustering: check, evaluate, train, evaluate again, report.

Examples
  {program} model=bert data=csv
  {program} data.path=pairs.csv 'data.columns=[question,answer]'
  {program} check=true data.path=pairs.csv      check only, start nothing
  {program} resume=outputs/default/my_run       resume a run that was stopped
  {program} -m optimizer.lr=5e-5,1e-4           one run for each value, ranked at the end
  {program} -m hydra/sweeper=optuna 'optimizer.lr=interval(1e-5,1e-3)'      values sampled by Optuna
  {program} -m hydra/launcher=slurm optimizer.lr=5e-5,1e-4     the same as jobs of a SLURM cluster
  finetune submit model=bert data=csv           one run as a job: finetune submit --help
"""

_CHECK = """\
Check a config and its data, report all problems at once, and start nothing. Takes the overrides of finetune train,
and is the same as finetune train check=true.

Examples
  finetune check data.path=pairs.csv
  finetune check recipe=my_recipe loss=triplet
  finetune check -m optimizer.lr=5e-5,1e-4      every run of a sweep
"""

_TEXT = """\
{head}
Configuration groups: GROUP=OPTION selects an option
{groups}
A ./conf in the working directory adds options of your own, and overrides those of the same name.

Keys: KEY=VALUE sets a key; --cfg job prints all keys, and the files in conf/ describe them

Flags
  -m, --multirun            one run for every combination of KEY=A,B,C, range(...) and GROUP=glob(*)
  -cd, --config-dir FOLDER  the folder of your own groups, instead of ./conf
  -cn, --config-name NAME   the root config, instead of train
  -c, --cfg job|hydra|all   print the config and start nothing; --resolve: with interpolations resolved,
                            --package GROUP: only a part
  -i, --info [WHAT]         how the config is composed: all, config, defaults, defaults-tree, plugins, searchpath
  --hydra-help              Hydra's own flags
  --version                 the version\
"""


def help_text(arguments: Arguments) -> str:
    """Return the help text with all config groups, including the user's own."""
    with composer(arguments.config_dir, arguments.config_name) as compositor:
        options = {group: sorted(compositor.options(group)) for group in sorted(compositor.groups())}
    groups = [f"  {group:<12} {', '.join(names)}" for group, names in options.items() if names]
    head = _TRAIN.format(program=program())
    if arguments.only_checks:
        head = _CHECK
    return _TEXT.format(head=head, groups="\n".join(groups))
