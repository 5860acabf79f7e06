# Two commands are enough: `make demo` and `make test`. `make help` lists the rest.

# What a Debian system must have beside Rust: a C compiler for ring, the headers of ALSA for the microphone.
APT_PACKAGES = gcc libc6-dev pkg-config libasound2-dev

# The version in rust-toolchain.toml. rustup looks for it by that name; where the same version is installed under
# another name (stable), that one is used instead of downloading it again.
RUST_VERSION := $(shell sed -n 's/^channel = "\(.*\)"$$/\1/p' rust-toolchain.toml)
SAME_VERSION := $(shell command -v rustup >/dev/null 2>&1 || exit 0; \
	names=$$(rustup toolchain list 2>/dev/null | cut -d' ' -f1); \
	for name in $$names; do case $$name in ($(RUST_VERSION)*) exit 0;; esac; done; \
	for name in $$names; do \
		case $$(rustup run $$name rustc --version 2>/dev/null) in ('rustc $(RUST_VERSION) '*) echo $$name; exit 0;; esac; \
	done)
ifneq ($(SAME_VERSION),)
export RUSTUP_TOOLCHAIN := $(SAME_VERSION)
endif

# For `make fuzz`: seconds for each target, and which ones. FUZZ_TARGET=event takes one.
FUZZ_SECONDS ?= 600
FUZZ_TARGET ?= $(sort $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs)))
CARGO_FUZZ_VERSION = 0.13.1

.DEFAULT_GOAL := help
.PHONY: help deps deps-test demo test lint bench fuzz doc

help: ## List these commands
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

deps: ## Install the system packages that are missing, or say which ones
	@missing=; \
	command -v cc >/dev/null 2>&1 || missing="$$missing gcc libc6-dev"; \
	command -v pkg-config >/dev/null 2>&1 || missing="$$missing pkg-config"; \
	if [ "$$(uname -s)" = Linux ]; then \
		pkg-config --exists alsa 2>/dev/null || missing="$$missing libasound2-dev"; \
	fi; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ]; then root=; \
		elif sudo -n true 2>/dev/null; then root='sudo -n'; \
		else root=no; fi; \
		if [ "$$root" = no ] || ! command -v apt-get >/dev/null 2>&1; then \
			echo "missing:$$missing (names as on Debian and Ubuntu)" >&2; \
			echo "install them, for example: sudo apt-get install -y$$missing" >&2; \
			exit 1; \
		fi; \
		echo "installing:$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		$$root apt-get install -y --no-install-recommends $$missing >/dev/null 2>&1 \
			|| { $$root apt-get update -q && $$root apt-get install -y --no-install-recommends $$missing; } \
			|| { echo "could not install:$$missing" >&2; exit 1; }; \
	fi
	@command -v cargo >/dev/null 2>&1 \
		|| { echo "no cargo on PATH; install Rust $(RUST_VERSION) from https://rustup.rs" >&2; exit 1; }
	@cargo --version >/dev/null \
		|| { echo "cargo does not run; install Rust $(RUST_VERSION): rustup toolchain install $(RUST_VERSION)" >&2; exit 1; }
	@case "$$(rustc --version)" in "rustc $(RUST_VERSION) "*) ;; \
		*) echo "note: this is $$(rustc --version); godctl is tested with $(RUST_VERSION)" >&2;; esac

