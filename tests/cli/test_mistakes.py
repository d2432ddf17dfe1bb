"""What a mistake on the command line gets: one screen, exit code 2, no traceback, no run directory."""

import shutil
import subprocess
import sys

import pytest

from finetune.config.command_line import parse
from finetune.preflight.devices import has_gpu
from tests.conftest import ROOT, can_mount, quick, run_train, write_pairs


def mistaken(*overrides, cwd):
    answer = run_train(*overrides, cwd=cwd)
    assert answer.returncode == 2, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.splitlines()) < 40
    assert not (cwd / "outputs").exists()
    return answer.stderr


def test_problems_of_config_and_data_are_reported_together(tmp_path):
    answer = mistaken(
        "trainer.max_epcohs=3", "model=brt", "loss.temperature=0", "lr=1e-4", "data.path=nowhere.csv", cwd=tmp_path
    )
    for words in ("trainer.max_epochs", "bert", "loss.temperature", "optimizer.lr", "nowhere.csv"):
        assert words in answer


def test_a_config_mistake_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from finetune.cli.main import main; code = main(['trainer.max_epcohs=3']);"
        "heavy = {'torch', 'pytorch_lightning', 'transformers', 'tokenizers', 'pyarrow'} & set(sys.modules);"
        "sys.exit(code if not heavy else f'imported {heavy}')"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2, answer.stderr


@pytest.mark.parametrize("flag", ["--lr=3", "--max_epochs", "-x"])
def test_an_unknown_flag_gets_the_syntax_of_overrides_as_advice(tmp_path, flag):
    assert "no option" in mistaken(flag, cwd=tmp_path)


def test_options_with_dashes_get_the_override_as_advice(tmp_path):
    typed = [
        "--lr=1e-4",
        "--data.path=my-file.csv",
        "--name=a b",
        "-x=1",
        "--model",
        "bert",
        "--config-nam=x",
        "--multi",
    ]
    answer = mistaken(*typed, cwd=tmp_path)
    assert answer.startswith("7 problems")
    for words in ("lr=1e-4", "data.path=my-file.csv", "'name=a b'", "x=1", "model=bert"):
        assert f"without dashes: {words}\n" in answer
    assert "Did you mean --config-name?" in answer and "Did you mean --multirun?" in answer


def test_a_group_that_is_removed_or_unresolvable_is_one_problem(tmp_path):
    for typed in (
        "~loss",
        "~data",
        "~model",
        "loss.temperature=${nope}",
        "data.path=${hydra:nope}",
        "data.columns=[${x}]",
    ):
        assert mistaken(typed, cwd=tmp_path).startswith("1 problem;")


def test_json_gets_the_syntax_of_braces_as_advice(tmp_path):
    answer = mistaken('data={"path": "my pairs.csv", \'delimiter\': ";"}', '{"seed": 3}', cwd=tmp_path)
    assert """Write 'data={path: "my pairs.csv", delimiter: ";"}'""" in answer
    assert "this is JSON" in answer


def test_names_that_mean_none_or_cannot_be_a_folder(tmp_path):
    for name in ("None", "NULL.", "con", "x.", "-x", "", '"null"'):
        assert "is a folder name" in mistaken(f"name={name}", "check=true", cwd=tmp_path)
    answer = mistaken("name=None", "experiment=None", "output_root=None", cwd=tmp_path)
    assert answer.startswith("3 problems") and "write name=null" in answer


@pytest.mark.parametrize(
    ("link", "to", "words"),
    [
        ("outputs", "nowhere", "outputs is a link to nowhere"),
        ("outputs", "file", "outputs is a link to a file"),
        ("outputs", "outputs", "outputs is a link to outputs"),
        ("elsewhere", "nowhere", "elsewhere is a link to nowhere"),
    ],
)
def test_outputs_that_are_a_link_to_no_folder(tmp_path, link, to, words):
    (tmp_path / "file").touch()
    (tmp_path / link).symlink_to(to)
    where = [] if link == "outputs" else [f"hydra.run.dir={link}"]
    answer = run_train("check=true", *where, cwd=tmp_path)
    assert answer.returncode == 2 and words in answer.stderr


