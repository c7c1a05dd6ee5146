#!/usr/bin/env bash
# Measures Phalanx's barrier beside its rivals on this machine, and writes what the README shows.
#
#   scripts/compare.sh [--quick] [--no-install] [--ranks "2 4 8 16"] [--nodes "2 8"] [--torch debian|pypi|none]
#                      [--contests] [-- BENCH-OPTIONS…]
#
# It installs the rivals, runs `phalanx bench barrier --vs all` for each number of ranks, appends the results to
# bench/results/barrier.json (one JSON object a line), and renders barrier.md, barrier.svg and barrier.png beside it
# and the table of figures in README.md. Then it does the same across pretended nodes of one rank each, joined by TCP
# (barrier-nodes.json, barrier-nodes.md and README.md's second table): two minutes, six at most. An empty list of ranks
# or nodes leaves that part out.
# `--contests` does none of this: it measures locks and their family beside their rivals, appends the results to
# bench/results/contests.json, and renders the README's table of them. Debian starts the Redis and the etcd that it
# installs; `phalanx bench` uses its own.
# With `-- --rounds 1 --seconds 0.1`, which says whether all run and little more, it takes six minutes on 2 CPUs.
# Whatever cannot be installed is said and left out; `phalanx bench` names it as skipped.
#
# Torch, which has the Gloo barriers, comes from Debian: CPU only, 151 MB to download with all that it needs. PyPI's
# x86-64 wheel imports only with its CUDA libraries, 5.3 GB on disk, and its barriers were no faster (2.15 against
# 1.13). `--torch pypi` takes it all the same, within ten minutes. On aarch64, where it is CPU only, it is the default.

set -euo pipefail
cd "$(dirname "$0")/.."

results=bench/results
# Seconds for all that is measured across nodes.
across_limit=360
venv=target/rivals-venv
ranks="2 4 8 16"
nodes="2 8"
install=yes
contests=no
torch=debian
[ "$(uname -m)" = aarch64 ] && torch=pypi
bench_options=()

usage() {
    sed -n '2,21s/^# \{0,1\}//p' "$0"
}

while [ $# -gt 0 ]; do
    case "$1" in
        --quick)
            ranks="2 4"
            nodes="2"
            bench_options+=(--iterations 20000)
            ;;
        --no-install) install=no ;;
        --contests)
            contests=yes
            torch=none
            ;;
        --ranks)
            ranks="${2?--ranks needs a list}"
            shift
            ;;
        --nodes)
            nodes="${2?--nodes needs a list}"
            shift
            ;;
        --torch)
            torch="${2:?--torch needs debian, pypi or none}"
            shift
            ;;
        --help | -h)
            usage
            exit 0
            ;;
        --)
            shift
            bench_options+=("$@")
            break
            ;;
        *)
            echo "compare.sh: unknown argument: $1" >&2
            usage >&2
            exit 2
            ;;
    esac
    shift
done

case "$torch" in
    debian | pypi | none) ;;
    *)
        echo "compare.sh: --torch $torch: choose debian, pypi or none" >&2
        exit 2
        ;;
esac

