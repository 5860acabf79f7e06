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

.DEFAULT_GOAL := help
.PHONY: help deps deps-test demo test lint bench doc

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

# No server is needed to build, to run or to test: the tests that need one say `ignored, needs ...` where it is missing.
# Where everything must be tested (CI=true), they fail instead.
deps-test: ## Install the servers that some tests start for themselves, where that can be done without asking
	@missing=; \
	[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || command -v rabbitmq-server >/dev/null 2>&1 \
		|| missing="$$missing rabbitmq-server"; \
	command -v redis-server >/dev/null 2>&1 || missing="$$missing redis-server"; \
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

demo: deps ## Build godctl and show it at work on recorded speech
	@[ -x target/release/godctl ] || echo "building for release; the first time takes some minutes"
	@cargo build --release --locked
	@target/release/godctl demo

test: deps ## Run all tests
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

bench: deps ## Measure the engine beside stock candle, the live path, and the bus beside plain lapin and Redis
	@cargo bench --quiet --locked --bench asr
	@cargo bench --quiet --locked --bench bus
	@cargo build --quiet --release --locked
	@target/release/godctl demo | sed -n '/^model /,$$p'

doc: deps ## Build the documentation of the code, private parts included
	@cargo doc --locked --no-deps --document-private-items
	@echo "open target/doc/godctl/index.html"
