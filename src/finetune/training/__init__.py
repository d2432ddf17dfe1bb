"""One run: `fit`, what it is assembled from, and the training step in `module`."""
