"""What losses of pytorch-metric-learning take that their signatures do not say, by their classes' names; no torch.

A test holds all of it against the library.
"""

from __future__ import annotations

# Two views of the same things instead of labels: here the anchors and the positives.
TWO_VIEWS = frozenset({"VICRegLoss"})
# For each item the number of a meta class instead of labels: here the class, modulo how many there are.
META_CLASSES = frozenset({"ManifoldLoss"})
# As many items of each class as there are classes, one class after the other: release 2.9 cuts a batch of another
# shape into blocks that are not its classes.
SQUARE = frozenset({"SmoothAPLoss"})
# They look at all of the batch and take nothing from a miner.
UNMINED = frozenset({"InstanceLoss", "P2SGradLoss", "PNPLoss", "RankedListLoss", *TWO_VIEWS, *META_CLASSES})
