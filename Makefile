PYTHON ?= python3
BIN = .venv/bin

.PHONY: run test lint pages bench slow gallery docs

run: .venv/ready                ## the default sweep: leaderboard, records, tables, figures
	$(BIN)/python -m benchmark

test: .venv/ready               ## the tests that need neither a GPU nor minutes, on up to four cores
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

lint: .venv/ready               ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

pages: .venv/ready              ## what needs Chromium, or pdflatex: the report, tables in HTML and LaTeX
	$(BIN)/python -m pytest -m pages

bench: .venv/ready              ## time against the bare passes through the model
	$(BIN)/python -m pytest -m speed --benchmark-columns=median,iqr,rounds
	$(BIN)/python -m tests.parity.speed docs/speed.md

gallery: .venv/ready            ## maps of every method, and how far they are from other libraries': docs/
	$(BIN)/python -m benchmark.explain datasets=photos datasets.n=2 datasets.seed=75 methods=all budget=100 out=docs/gallery.md
	$(BIN)/python -m benchmark.explain datasets=shapes datasets.n=2 models=small_vit methods=all budget=100 out=docs/gallery_transformer.md
	$(BIN)/python -m benchmark.explain datasets=photos datasets.n=1 datasets.seed=75 out=docs/images
	$(BIN)/python -m tests.parity docs/parity.md

docs: .venv/ready               ## the documentation site, without a network: build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f docs/site/mkdocs.yml

slow: .venv/ready               ## what takes minutes: a small CNN trained from scratch, long commands of the pages
	$(BIN)/python -m pytest -m slow

# Exactly the packages that were tested, by hash; torch and torchvision in one command, so that their builds fit.
.venv/ready: constraints.txt pyproject.toml tests/peers.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --require-hashes -r constraints.txt
	$(BIN)/pip install --quiet --no-deps -e .
	$(BIN)/pip install --quiet --no-deps --require-hashes --target .venv/peers -r tests/peers.txt
	touch $@