# Says what is missing and goes on: a comparison with fewer rivals is still one.
without() {
    echo "compare.sh: going on without $1" >&2
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

debian_install() {
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -q --no-install-recommends "$@"
}

install_debian_packages() {
    if ! command -v apt-get > /dev/null; then
        without "Debian's packages: there is no apt-get here"
        return
    fi
    as_root apt-get update -q || without "a fresh list of packages"
    debian_install gcc libc6-dev python3 python3-venv || without "gcc or python3-venv"
    debian_install openmpi-bin libopenmpi-dev || without "Open MPI"
    debian_install mpich libmpich-dev || without "MPICH"
    if [ "$contests" = yes ]; then
        debian_install redis-server python3-redis util-linux || without "Redis"
        debian_install etcd-server || without "etcd"
        debian_install zookeeper python3-kazoo || without "ZooKeeper"
    fi
    if [ "$torch" = debian ]; then
        debian_install python3-torch || without "Gloo: python3-torch cannot be installed"
    fi
}

# Debian's own interpreter with its packages visible, because Debian's torch is of no use to any other. Where torch is
# PyPI's, the environment is closed, so that Debian's older NumPy stays out of it.
make_venv() {
    local visibility=--system-site-packages
    # Debian's torch is built for NumPy 1.
    local numpy="numpy<2"
    if [ "$torch" = pypi ]; then
        visibility=
        numpy=numpy
    fi
    local python=/usr/bin/python3
    [ -x "$python" ] || python=python3
    # $visibility is one option or none.
    # shellcheck disable=SC2086
    "$python" -m venv --clear $visibility "$venv"
    "$venv/bin/pip" install --quiet matplotlib "$numpy" || without "the table and the plot: no matplotlib"
    if [ "$contests" = yes ]; then
        # Debian's kazoo has locks with readers that deadlock.
        "$venv/bin/pip" install --quiet "kazoo>=2.9" || without "ZooKeeper's locks with readers: no kazoo 2.9"
    fi
    if [ "$torch" = pypi ]; then
        timeout 600 "$venv/bin/pip" install --quiet torch || without "Gloo: torch was not installed within ten minutes"
    fi
}

machine() {
    local model
    model=$(LC_ALL=C lscpu | sed -n 's/^Model name: *//p' | head -n 1)
    local memory
    memory=$(awk '/^MemTotal:/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)
    local hypervisor
    hypervisor=$(LC_ALL=C lscpu | sed -n 's/^Hypervisor vendor: */, virtual machine under /p')
    echo "$model, $(nproc) CPUs, $memory$hypervisor"
}

toolchain() {
    echo "$(rustc --version), $(gcc --version | head -n 1), Linux $(uname -r)"
}

# A run's lines are appended only once it has succeeded, so that a failed one leaves no half.
measure() {
    local file=$1 what=$2
    shift 2
    local lines
    lines=$(mktemp)
    echo "compare.sh: $what" >&2
    if "$@" --json --vs all "${bench_options[@]}" > "$lines"; then
        cat "$lines" >> "$file"
        rm "$lines"
        return
    fi
    rm "$lines"
    echo "compare.sh: phalanx bench failed at $what" >&2
    exit 1
}

# Where the program is built: the user may have moved it.
phalanx=${CARGO_TARGET_DIR:-target}/release/phalanx

measure_ranks() {
    measure "$results/barrier.json" "$1 ranks" "$phalanx" bench barrier --ranks "$1"
}

measure_nodes() {
    local left=$((across_limit - SECONDS + across_begun))
    if [ "$left" -lt 1 ]; then
        echo "compare.sh: no time left for $1 nodes" >&2
        return
    fi
    measure "$results/barrier-nodes.json" "$1 nodes of one rank, by TCP" \
        timeout "$left" "$phalanx" bench barrier --nodes "$1" --ranks "$1" --fabric tcp --rounds 5
}

# What each object is measured at: alone and together on a node, more ranks than CPUs, and from another node.
measure_contests() {
    local object options
    for object in lock rwlock semaphore counter election; do
        for options in "--busy 1" "--ranks 2" "--ranks 16" "--nodes 2 --busy 1" "--nodes 2"; do
            # shellcheck disable=SC2086 # words of options
            measure "$results/contests.json" "$object $options" "$phalanx" bench $object $options
        done
    done
}

if [ "$install" = yes ]; then
    install_debian_packages
    make_venv
fi
cargo build --release --quiet -p phalanx-cli
mkdir -p "$results"
if [ "$contests" = yes ]; then
    measure_contests
    python3 bench/rivals/contests.py "$results/contests.json" --machine "$(machine)" --readme README.md
    exit 0
fi
for count in $ranks; do
    measure_ranks "$count"
done
across_begun=$SECONDS
for count in $nodes; do
    measure_nodes "$count"
done
python="$venv/bin/python"
[ -x "$python" ] || python=python3
if ! "$python" -c 'import matplotlib' 2> /dev/null; then
    without "the table and the plot: matplotlib cannot be imported by $python"
    exit 0
fi
# What was not measured now was perhaps measured elsewhere: it keeps what stands beside it.
render() {
    "$python" bench/rivals/plot.py "$results/$1.json" --machine "$(machine)" --toolchain "$(toolchain)" --readme README.md
}
[ -z "$ranks" ] || render barrier
[ -z "$nodes" ] || render barrier-nodes
