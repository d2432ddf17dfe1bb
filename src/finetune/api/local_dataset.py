"""A data set on this machine: what was found when it was read, and how a run reads it."""

from __future__ import annotations

from typing import Any

from finetune.api.table import Table

_STATISTICS = ("lengths", "classes", "per_anchor", "scores", "repeated")


class LocalDataset:
    """Data that was read, checked and described; the argument `data` of `fit`, `check` and others takes it.

    Data in memory is kept as it was when `build_dataset` was called. Files are read again by a run, which checks them
    again.

    Example:
        >>> dataset = finetune.build_dataset("pairs.csv", columns=["anchor", "positive"])
        >>> dataset.layout, dataset.counts["rows_read"]
        ('pairs', 120)
        >>> finetune.check("model.name=tiny", "data.max_length=16", data=dataset).ok
        True
    """

    def __init__(
        self, content: Any, overrides: list[str], facts: dict[str, Any], fingerprint: str, problems: Table
    ) -> None:
        self.content = content  # a path, or the rows that were in memory
        self.overrides = overrides  # of the group `data`
        self._facts = facts
        self.fingerprint = fingerprint
        self.problems = problems

    def __repr__(self) -> str:
        return f"LocalDataset({self.layout}, {self.counts})"

    def _repr_html_(self) -> str:
        parts = [f"<b>{self.layout}</b>", self.columns._repr_html_()]
        parts.append(Table({"": list(self.counts), "count": list(self.counts.values())})._repr_html_())
        return "".join(parts)

    @property
    def layout(self) -> str:
        """What a row is, such as "pairs" or "scored pairs"; of several sources that of the first."""
        return str(self._facts["recognised"][0]["layout"])

    @property
    def columns(self) -> Table:
        """The columns of all sources: source, column, role (anchor, positive, ...; empty if unused) and kind."""
        rows = []
        for source in self._facts["recognised"]:
            rows += [{"source": source["source"]} | column for column in source["columns"]]
        return Table.from_rows(rows, ("source", "column", "role", "kind"))

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers of rows, distinct texts, pairs to train on, and so on, by name."""
        return dict(self._facts.get("counts", {}))

    @property
    def statistics(self) -> dict[str, Any]:
        """Lengths of the texts (in tokens if the model is here), classes, items per anchor, scores, repeated texts."""
        return {name: self._facts[name] for name in _STATISTICS if name in self._facts}

    @property
    def leaks(self) -> dict[str, Any]:
        """How much of the evaluation data is also in the training data, with examples; empty if nothing is held out."""
        return dict(self._facts.get("leaks", {}))

    @property
    def examples(self) -> list[dict[str, Any]]:
        """A few rows at random, with the roles of their texts, and as tokens."""
        return list(self._facts.get("examples", []))

    @property
    def notes(self) -> list[str]:
        """Sentences about how the data was read and split."""
        return list(self._facts.get("notes", []))

    @property
    def warnings(self) -> list[str]:
        """Sentences about what may be wrong, also what would stop a run."""
        return list(self._facts.get("warnings", []))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, as `finetune data show --json` prints it."""
        return dict(self._facts)
