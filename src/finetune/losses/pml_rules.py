"""Inputs of pytorch-metric-learning losses that their signatures do not show, by class name; no torch.

A test checks all of it against the library.
"""

from __future__ import annotations

# Take two views of the same items instead of labels: here the anchors and the positives.
TWO_VIEWS = frozenset({"VICRegLoss"})
# Take the number of a meta class for each item instead of labels: here the class modulo the number of meta classes.
META_CLASSES = frozenset({"ManifoldLoss"})
# Take as many items of each class as there are classes, class by class: release 2.9 splits any other batch into blocks
# that do not match its classes.
SQUARE = frozenset({"SmoothAPLoss"})
# Use the whole batch, without a miner.
UNMINED = frozenset({"InstanceLoss", "P2SGradLoss", "PNPLoss", "RankedListLoss", *TWO_VIEWS, *META_CLASSES})
