"""Read and write runs on disk: file names, folders, checkpoints, predictions, splits, downloads from the Hub."""
