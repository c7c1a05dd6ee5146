#!/usr/bin/env bash
# Checks the declarations of `src/fabric/rdma/verbs.rs` against rdma-core's own, by the crate ibverbs-sys.
#
# That crate builds rdma-core from source, which takes half a minute and needs cmake and clang; so it is a workspace of
# its own, and its packages are in nobody's build but this one. Installs what is missing, as `scripts/test.sh` does.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A file that shows that a package is there, and its package.
needs='
/usr/bin/cmake                            cmake
/usr/share/doc/libclang-dev               libclang-dev
/usr/share/doc/libnl-3-dev                libnl-3-dev
/usr/share/doc/libnl-route-3-dev          libnl-route-3-dev
/usr/bin/pkg-config                       pkg-config
/usr/bin/g++                              g++
'

as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi

missing=()
while read -r sign package; do
    if [ -n "$sign" ] && [ ! -e "$sign" ]; then missing+=("$package"); fi
done <<<"$needs"
if [ ${#missing[@]} != 0 ]; then
    if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
        echo "not run: missing ${missing[*]} (remedy: install them)"
        exit 2
    fi
    echo "installing ${missing[*]}"
    "${as_root[@]}" apt-get -qq update
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cd hwtests/check-layout
CARGO_TARGET_DIR=$target/check-layout cargo run --locked -q
