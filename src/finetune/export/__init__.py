"""Saves the trained model as a folder that other programs can load."""
