#!/usr/bin/env bash
# Installs the Debian packages that the fault-injection tests and the Makefile need, and only those that are missing.
set -euo pipefail

missing=()
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || missing+=("$2")
}

need make make
need git git
need fiu-run fiu-utils
need strace strace
need faketime faketime
need eatmydata eatmydata
need systemd-analyze systemd
need openssl openssl
need zsh zsh
need fish fish
need python3 python3
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)

if ((${#missing[@]} == 0)); then
    echo "every tool is here"
    exit 0
fi
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo "not root or no apt-get here; install by hand: ${missing[*]}"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}"
