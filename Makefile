# `make` lists what there is. Everything runs in .venv, which is made on first use.

RUN ?=
SEED ?= 0
SECURE ?=
BENCH ?= *
# Left out of `make bench`: what replay_throughput.py --peers uses, and what takes hours.
BENCH_PARTS := benchmarks/replay_peers.py benchmarks/peer_table.py benchmarks/study.py
FUZZ_SECONDS ?= 60
FUZZ ?=
# The first of these that is Python >= 3.10 and can make virtual environments is taken.
PYTHON ?= python3.11 python3 python3.12 python3.13 python3.10

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
EXTRAS := ros,sim,learner,gym,exchange,dev

# The wheels' ROS 2 must meet no other: neither a sourced installation nor the library path that another
# environment's wheels have left (they would take it for their own and fail to import rclpy).
ifneq ($(strip $(AMENT_PREFIX_PATH)$(_ROS_WHEELS_BOOTSTRAP_COMPLETE)),)
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH PYTHONPATH LD_LIBRARY_PATH
unexport ROS_DISTRO RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE
endif

.DEFAULT_GOAL := help
.PHONY: help venv demo gazebo readers test check format bench fuzz clean

help: ## List these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: $(STAMP) ## Two simulated robots learn to reach (RUN=name SEED=n SECURE=1); the last line names the run folder
	@$(BIN)/pnaf demo --run "$(RUN)" --seed "$(SEED)" $(if $(SECURE),--secure)

gazebo: $(STAMP) ## Get Gazebo 11 into .gazebo, without root, unless this machine has it; builds our plugin
	@$(BIN)/pnaf gazebo install

readers: .readers/.installed ## Get robomimic's and LeRobot's own readers into .readers, for the tests of exports

.readers/.installed: tests/readers.txt | $(STAMP)
	@rm -rf .readers
	@echo "Installing robomimic's and LeRobot's readers into .readers: about a minute"
	@$(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check \
	  --no-deps --target .readers -r tests/readers.txt \
	  || { rm -rf .readers; echo "Installing failed: pip says why above. Run make readers to try again." >&2; exit 1; }
	@touch $@

test: $(STAMP) ## Run the tests, two at a time (ARGS="tests/fleet -k codec" for some of them, one at a time)
	@$(BIN)/pytest $(or $(ARGS),-n 2 --dist loadfile)

check: $(STAMP) ## Check format, style and types
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy

format: $(STAMP) ## Format the code and fix what can be fixed automatically
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

bench: $(STAMP) ## Run the benchmarks (BENCH=fleet for one); each prints a table
	@for script in $(filter-out $(BENCH_PARTS),$(wildcard benchmarks/$(BENCH).py)); do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

fuzz: $(STAMP) ## Search for inputs that break decoder, records, policies or server (FUZZ_SECONDS=60 each, FUZZ=codec for one)
	@$(BIN)/python -c "import atheris" 2>/dev/null || { echo "Installing the fuzzer into $(VENV)"; \
	  $(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check \
	    -c requirements.lock -e '.[fuzz]'; }
	@$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(FUZZ)

venv: $(STAMP) ## Only make .venv with everything in it

clean: ## Remove .venv, builds and caches; runs/, .gazebo/ and .readers/ stay
	rm -rf $(VENV) build dist install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz
	rm -rf .gazebo.partial
	find . \( -path ./.gazebo -o -path ./.readers \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock setup.py setup.cfg
	@rm -f $@; test -x $(BIN)/python || { \
	  found=; \
	  for python in $(PYTHON); do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	    found=$$python; \
	    $$python -c 'import ensurepip, venv' 2>/dev/null && break; \
	    found="$$python-without-venv"; \
	  done; \
	  case "$$found" in \
	  "") echo "Python 3.10 or newer is needed and none of these is it: $(PYTHON)." >&2; \
	      echo "On Debian or Ubuntu: sudo apt install python3 python3-venv" >&2; exit 1;; \
	  *-without-venv) echo "$${found%-without-venv} cannot make virtual environments." >&2; \
	      echo "On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1;; \
	  esac; \
	  echo "Making $(VENV) with $$($$found --version)"; \
	  $$found -m venv $(VENV); }
	@echo "Installing pinned packages into $(VENV): 1-2 minutes, longer if they are not on this machine yet"
	@$(BIN)/python -m pip install --quiet --progress-bar off --disable-pip-version-check \
	  -c requirements.lock -e '.[$(EXTRAS)]' \
	  || { echo "Installing failed: pip says why above. Run make again to go on." >&2; exit 1; }
	@touch $@
	@echo "Installed"
