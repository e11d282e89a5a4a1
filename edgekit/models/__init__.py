"""The PyTorch models, plain modules that export cleanly, and loaders for checkpoints made by others."""
