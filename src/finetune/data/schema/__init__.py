"""What the columns of a table mean, and their typed values."""
