"""Evaluates models: `python evaluate.py --model runs/demo/checkpoints/best.ckpt --output runs/demo`.

With a benchmark's name before the options it runs that one of the papers: `python evaluate.py imagenet --help`.
"""

if __name__ == "__main__":  # imports too: the processes that draw Shapes import this file, and need none of it
    from clipmapper.commands import evaluate, run

    run(evaluate, "python evaluate.py")
