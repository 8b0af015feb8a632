# `make` sets up and runs everything. It needs only Python 3.11, make and git.
#   make EXTRA=npu PROFILE=profiles/npu    on a machine with an Ascend NPU
#   make TORCH_INDEX=https://download.pytorch.org/whl/cpu    torch without CUDA (x86_64)
# A bundle with wheels needs neither uv nor a network.
UV := $(if $(wildcard wheels/*.txt),,$(or $(shell command -v uv),.uv/bin/uv))
INSTALLED := $(shell cat .venv/.ready 2>/dev/null)
EXTRA ?= $(or $(INSTALLED),cpu)
CORES ?= 4
PROFILE ?= profiles/default
# A bar on a terminal, few lines elsewhere; `make VERBOSE=1` prints all that Snakemake says.
LOGGER := $(if $(VERBOSE),,--logger rich)
# A kernel of OpenBLAS that every processor of the family supports, but rarely uses by default.
OTHER_CORE := $(if $(filter x86_64 amd64,$(shell uname -m)),Prescott,ARMV8)
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: all test elsewhere evidence quick contract versions standin slurm opinfo mutants lint docs \
  gate zoo-check abuse clean hubs atlas speed FORCE

all: .venv/.ready
	snakemake $(LOGGER) --cores $(CORES) --workflow-profile $(PROFILE) all

test: .venv/.ready
	pytest -n 2 --dist loadfile

# Two processes of tests share the CPUs, so a thread that waits must not keep one busy.
test elsewhere quick: export OMP_WAIT_POLICY = PASSIVE

# The fast tests as on another machine: other kernels of BLAS and torch, two threads.
elsewhere: .venv/.ready
	OPENBLAS_CORETYPE=$(OTHER_CORE) ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2 \
	  pytest -m "not slow and not abuse" -n 2 --dist loadfile

# The tests that read results/. They must pass for the results of any run.
evidence: .venv/.ready
	pytest -n 2 tests/test_results.py tests/test_readme.py

# The fast tests, for every change.
quick: .venv/.ready
	pytest -m "not slow" -n 2 --dist loadfile

# The real Python layer of torch_npu, without CANN: docs/npu.md. Fetches torch for both generations
# of CANN (4 GB on x86_64) into .contract/.
contract: .venv/.ready
	pytest tests/test_contract.py
	for extra in npu-cann8 npu-cann9; do UV_PROJECT_ENVIRONMENT=.contract/$$extra \
	  TORCH_DEVICE_BACKEND_AUTOLOAD=0 $(UV) run --locked --extra $$extra \
	  python -m pytest tests/test_contract.py || exit 1; done

# The fast tests with the oldest torch, the newest and two between, each in an environment in .versions/
# (10 GB on x86_64): benchmarks/versions.csv, docs/guide.md. `make versions TORCH=2.9.0` runs one.
versions: .venv/.ready | $(UV)
	PATH="$$PATH:$(dir $(UV))" python benchmarks/versions.py $(TORCH)
	python scripts/readme.py docs/*.md

# All systems on the stand-in for an NPU, in the folder standin/: docs/standin-totals.md, docs/npu.md.
standin: .venv/.ready
	mkdir -p standin && cp -r config.yaml models standin
	PYTHONPATH=$(CURDIR)/tests/standin_npu TORCH_DEVICE_BACKEND_AUTOLOAD=1 snakemake --cores $(CORES) \
	  --configfile tests/standin_npu/config.yaml --workflow-profile profiles/npu --directory standin \
	  all verify
	python benchmarks/standin.py standin/results
	python scripts/readme.py docs/npu.md

# profiles/slurm on a Slurm of one node, which the tests start. Needs Debian's slurm-wlm: docs/clusters.md.
slurm: .venv/.ready | $(UV)
	$(UV) sync --locked --inexact --extra $(EXTRA) --group slurm
	pytest -rs tests/test_slurm.py

# The systems on weights of both hubs, which a server on this machine stands in for, in the folder hubs/:
# docs/hubs-totals.md, docs/weights.md.
hubs: .venv/.ready
	python benchmarks/hubs.py $(CORES)
	python scripts/readme.py docs/weights.md

# PyTorch's own tests of operators and modules against the bounds: docs/operators.md.
opinfo: .venv/.ready
	OMP_NUM_THREADS=1 python tests/operator_tests.py

# Do the tests of the verdict notice small mistakes in it? An hour; docs/mutants.md.
mutants: .venv/.ready
	OMP_NUM_THREADS=1 python benchmarks/mutants.py

lint: .venv/.ready
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	mypy
	lint-imports
	codespell
	snakemake --lint
	python scripts/readme.py --check README.md README.zh.md docs/*.md

# The pages of the documentation that are made from the code.
docs: .venv/.ready
	python docs/make.py thresholds
	python docs/make.py api
	snakemake --cores 1 --rulegraph mermaid-js all | python docs/make.py rulegraph
	python scripts/readme.py README.md README.zh.md docs/*.md

# Which gate catches which porting fault: benchmarks/gate/results.json, docs/gate.md, README.
gate: .venv/.ready
	OMP_WAIT_POLICY=PASSIVE python benchmarks/gate/run.py
	python scripts/readme.py README.md README.zh.md docs/*.md

# Is there a false alarm on any architecture? More than an hour; benchmarks/zoo.csv, docs/zoo.md.
zoo-check: .venv/.ready
	python benchmarks/zoo.py

# What difference to expect of 300 architectures, in the folder atlas/: docs/atlas.md. Hours; a second
# call goes on where the first stopped. A network that fails costs its own rows.
ATLAS := $(wildcard atlas/config.yaml)
atlas: .venv/.ready
	$(if $(ATLAS),,python -m npu_parity zoo 'timm:*' 'torchvision:*' --each 4 --number 330 \
	  --to atlas/config.yaml)
	-snakemake --cores $(CORES) --directory atlas -- \
	  $$(python benchmarks/atlas.py --targets atlas/config.yaml)
	python benchmarks/atlas.py atlas/results

# How fast is a run beside plain scripts? Half an hour at rest; benchmarks/speed.json, docs/speed.md.
speed: .venv/.ready
	python benchmarks/speed.py
	python scripts/readme.py docs/speed.md

# All hostile input: 1,000 configurations, 30 kills and more. Half an hour; docs/reliability.md.
abuse: .venv/.ready
	ABUSE=docs/reliability-totals.md pytest -m abuse -n 2 --dist worksteal
	python scripts/readme.py docs/reliability.md

clean:
	rm -rf results logs .snakemake

# The file holds the name of the installed extra. Another EXTRA installs another environment.
.venv/.ready: pyproject.toml uv.lock $(if $(filter-out $(INSTALLED),$(EXTRA)),FORCE) | $(UV)
	python3 envs/install.py $(EXTRA) $(if $(UV),--uv $(UV)) $(if $(TORCH_INDEX),--index $(TORCH_INDEX))
	echo $(EXTRA) > $@

FORCE:

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv
