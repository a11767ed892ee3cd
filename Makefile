.PHONY: install test demo lint types bench

install:            ## the package and everything the tests need
	pip install -e '.[dev]'

test:               ## the default test run: offline, CPU
	pytest

demo:               ## the main job: pre-train a small model on a generated sample
	accelerate launch training/pretrain.py --config training/configs/demo.yaml

lint:
	ruff check . && ruff format --check .

types:              ## mypy wants the checkout under the package's name
	d=$$(mktemp -d) && ln -s "$(CURDIR)" $$d/mf2 && mypy $$d/mf2/dataset_tools $$d/mf2/labels_mf2.py $$d/mf2/training/arguments.py; s=$$?; rm -r $$d; exit $$s

bench:              ## side-by-side timings
	python training/benchmark.py
