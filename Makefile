.PHONY: docs install test test-minimum test-tested test-app test-newest test-servers pin-tested demo lint types bench

install:            ## the package and everything the tests need
	pip install -c constraints/tested.txt -e '.[dev]'

test:               ## the default test run: offline, CPU
	pytest -n 2 --dist loadfile

test-minimum:       ## the oldest releases that are allowed, what touches a dependency; this and the next need a package index
	.ci/releases minimum

test-tested:        ## the pinned releases, everything
	.ci/releases tested

test-app:           ## the page of `mf2 app`, with Gradio and the releases that go with it
	.ci/releases app

test-newest:        ## the newest releases, within the declared ranges and beyond them, what touches a dependency
	.ci/releases newest

pin-tested:         ## everything on the newest releases that are allowed; pins them in constraints/tested.txt
	.ci/releases pin

test-servers:       ## captions through servers of others, installed from their packages; llama.cpp's is compiled
	python tests/third_party/run.py

demo:               ## train the demo: a small model on a generated sample
	accelerate launch training/pretrain.py --config training/configs/demo.yaml

lint:
	ruff check . && ruff format --check .

types:              ## mypy over every package
	.ci/types

docs:               ## the site of docs/, into build/site
	mkdocs build --strict

bench:              ## side-by-side timings
	mf2 benchmark branch
