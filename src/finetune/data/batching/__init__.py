"""From relations to batches: plans of an epoch, and the batches themselves."""