# Nothing of this is needed to build, to run or to test: the tests that need one of these say `ignored, needs ...` where
# it is missing. Where everything must be tested (CI=true), they fail instead.
TEST_DEPS = target/test-deps
deps-test: ## Install the servers, browsers and client libraries that some tests use, where that can be done without asking
	@missing=; \
	[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null 2>&1 \
		|| missing="$$missing rabbitmq-server"; \
	command -v redis-server >/dev/null 2>&1 || missing="$$missing redis-server"; \
	command -v chromium >/dev/null 2>&1 || missing="$$missing chromium"; \
	command -v python3 >/dev/null 2>&1 || missing="$$missing python3 python3-venv"; \
	command -v npm >/dev/null 2>&1 || missing="$$missing nodejs npm"; \
	command -v tmux >/dev/null 2>&1 || missing="$$missing tmux"; \
	command -v script >/dev/null 2>&1 || missing="$$missing bsdutils"; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" = 0 ]; then root=; \
		elif sudo -n true 2>/dev/null; then root='sudo -n'; \
		else root=no; fi; \
		if [ "$$root" = no ] || ! command -v apt-get >/dev/null 2>&1; then \
			echo "not installed, so some tests are left out:$$missing" >&2; \
		else \
			echo "installing:$$missing"; \
			export DEBIAN_FRONTEND=noninteractive; \
			$$root apt-get install -y --no-install-recommends $$missing >/dev/null 2>&1 \
				|| { $$root apt-get update -q && $$root apt-get install -y --no-install-recommends $$missing; } \
				|| echo "could not install, so some tests are left out:$$missing" >&2; \
		fi; \
	fi
	@mkdir -p $(TEST_DEPS)
	@cmp -s tests/sdk/requirements.txt $(TEST_DEPS)/python/requirements.txt || { \
		echo "installing the Python clients of tests/sdk/requirements.txt"; \
		python3 -m venv $(TEST_DEPS)/python \
		&& $(TEST_DEPS)/python/bin/pip install --quiet --disable-pip-version-check -r tests/sdk/requirements.txt \
		&& cp tests/sdk/requirements.txt $(TEST_DEPS)/python/; \
	} || echo "could not install them, so some tests are left out" >&2
	@cmp -s tests/sdk/package.json $(TEST_DEPS)/node/package.json || { \
		echo "installing the JavaScript clients of tests/sdk/package.json"; \
		rm -rf $(TEST_DEPS)/node && mkdir $(TEST_DEPS)/node && cp tests/sdk/package.json $(TEST_DEPS)/node/ \
		&& (cd $(TEST_DEPS)/node && npm install --silent --no-audit --no-fund --no-package-lock >/dev/null 2>&1) \
		|| { rm -rf $(TEST_DEPS)/node; false; }; \
	} || echo "could not install them, so some tests are left out" >&2
	@cmp -s tests/sdk/agents/package.json $(TEST_DEPS)/agents/package.json || { \
		echo "installing the agents of tests/sdk/agents/package.json (740 MB)"; \
		rm -rf $(TEST_DEPS)/agents && mkdir $(TEST_DEPS)/agents && cp tests/sdk/agents/package.json $(TEST_DEPS)/agents/ \
		&& (cd $(TEST_DEPS)/agents \
			&& npm install --silent --ignore-scripts --no-audit --no-fund --no-package-lock >/dev/null 2>&1 \
			&& node node_modules/@anthropic-ai/claude-code/install.cjs >/dev/null) \
		|| { rm -rf $(TEST_DEPS)/agents; false; }; \
	} || echo "could not install them, so some tests are left out" >&2

demo: deps ## Build godctl and show it at work on recorded speech
	@[ -x target/release/godctl ] || echo "building for release; the first time takes some minutes"
	@cargo build --release --locked
	@target/release/godctl demo

test: deps deps-test ## Run all tests
	@[ -d target/debug/deps ] || echo "building for tests; the first time takes some minutes"
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --locked --show-progress none --status-level fail --final-status-level slow; \
	else \
		cargo test --locked --quiet; \
	fi
	@echo "make test: all tests passed"

lint: deps ## Check format, lints, documentation and scripts
	@cargo fmt --check
	@cargo clippy --quiet --locked --all-targets -- -D warnings
	@if command -v nvcc >/dev/null 2>&1; then cargo clippy --quiet --locked --features cuda -- -D warnings; fi
	@if [ "$$(uname -s)" = Darwin ]; then cargo clippy --quiet --locked --features metal -- -D warnings; fi
	@RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' cargo doc --quiet --locked --no-deps --document-private-items
	@if command -v shellcheck >/dev/null 2>&1; then shellcheck .ci/run; fi
	@echo "make lint: nothing to complain about"

bench: deps ## Measure the engine beside stock candle, the live path, the bus beside plain lapin and Redis, agents, the dashboard
	@cargo bench --quiet --locked --bench asr
	@cargo bench --quiet --locked --bench bus
	@cargo bench --quiet --locked --bench agents
	@cargo bench --quiet --locked --bench dash
	@cargo build --quiet --release --locked
	@target/release/godctl demo | sed -n '/^model /,$$p'

# Without a sanitizer: the code is safe Rust, and what is looked for are panics, endless loops, memory without bound and
# broken laws. The compiler's instrumentation is a nightly option, which this lets the pinned compiler take. What is found
# beside the committed seeds stays below fuzz/target, a failing input below fuzz/artifacts.
fuzz: deps ## Fuzz each parser that strangers reach (FUZZ_SECONDS=600 FUZZ_TARGET=all)
	@command -v c++ >/dev/null 2>&1 || { echo "the fuzzer is built with a C++ compiler; install g++" >&2; exit 1; }
	@cargo fuzz --version 2>/dev/null | grep -q ' $(CARGO_FUZZ_VERSION)$$' \
		|| { echo "installing cargo-fuzz $(CARGO_FUZZ_VERSION)"; \
			cargo install --quiet cargo-fuzz --locked --version $(CARGO_FUZZ_VERSION); }
	@echo "building the fuzz targets; the first time takes some minutes"
	@RUSTC_BOOTSTRAP=1 cargo fuzz build --release -s none
	@host=$$(rustc -vV | sed -n 's/^host: //p'); failed=; \
	for target in $(FUZZ_TARGET); do \
		found=fuzz/target/found/$$target; log=fuzz/target/$$target.log; \
		mkdir -p $$found fuzz/artifacts/$$target; \
		if fuzz/target/$$host/release/$$target $$found fuzz/corpus/$$target \
			-artifact_prefix=fuzz/artifacts/$$target/ -max_total_time=$(FUZZ_SECONDS) \
			-rss_limit_mb=2048 -timeout=60 -print_final_stats=1 >$$log 2>&1; \
		then echo "$$target: clean, $$(sed -n 's/^stat::number_of_executed_units: *//p' $$log) inputs in $(FUZZ_SECONDS) s"; \
		else echo "$$target: FAILED, see $$log and fuzz/artifacts/$$target" >&2; failed=1; fi; \
	done; \
	[ -z "$$failed" ]

doc: deps ## Build the documentation of the code, private parts included
	@cargo doc --locked --no-deps --document-private-items
	@echo "open target/doc/godctl/index.html"
