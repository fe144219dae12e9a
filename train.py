"""Trains a mapper over a frozen CLIP: `python train.py --config mapper_b_vqa [--any.key value ...]`."""

if __name__ == "__main__":  # imports too: the processes that draw Shapes import this file, and need none of it
    from clipmapper.commands import run, train

    run(train, "python train.py")
