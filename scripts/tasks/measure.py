"""One measurement of compare.py in a process of its own: train one configuration, evaluate the saved model.

    python scripts/tasks/measure.py CASE.json RESULT.json

The result is a list: that of the configuration, then those of its interpolations with the model before training
(`mix` in its definition: weights of the trained model).
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from store import CASE, UNTOUCHED
from trainers import ACCELERATORS, TRAINERS

_DIGITS = 4  # of a query's value in the file of results


def main() -> None:
    """Measure the case of the first argument, and write its results to the second."""
    case_file, result_file = map(Path, sys.argv[1:])
    case = json.loads(case_file.read_text(encoding="utf-8"))
    result_file.write_text(json.dumps(measure(case)), encoding="utf-8")


def measure(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the results of a case: fields of the case, `training` and `ndcg`."""
    case.setdefault("device", "cpu")
    known = {name: case.get(name) for name in (*CASE, "version", "device")}
    case["judged"] = str(judged_folder(case))
    if case["configuration"] == UNTOUCHED:
        return [{**known, "training": {}, "ndcg": evaluate(case["model"], case)}]
    case["train"] = str(write_pairs(case))
    model, training = TRAINERS[case["definition"]["trainer"]](case)
    results = [{**known, "training": training, "ndcg": evaluate(str(model), case)}]
    for weight in case["definition"].get("mix", []):
        mixed = Path(case["folder"]) / f"mixed-{weight}"
        interpolate(case["model"], model, weight, mixed)
        name = f"{case['configuration']} mix={weight}"
        results.append({**known, "configuration": name, "training": training, "ndcg": evaluate(str(mixed), case)})
    return results


def write_pairs(case: dict[str, Any]) -> Path:
    """Write the training pairs with the columns anchor and positive, at most `limit` of them: always the same ones."""
    with (Path(case["task_folder"]) / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row[0], row[1]) for row in list(csv.reader(file))[1:]]
    if case["limit"] is not None and len(rows) > case["limit"]:
        rows = random.Random(0).sample(rows, case["limit"])
    path = Path(case["folder"]) / "train.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("anchor", "positive"), *rows])
    return path


def judged_folder(case: dict[str, Any]) -> Path:
    """Return the BEIR folder to evaluate on: the task's, or one with fewer documents, always the same ones.

    Documents with a judgment are all kept; the others are a sample. Values are then higher than on the whole corpus.
    """
    task = Path(case["task_folder"])
    if case.get("documents") is None:
        return task
    folder = Path(case["folder"]) / "judged"
    shutil.copytree(task / "qrels", folder / "qrels")
    shutil.copy(task / "queries.jsonl", folder)
    judged = {line.split("\t")[1] for line in (task / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()}
    with (task / "corpus.jsonl").open(encoding="utf-8") as file:
        lines = list(file)
    others = [place for place, line in enumerate(lines) if json.loads(line)["_id"] not in judged]
    surplus = min(len(others), max(0, len(lines) - case["documents"]))
    dropped = set(random.Random(0).sample(others, surplus))
    kept = [line for place, line in enumerate(lines) if place not in dropped]
    (folder / "corpus.jsonl").write_text("".join(kept), encoding="utf-8")
    return folder


def evaluate(model: str, case: dict[str, Any]) -> dict[str, list[float]]:
    """Return nDCG@10 of each query: of the task's test judgments, and of the general set shipped for forgetting."""
    from finetune import evaluate
    from finetune.config.quoting import quoted

    found = evaluate(
        model,
        f"evaluation.retrieval.data={{path: {quoted(case['judged'])}}}",
        "evaluation.retrieval.metrics=[nDCG@10]",
        "evaluation.retrieval.bm25=false",
        f"data.max_length={case['max_length']}",
        f"engine.embed_precision={case['precision']}",
        f"trainer.accelerator={ACCELERATORS[case['device']]}",
        evaluation=["retrieval", "forgetting"],
    ).results
    return {
        name: [round(float(value), _DIGITS) for value in by_model[model].per_query["nDCG@10"]]
        for name, by_model in found.items()
    }


def interpolate(before: str, after: Path, weight: float, folder: Path) -> None:
    """Save the model `after` with its weights replaced by `weight * after + (1 - weight) * before` (WiSE-FT).

    `before` may have more weights: of a pooler that is not used, or positions that are constants.
    """
    from safetensors.torch import load_file, save_file

    from finetune.models.resolve import resolve

    shutil.copytree(after, folder)
    old = load_file(resolve(before) / "model.safetensors")
    new = load_file(after / "model.safetensors")
    mixed = {name: weight * new[name].float() + (1 - weight) * old[name].float() for name in new}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
