"""Describing a data set for a person."""
