# Berth's commands. `make help` explains them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
CNI_BIN_DIR ?= /opt/cni/bin
DESTDIR ?=
TARGET ?= $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
TRIPLE := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
BIN := $(TARGET)/$(TRIPLE)
PLUGINS := bridge host-local static loopback portmap firewall bandwidth tuning ptp macvlan

help: ## This list
	@echo 'Berth: a container platform for one machine'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

deps: ## Install from Debian what building and testing needs
	@tests/deps test
	@tests/fetch-kubectl $(TARGET)/kubectl

deps-build:
	@tests/deps build

build: deps-build build-berth build-shim documents ## Build every program, optimised and static, into target/
	cargo build --locked --profile runtime --package berth-monitor --package cni-plugins
	cargo build --locked --release --package berthd --package berthctl --package user-service --package berth-demo
	@mkdir -p $(TARGET)/berth/bin
	@ln -f $(addprefix $(BIN)/runtime/,berth containerd-shim-berth-v2 berth-monitor cni-plugins) $(addprefix $(BIN)/release/,berthd berthctl user-service berth-demo) $(TARGET)/berth/bin/

documents: deps-build ## Write completions and man pages of berth into target/berth/
	cargo run --quiet --locked --release --package berth --example documents -- $(TARGET)/berth

# Not position-independent: 11,000 relocations and the pages they dirty would be a tenth of every start
# (runtime/DESIGN.md, "Where the time goes").
build-berth: export BERTH_COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null)
build-berth: deps-build
	cargo rustc --locked --profile runtime --package berth --bin berth -- -C relocation-model=static

# Likewise: of one idle shim's memory the relocated pages would be a third (runtime/DESIGN.md, "The shim").
build-shim: deps-build
	cargo rustc --locked --profile runtime --package berth-shim --bin containerd-shim-berth-v2 -- -C relocation-model=static

lint: deps-build ## Formatting, clippy, licences and duplicate crates
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || cargo install --locked --quiet cargo-deny
	cargo deny --locked check licenses bans sources

test: deps ## Every test, on the real kernel; ends with a count
	@tests/run all

test-engines: deps ## The containerd shim, and Docker, Podman, containerd and CRI with their real daemons
	@tests/run engines

test-unit: deps-build ## Only the tests that need no privilege and no program
	@tests/run unit

test-faults: deps ## Kill berthd 300 times (FAULT_KILLS), at every write of the store and every action of the node
	cargo build --locked --workspace --bins
	BERTH_FAULT_KILLS=$(or $(FAULT_KILLS),300) cargo test --locked --package berth-tests --test orchestrator -- faults:: --nocapture

test-vm: deps ## The runtime's tests, and those of monitors, in virtual machines: pure cgroup v2, and systemd as PID 1
	@tests/vm/run all

demo: build ## Deployment to running containers, in a private network: prints a table of what it measured
	@$(TARGET)/berth/bin/berth-demo run --bin-dir $(TARGET)/berth/bin

up: build ## Leave such a node running to play with
	@$(TARGET)/berth/bin/berth-demo up --bin-dir $(TARGET)/berth/bin

down: ## Take away what `make up` started
	@$(TARGET)/berth/bin/berth-demo down

bench: ## Compare with runc and crun
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@tests/bench/run $(TARGET)/berth/bin

bench-ab: ## Compare two commits' runtimes: make bench-ab BASE=COMMIT
	@tests/deps bench
	@tests/bench/ab "$(BASE)"

bench-cni: ## Compare the CNI plugins with the reference set, where that is installed
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@mkdir -p $(TARGET)/berth/cni && for plugin in $(PLUGINS); do ln -sf ../bin/cni-plugins $(TARGET)/berth/cni/$$plugin; done
	@tests/bench/cni.py $(TARGET)/berth/cni

bench-api: ## Time requests, watches and lists of the API server with 1,000 pods stored
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@tests/bench/api.py $(TARGET)/berth/bin