def test_cluster_settings_of_a_file_do_not_apply_to_a_local_run(tmp_path):
    recipe = tmp_path / "conf/recipe/jobs.yaml"
    recipe.parent.mkdir(parents=True)
    chosen = "defaults: [override /hydra/launcher: slurm, override /hydra/sweeper: optuna]\n"
    recipe.write_text(f"# @package _global_\n{chosen}")
    answer = run_train("check=true", "recipe=jobs", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "use finetune submit" in answer.stdout and "add -m" in answer.stdout
    recipe.write_text(f"# @package _global_\n{chosen}dry_run: true\n")
    assert "there is no script of a job to print" in mistaken("recipe=jobs", cwd=tmp_path)


def test_a_missing_model_folder_is_found_before_a_run_directory_is_made(tmp_path):
    assert "does not exist" in mistaken("model.name=./no-such-model", cwd=tmp_path)


def test_a_missing_device_is_detected_without_torch(tmp_path):
    if has_gpu():
        pytest.skip("this machine has a GPU")
    assert "this machine has no GPU" in mistaken("trainer.accelerator=gpu", "check=true", cwd=tmp_path)
    assert "no Apple GPU" in mistaken("trainer.accelerator=mps", cwd=tmp_path)


def test_gpus_are_known_by_their_drivers_files(tmp_path):
    assert not has_gpu(tmp_path)
    (tmp_path / "nvidia-caps").touch()
    assert not has_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert has_gpu(tmp_path)


def test_a_device_error_of_lightning_leaves_no_run_directory(tmp_path, tiny_model):
    write_pairs(tmp_path / "pairs.csv")
    more = ["data.path=pairs.csv", "data.max_length=16", "trainer.accelerator=tpu"]
    answer = run_train(f"model.name={tiny_model}", *more, cwd=tmp_path)
    assert answer.returncode == 2
    assert "trainer: Lightning refuses these settings on this machine" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "run directory" not in answer.stdout
    assert not list((tmp_path / "outputs" / "default").iterdir())


def test_more_processes_than_cores_are_pointed_out(tmp_path):
    answer = run_train("check=true", "trainer.accelerator=cpu", "trainer.devices=4096", cwd=tmp_path)
    assert answer.returncode == 0
    assert "trainer.devices=4096 on" in answer.stdout


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("resume=false", "resume=never"),
        ("resume=True", "resume=auto"),
        ("optimizer.lr=${", "An interpolation is written 'optimizer.lr=${KEY}'"),
        ("output_root=/proc/x", "/proc may not be written"),
        ("model.name=/etc/hostname", "this is a file, not a folder"),
    ],
)
def test_words_for_single_mistakes(tmp_path, override, words):
    assert words in mistaken(override, cwd=tmp_path)


def test_an_optimizer_that_cannot_be_used_here(tmp_path):
    words = mistaken("optimizer._target_=torch.optim.LBFGS", cwd=tmp_path)
    assert "LBFGS does not work here, because it computes the loss of a step several times" in words
    assert "Use optimizer=adamw." in words


def test_a_length_the_model_cannot_read_is_refused(tmp_path, tiny_model):
    write_pairs(tmp_path / "pairs.csv")
    answer = mistaken(f"model.name={tiny_model}", "data.path=pairs.csv", "data.max_length=65", cwd=tmp_path)
    assert "data.max_length=64" in answer


@pytest.mark.skipif(not can_mount(), reason="needs a mount namespace of its own")
def test_an_output_root_that_may_not_be_written(tmp_path):
    (tmp_path / "locked").mkdir()
    command = f"mount -t tmpfs -o ro tmpfs locked && '{sys.executable}' '{ROOT / 'train.py'}' output_root=locked/here"
    answer = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "locked may not be written" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_output_root_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in mistaken("output_root=file", cwd=tmp_path)
    assert "is a file" in mistaken("output_root=file/sub", "check=true", cwd=tmp_path)


def test_check_reports_the_data_and_starts_nothing(tmp_path):
    answer = run_train("check=true", cwd=tmp_path)
    assert answer.returncode == 0
    assert "nothing was started" in answer.stdout
    assert "training pairs" in answer.stdout
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg", "job", "model=brt"], "Did you mean bert?"),
        (["--cfg", "job", "--resolve", "trainer.max_epcohs=3", "model=brt"], "Did you mean trainer.max_epochs?"),
        (["--cfg", "job", "--resolve", "name=${nmae}"], "which does not exist"),
        (["--info", "defaults", "model=brt"], "Did you mean bert?"),
        (["--info", "nope"], "invalid choice: 'nope'"),
        (["--resolve"], "--cfg job --resolve"),
    ],
)
def test_flags_that_print_something_report_mistakes_like_a_run(tmp_path, flags, words):
    assert words in mistaken(*flags, cwd=tmp_path)


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["--info", "all"], ["check=true"]])
def test_a_reader_that_closes_the_pipe(tmp_path, flags):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *flags],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


