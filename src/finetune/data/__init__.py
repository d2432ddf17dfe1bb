"""From any source to items, relations, tokens and batches."""
