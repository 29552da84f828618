"""Datasets of other projects, written from logs and read into them."""
