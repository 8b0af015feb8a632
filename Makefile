# `make` sets up and runs everything; nothing but Python 3.11, make and git is assumed.
#   make EXTRA=npu PROFILE=profiles/npu    on a machine with an Ascend NPU
UV := $(or $(shell command -v uv),.uv/bin/uv)
EXTRA ?= cpu
CORES ?= 4
PROFILE ?= profiles/default
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: all test lint docs gate clean

all: .venv/.ready
	snakemake --cores $(CORES) --workflow-profile $(PROFILE) all

test: .venv/.ready
	pytest -n 2 --dist loadfile

lint: .venv/.ready
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	python scripts/readme.py --check

# What the documentation takes from the code: the picture of the rules, the thresholds.
docs: .venv/.ready
	python scripts/thresholds.py docs/thresholds.md
	snakemake --cores 1 --rulegraph mermaid-js all | python scripts/rulegraph.py docs/rulegraph.md
	python scripts/readme.py

# Which gate catches which porting fault: benchmarks/gate/results.json, docs/gate.md, README.
gate: .venv/.ready
	OMP_WAIT_POLICY=PASSIVE python benchmarks/gate/run.py
	python scripts/readme.py

clean:
	rm -rf results logs .snakemake

.venv/.ready: pyproject.toml uv.lock | $(UV)
	$(UV) sync --locked --extra $(EXTRA) --compile-bytecode
	touch $@

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv
