"""A run on disk: file names, folders, checkpoints, predictions, splits, and downloads from the Hub."""
