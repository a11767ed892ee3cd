.PHONY: docs install test test-oldest-peft demo lint types bench

install:            ## the package and everything the tests need
	pip install -e '.[dev]'

test:               ## the default test run: offline, CPU
	pytest

test-oldest-peft:   ## adapters under the oldest PEFT that is allowed; needs a package index
	d=$$(mktemp -d) && pip install --quiet --no-deps --target $$d "peft==$$(sed -n 's/.*"peft>=\(.*\)".*/\1/p' pyproject.toml).0" && \
	PYTHONPATH=$$d pytest tests/unit/test_dfn.py tests/unit/test_dfn_peft.py; s=$$?; rm -r $$d; exit $$s

demo:               ## the main job: pre-train a small model on a generated sample
	accelerate launch training/pretrain.py --config training/configs/demo.yaml

lint:
	ruff check . && ruff format --check .

types:              ## mypy wants the checkout under the package's name
	d=$$(mktemp -d) && ln -s "$(CURDIR)" $$d/mf2 && mypy $$d/mf2/dataset_tools $$d/mf2/labels_mf2.py $$d/mf2/training/arguments.py; s=$$?; rm -r $$d; exit $$s

docs:               ## the site of docs/, into build/site
	mkdocs build --strict

bench:              ## side-by-side timings
	mf2 benchmark branch
