from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finetune.config.differences import ABSENT, differences, value_of
from finetune.errors import FinetuneError
from finetune.runs.registry import find_run
from finetune.runs.selection import RunQuery, parse_condition, parse_time, select
from tests.runs.made import CONFIG, living, make_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    slow = {"optimizer": CONFIG["optimizer"] | {"lr": 1e-5}}
    make_run(tmp_path, "one/a", score=0.3, days=3)
    make_run(tmp_path, "one/b", "failed", days=2, config=slow, losses=[2.0, 0.5])
    make_run(tmp_path, "two/c", score=0.4, days=1, config=slow | {"loss": {"_target_": "x.y.Triplet", "margin": 1}})
    make_run(tmp_path, "two/d", "running", losses=[9.0])
    (tmp_path / "two" / "no run").mkdir()
    (tmp_path / "two" / "no run" / "config.yaml").touch()
    (tmp_path / "two" / ".removed-x").mkdir()
    (tmp_path / "file").touch()
    return tmp_path


def names(root: Path, **wish: object) -> str:
    return "".join(record.run.name for record in select(root, RunQuery(**wish)).records)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({}, "dcba"),
        ({"reverse": True}, "abcd"),
        ({"experiment": ["one"]}, "ba"),
        ({"experiment": ["t*", "one"]}, "dcba"),
        ({"state": ["dead"]}, "d"),
        ({"state": ["finished,failed"]}, "cba"),
        ({"where": ["optimizer.lr<=3e-5"]}, "cb"),
        ({"where": ["optimizer.lr=1e-4"]}, "da"),
        ({"where": ["optimizer.lr=0.0001", "seed!=41"]}, "da"),
        ({"where": ["loss=triplet"]}, "c"),
        ({"where": ["loss!=Triplet"]}, "dba"),
        ({"where": ["loss.margin>0"]}, "c"),
        ({"where": ["model.name=*minilm"]}, "dcba"),
        ({"where": ["data.limit=null"]}, "dcba"),
        ({"where": ["data.limit>0"]}, ""),
        ({"metric": ["nDCG@10>0.3"]}, "c"),
        ({"metric": ["nDCG@10>=0.3"]}, "ca"),
        ({"metric": ["loss<1", "loss>=0.5"]}, "b"),
        ({"since": "36h"}, "dc"),
        ({"sort": "nDCG@10"}, "cadb"),
        ({"sort": "loss"}, "dcab"),
        ({"sort": "loss", "reverse": True}, "bcad"),
        ({"sort": "run"}, "abcd"),
        ({"sort": "optimizer.lr", "experiment": ["one"]}, "ab"),
    ],
)
def test_runs_are_filtered_and_sorted(root: Path, wish: dict[str, object], found: str) -> None:
    assert names(root, **wish) == found


def test_an_active_run_is_running(root: Path) -> None:
    from finetune.runs.directory import RunDirectory

    with living(RunDirectory(root / "two" / "d")):
        assert names(root, state=["running"]) == "d" and names(root, state=["dead"]) == ""


def test_a_run_with_an_unreadable_config_is_not_filtered_by_it(root: Path) -> None:
    (root / "one" / "a" / "config.yaml").write_text("a: [")
    found = select(root, RunQuery(where=["seed=42"]))
    assert [record.run.name for record in found.unreadable] == ["a"] and len(found.records) == 3
    assert names(root) == "dcba"


@pytest.mark.parametrize(
    ("wish", "answer"),
    [
        ({"state": ["dad"]}, "there is no state 'dad'. Did you mean dead?"),
        ({"where": ["seed"]}, "'seed' is not a condition"),
        ({"where": ["seed>many"]}, "compares with 'many', which is not a number"),
        ({"metric": ["<3"]}, "'<3' is not a condition"),
        ({"since": "yesterday"}, "'yesterday' is not a time"),
        ({"sort": "nowhere"}, "no run here has 'nowhere' to sort by"),
        ({"where": ["optimizer.lrr=1"]}, "no run here has a config value 'optimizer.lrr'. Did you mean optimizer.lr?"),
        ({"metric": ["nDGC@10>0"]}, "no run here has a metric 'nDGC@10'. Did you mean nDCG@10?"),
    ],
)
def test_invalid_queries_are_an_error(root: Path, wish: dict[str, object], answer: str) -> None:
    with pytest.raises(FinetuneError, match=answer.replace("?", r"\?")):
        names(root, **wish)


def test_times() -> None:
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)
    assert parse_time("2w", now) == now - timedelta(weeks=2)
    assert parse_time(" 30 m ", now) == now - timedelta(minutes=30)
    assert parse_time("2026-11-20T10:00:00+00:00", now) == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert parse_time("2026-11-20", now) == datetime(2026, 11, 20).astimezone(UTC)
    with pytest.raises(FinetuneError):
        parse_time("9" * 30 + "d", now)


def test_a_condition_on_a_missing_value_is_false() -> None:
    assert not any(parse_condition(f"a{sign}1", "").holds(ABSENT) for sign in ("=", "!=", "<", ">"))
    assert parse_condition("a=true", "").holds(True) and not parse_condition("a=1", "").holds(True)
    assert parse_condition("a=[1, 2]", "").holds([1, 2])


def test_names_find_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(root, "three/a long name")
    make_run(root, "three/another long name")
    assert (
        find_run("one/a", root) == find_run("a", root) == find_run(str(root / "one" / "a"), root) == root / "one" / "a"
    )
    assert find_run("a long", root).name == "a long name"
    for name, answer in [
        ("long", "'long' matches 2 runs. Give one: three/a long name, three/another long name."),
        ("one/x", f"there is no run 'one/x' in {root}. Did you mean one/a"),
        (str(root / "two" / "no run"), "no run' is not a run"),
    ]:
        with pytest.raises(FinetuneError) as caught:
            find_run(name, root)
        assert answer in str(caught.value)
    with pytest.raises(FinetuneError):
        find_run("a long", root, whole=True)


def test_differences_show_a_node_of_another_class_as_a_whole() -> None:
    one = {"name": "x", "loss": {"_target_": "A", "t": 1}, "lr": 1, "o": {"_target_": "O", "a": 1, "b": 2}}
    two = {"name": "y", "loss": {"_target_": "B", "m": 1}, "lr": 1, "o": {"_target_": "O", "a": 3, "c": 4, "b": 2}}
    assert list(differences([one, two])) == [
        ("loss", [one["loss"], two["loss"]]),
        ("o.a", [1, 3]),
        ("o.c", [ABSENT, 4]),
    ]
    assert list(differences([one, one, one])) == []
    assert value_of(one, "o.a") == 1 and value_of(one, "o.x.y") is ABSENT
