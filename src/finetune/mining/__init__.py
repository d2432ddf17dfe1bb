"""Hard negatives: documents that resemble a positive and are wrong, found for each row of the data."""