bench-shim: ## Compare containerd's `ctr run` and the memory of its shims, with Berth's shim and its own
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@tests/bench/shim.py $(TARGET)/berth/bin

bench-services: ## Compare the way to a pod by its Service with the way straight there, with 1 and 1,000 Services
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@mkdir -p $(TARGET)/berth/cni && for plugin in $(PLUGINS); do ln -sf ../bin/cni-plugins $(TARGET)/berth/cni/$$plugin; done
	@tests/bench/services.py $(TARGET)/berth/bin $(TARGET)/berth/cni

bench-image: ## Compare pulling with skopeo + umoci and with containerd
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@tests/bench/images.py $(TARGET)/berth/bin

bench-orchestrator: ## Compare starting replicas with podman kube play and Docker Swarm, and measure pods
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@tests/bench/orchestrator/run.py $(TARGET)/berth/bin --out $(TARGET)/bench/orchestrator.json

soak: ## Rollouts, crashes, scaling, jobs and load for 30 minutes (SOAK_MINUTES): ends with 1 if anything grows
	@tests/deps bench
	@$(MAKE) --no-print-directory build
	@tests/bench/orchestrator/soak.py $(TARGET)/berth/bin --minutes $(or $(SOAK_MINUTES),30) --out $(TARGET)/bench/soak.json

install: build ## Put programs, plugins, unit and configuration in place (PREFIX, CNI_BIN_DIR, DESTDIR)
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(addprefix $(TARGET)/berth/bin/,berth containerd-shim-berth-v2 berthd berthctl berth-monitor)
	install -D -m 755 $(TARGET)/berth/bin/cni-plugins $(DESTDIR)$(CNI_BIN_DIR)/cni-plugins
	install -D -m 644 $(TARGET)/berth/completions/berth $(DESTDIR)$(PREFIX)/share/bash-completion/completions/berth
	install -D -m 644 $(TARGET)/berth/completions/_berth $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_berth
	install -D -m 644 $(TARGET)/berth/completions/berth.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/berth.fish
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 $(TARGET)/berth/man/*.8
	for plugin in $(PLUGINS); do ln -f $(DESTDIR)$(CNI_BIN_DIR)/cni-plugins $(DESTDIR)$(CNI_BIN_DIR)/$$plugin; done
	sed 's|@PREFIX@|$(PREFIX)|g; s|@CNI_BIN_DIR@|$(CNI_BIN_DIR)|g' orchestrator/berthd.service.in | install -D -m 644 /dev/stdin $(DESTDIR)/etc/systemd/system/berthd.service
	test -e $(DESTDIR)/etc/cni/net.d/10-berth.conflist || install -D -m 644 examples/cni/10-berth.conflist $(DESTDIR)/etc/cni/net.d/10-berth.conflist

uninstall: ## Remove what install put in place (data and changed configuration stay)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/,bash-completion/completions/berth zsh/site-functions/_berth fish/vendor_completions.d/berth.fish man/man8/berth.8 man/man8/berth-*.8)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,berth containerd-shim-berth-v2 berthd berthctl berth-monitor)
	for plugin in $(PLUGINS); do if [ $(DESTDIR)$(CNI_BIN_DIR)/$$plugin -ef $(DESTDIR)$(CNI_BIN_DIR)/cni-plugins ]; then rm -f $(DESTDIR)$(CNI_BIN_DIR)/$$plugin; fi; done
	rm -f $(DESTDIR)$(CNI_BIN_DIR)/cni-plugins $(DESTDIR)/etc/systemd/system/berthd.service
	if cmp -s examples/cni/10-berth.conflist $(DESTDIR)/etc/cni/net.d/10-berth.conflist; then rm -f $(DESTDIR)/etc/cni/net.d/10-berth.conflist; fi

clean: ## Remove everything that was built
	cargo clean
	rm -rf .demo

.PHONY: help deps deps-build build build-berth build-shim documents lint test test-engines test-unit test-faults test-vm demo up down bench bench-ab bench-cni bench-api bench-shim bench-services bench-image install uninstall clean
