"""One training run: `run.run` is `train.py`. Tasks hold model, loss and metrics; callbacks log, save and explain."""
