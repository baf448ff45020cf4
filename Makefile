.DEFAULT_GOAL := help
.PHONY: help setup system clients demo test test-slow test-long faults check kill-loop fuzz bench-convergence bench-kernels bench-step bench-microbatch bench-console bench-peers bench-cpu gpu-proof dark-lines parity notebooks format clean

PYTHON ?= python3
VENV := .venv/bin

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup:  ## .venv with pinned packages, and the demo model; nothing to do when it is there
	@$(PYTHON) scripts/setup.py

system:  ## Debian packages the tests need (as root; otherwise named)
	@sh scripts/system.sh

demo: system setup  ## a real model learns by GRPO and the run stops by itself
	@$(VENV)/grpo train configs/demo.toml

clients: setup  ## other openai clients, which the tests run
	@$(VENV)/python scripts/clients.py

test: system setup clients  ## the whole test suite
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 --dist loadfile

test-slow: system setup clients  ## the demo cut short, twenty kills, a fourth of the planted faults, several engines and ranks
	@$(VENV)/python -m pytest -m slow

test-long: system setup clients  ## the quickstart as a newcomer follows it, every family through vLLM, all planted faults
	@$(VENV)/python -m pytest -m long

faults: system setup clients  ## all planted faults; about a quarter of an hour
	@$(VENV)/python -m pytest tests/test_mutations.py -m long

check: system setup clients  ## format, lint, types, tests
	@$(VENV)/ruff format --check .
	@$(VENV)/ruff check .
	@$(VENV)/mypy
	@OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 --dist loadfile

bench-convergence: setup  ## the stop rule's errors and delay on 14 families of curves; about ten minutes
	@$(VENV)/python benchmarks/convergence/run.py

bench-kernels: setup clients  ## the output layer against torch, torch.compile, TRL and Liger; about ten minutes
	@if $(VENV)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; \
	then $(VENV)/python benchmarks/kernels/grid.py; \
	else $(VENV)/python benchmarks/kernels/run.py --out benchmarks/kernels/cpu.json; fi

bench-step: setup clients  ## a whole GRPO step against TRL's GRPOTrainer; about an hour
	@$(VENV)/python benchmarks/step/race.py

bench-microbatch: setup  ## a micro-batch's pass: attention by rows and blocks, PEFT's adapter and ours; three minutes
	@$(VENV)/python benchmarks/step/microbatch.py

bench-console: system setup  ## the console with a million completions, in Chromium; about ten minutes
	@$(VENV)/python benchmarks/console/run.py

bench-peers: setup clients  ## the demo's task here and in TRL, three seeds; about an hour and a half
	@$(VENV)/python -m benchmarks.peers.learning run
	@$(VENV)/python -m benchmarks.peers.learning summary

bench-cpu: setup  ## the protocols that need no GPU, and the ablation; about two hours; what is finished is not repeated
	@$(VENV)/grpo bench bedrock cpu-arithmetic
	@$(VENV)/grpo bench bedrock cpu-words
	@$(VENV)/grpo bench bedrock cpu-ablation

N ?= 20
SAMPLER ?= transformers
SEED ?= 0
kill-loop: setup  ## N kills at random moments of jobs; the result must be that of unkilled ones
	@$(VENV)/python tests/kill_loop.py --kills $(N) --sampler $(SAMPLER) --seed $(SEED) \
		--out benchmarks/reliability/kill_loop.json

fuzz: setup  ## ten thousand requests of all kinds at every operation
	@FUZZ_EXAMPLES=260 FUZZ_RESULT=benchmarks/reliability/fuzz.json $(VENV)/python -m pytest -q tests/test_server_fuzz.py
	@AWS_FUZZ_EXAMPLES=100 $(VENV)/python -m pytest -q tests/test_aws_fuzz.py

gpu-proof: setup  ## what only a GPU can show: kernels' tests, memory against the plan, running out of memory, trainings
	@GRPO_TEST_KERNELS=card $(VENV)/python -m pytest -q -n 8 tests/test_kernels.py tests/test_kernels_loss.py tests/test_kernel_proof.py
	@$(VENV)/python benchmarks/gpu/proof.py

dark-lines: system setup clients  ## which lines no test runs; TESTS="tests/test_x.py" adds what those run, else both suites, an hour
	@$(VENV)/python scripts/dark_lines.py $(TESTS)

parity: setup  ## docs/aws-parity.md: Amazon's operations and members, and which are here
	@$(VENV)/python scripts/parity.py

notebooks: setup  ## AWS's sample notebooks against the server: SAMPLES=folder, ARGS="--gsm8k DIR ..."; about an hour
	@$(VENV)/python scripts/clients.py notebooks
	@$(VENV)/python tests/notebooks.py $(SAMPLES) $(ARGS) --out benchmarks/notebooks/result.json

format: setup  ## rewrite the sources in the project's format
	@$(VENV)/ruff format .
	@$(VENV)/ruff check --fix .

clean:  ## remove runs and caches, keep the environment
	@rm -rf runs .pytest_cache .mypy_cache .ruff_cache