def test_help_lists_all_groups_including_the_users(tmp_path):
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("")
    for command in ([str(ROOT / "train.py")], ["-m", "finetune", "train"], ["-m", "finetune", "check"]):
        answer = subprocess.run(
            [sys.executable, *command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        for words in (
            "mine, points",
            "-m optimizer.lr=",
            "check=true",
            "./conf",
            "scheduler    constant, cosine, cosine_restarts, inverse_sqrt, linear",
        ):
            assert words in answer.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--help"], "Configuration groups"),
        (["--cfg", "job"], "_target_: finetune.models.text.TextEncoder"),
        (["--info", "defaults"], "Defaults List"),
        (["--version"], "finetune 0.1.0"),
    ],
)
def test_hydras_own_flags_work_and_leave_nothing(tmp_path, flags, words):
    answer = run_train(*flags, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert words in answer.stdout
    assert not list(tmp_path.iterdir())


def test_the_command_line_has_help_with_examples():
    for arguments in ([], ["train"], ["check"], ["evaluate"]):
        answer = subprocess.run(
            [sys.executable, "-m", "finetune", *arguments, "--help"], capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0
        assert "finetune" in answer.stdout
        assert not arguments or "Example" in answer.stdout
        assert "check" not in arguments or "finetune check data.path=pairs.csv" in answer.stdout
        assert "evaluate" not in arguments or "[MODEL...] [KEY=VALUE...]" in answer.stdout
        assert "train" not in arguments or "data.columns=[question,answer]" in " ".join(answer.stdout.split())


def test_a_damaged_model_leaves_no_run_directory(tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"damaged")
    write_pairs(tmp_path / "pairs.csv")
    answer = run_train("model.name=./damaged", "data.path=pairs.csv", "data.max_length=16", cwd=tmp_path)
    assert answer.returncode == 2
    assert "cut off or damaged" in answer.stderr
    assert not (tmp_path / "outputs").exists()


def test_flags_and_overrides_are_separated():
    arguments = parse(["model=bert", "-m", "optimizer.lr=1e-4,2e-4", "~callbacks.progress", "--config-name", "other"])
    assert arguments.overrides == ["model=bert", "optimizer.lr=1e-4,2e-4", "~callbacks.progress"]
    assert arguments.multirun
    assert arguments.config_name == "other"


def test_train_py_is_a_few_lines():
    assert len((ROOT / "train.py").read_text().splitlines()) < 25


def test_a_wrong_word_is_reported_before_heavy_imports(tmp_path):
    process = run_train("modle=bert", cwd=tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert process.returncode == 2
    loaded = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines() if line.startswith("import time")}
    assert "finetune.cli.main" in loaded
    assert not loaded & {"torch", "pytorch_lightning", "transformers", "pyarrow", "numpy"}


def test_callbacks_that_evaluate_where_nothing_is_held_out(tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    more = ["data.path=pairs.csv", "data.validation_fraction=0", "callbacks=[default,evaluate]"]
    answer = mistaken(*more, cwd=tmp_path)
    assert "callbacks.evaluate\n    nothing is held out to evaluate on." in answer


def test_a_batch_larger_than_the_data_is_reported(tiny_model, tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    checked = run_train(*quick(tiny_model, "data.batch_size=500", "check=true"), cwd=tmp_path)
    assert checked.returncode == 0
    assert "data.batch_size is 500, but there are 108 training pairs: each step takes them all." in checked.stdout


def test_a_run_whose_own_folder_is_a_file(tmp_path):
    write_pairs(tmp_path / "pairs.csv")
    (tmp_path / "runs/default").mkdir(parents=True)
    (tmp_path / "runs/default/mine").write_text("")
    for override, key in (("hydra.run.dir=pairs.csv", "hydra.run.dir"), ("name=mine", "name")):
        answer = mistaken(override, "output_root=runs", "check=true", "data.path=pairs.csv", cwd=tmp_path)
        assert "is a file" in answer and f"with {key}=" in answer
