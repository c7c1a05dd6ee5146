#!/usr/bin/env bash
# Runs a command where there is an RDMA device, on a machine that has none: soft-RoCE, the kernel's own `rdma_rxe`.
#
#   scripts/soft-roce.sh run  [options] -- COMMAND…   one machine, its ranks talk through its device
#   scripts/soft-roce.sh pair [options] -- COMMAND…   two machines with a link between them, COMMAND in both
#
#   --vm           a guest even where the host's kernel could do it (`pair` is always in guests)
#   --devices N    devices per machine: rxe0, rxe1 … (1)
#   --cpus N       CPUs of a guest (2; with `pair` 1, so that two guests fit on two CPUs)
#   --memory M     memory of a guest (2G)
#   --timeout S    seconds until everything is ended with status 124 (300)
#
# Where `modprobe rdma_rxe` works (a workstation, a GitHub runner), `run` adds a device over a dummy interface, runs
# the command on the host, and takes both away again. Elsewhere the command runs in a guest: Debian's stock kernel under
# QEMU's software emulation, which needs no KVM and is up in a few seconds. A guest sees the host's file system through
# 9p and an overlay: it runs what the host has built, and what it writes is gone with it. Its console is this command's
# standard output, with `pair` behind `[0]` or `[1]`. The exit status is the command's (with `pair` the first that is
# not 0, of those machines that were not killed); 69 where a package that is needed cannot be had, 124 after the
# time-out, 125 for what else goes wrong here.
#
# In the command's environment:
#
#   SOFT_ROCE_GUEST      0 or 1, which machine it is on
#   SOFT_ROCE_ADDRESS    its own address      SOFT_ROCE_PEER  the other machine's (`run`: its own)
#   SOFT_ROCE_EXCHANGE   a folder that both machines and the host see, and both may write to. Making a file `kill-0` or
#                        `kill-1` in it kills that machine at once, without a goodbye; `pause-0` has it stand still
#                        until there is a `resume-0`.
#
# A file of the exchange folder is there for all when it has been renamed into place. With SOFT_ROCE_KEEP set to a
# folder of the host, that is the exchange folder, and stays.
#
# Kernel and initramfs are kept in $XDG_CACHE_HOME/phalanx (SOFT_ROCE_CACHE overrides). Works on x86-64 Debian and
# Ubuntu with QEMU 7.2 or newer; as root, or with sudo that asks for no password, it installs what is missing.

set -euo pipefail

# What it needs, one a line: the command that shows it is there, and its package.
host_needs='
ip      iproute2
rdma    iproute2
'
guest_needs="$host_needs
qemu-system-x86_64 qemu-system-x86
busybox            busybox-static
modprobe           kmod
cpio               cpio
"
# The library and its driver for rdma_rxe, in the guest as on the host. They have no command, so a file shows them.
libraries='
/usr/share/doc/libibverbs1        libibverbs1
/usr/share/doc/ibverbs-providers  ibverbs-providers
'

# 198.18.0.0/15 is for benchmarks and routed nowhere.
subnet=198.18.77

usage() {
    sed -n '/^#   scripts/,/^#   --timeout/s/^# \{0,3\}//p' "$0" >&2
    exit 2
}

die() {
    echo "soft-roce: $*" >&2
    exit 125
}

# What is missing cannot be had here: no failure of what was to be run.
unavailable() {
    echo "soft-roce: $*" >&2
    exit 69
}

apt() {
    local as_root=()
    if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

install_missing() {
    local missing=() sign package
    # Debian keeps rdma, modprobe and others where a user's PATH may not look.
    PATH=$PATH:/usr/sbin:/sbin
    while read -r sign package; do
        [ -n "$sign" ] || continue
        case $sign in
            /*) [ -e "$sign" ] || missing+=("$package") ;;
            *) command -v "$sign" >/dev/null || missing+=("$package") ;;
        esac
    done <<<"$1$libraries"
    [ ${#missing[@]} != 0 ] || return 0
    command -v apt-get >/dev/null || unavailable "missing: ${missing[*]} (remedy: install them; only apt is known here)"
    echo "soft-roce: installing ${missing[*]}" >&2
    apt update || unavailable "cannot install ${missing[*]} (remedy: run as root: apt-get install ${missing[*]})"
    apt install --no-install-recommends "${missing[@]}" || unavailable "cannot install ${missing[*]}"
}

host_can() {
    [ "$(id -u)" = 0 ] && modprobe rdma_rxe 2>/dev/null && command -v rdma >/dev/null
}

# Adds `count` devices for machine `guest`. Runs on the host, and (its text, by `declare -f`) in a guest.
add_devices() {
    local guest=$1 count=$2 subnet=$3 link=$4 index=0
    while [ "$index" -lt "$count" ]; do
        if [ -z "$link" ] || [ "$index" != 0 ]; then
            ip link add "roce$index" type dummy || return
        else
            ip link set "$link" name "roce$index" || return
        fi
        ip addr add "$subnet.$((16 * index + guest + 1))/28" dev "roce$index" && ip link set "roce$index" up || return
        rdma link add "rxe$index" type rxe netdev "roce$index" || return
        index=$((index + 1))
    done
}

remove_devices() {
    local index
    for ((index = 0; index < $1; index++)); do
        rdma link delete "rxe$index" 2>/dev/null || true
        ip link delete "roce$index" 2>/dev/null || true
    done
}

run_on_host() {
    local status=0
    trap 'remove_devices "$devices"; rm -rf "$scratch"' EXIT
    add_devices 0 "$devices" "$subnet" '' || die "cannot add a soft-RoCE device on this host (remedy: --vm)"
    ulimit -l unlimited
    SOFT_ROCE_GUEST=0 SOFT_ROCE_ADDRESS=$subnet.1 SOFT_ROCE_PEER=$subnet.1 SOFT_ROCE_EXCHANGE=$exchange \
        timeout "$timeout_s" "$@" || status=$?
    exit "$status"
}

# The newest Debian kernel, unpacked and never installed, and an initramfs with the modules in load order. Made once
# for each text of these two functions, so that a change of them is never met with an old image.
prepare_image() {
    image=${SOFT_ROCE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/phalanx}/soft-roce-$(declare -f prepare_image guest_init | sha256sum | cut -c 1-16)
    [ ! -e "$image/initramfs.gz" ] || return 0
    echo "soft-roce: making a guest in $image" >&2
    local work=$scratch/image package version module
    mkdir -p "$work/initramfs/"{bin,modules,proc,sys,dev,host,upper,root} "$work/new"
    package=$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    if [ -z "$package" ]; then
        # Ubuntu's package has another name, and its modules another.
        package=$(apt-cache depends linux-image-virtual 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    fi
    [ -n "$package" ] || unavailable "no kernel package found (remedy: apt-get update)"
    local packages=("$package")
    case $package in *-generic) packages+=("${package/image/modules}" "${package/image/modules-extra}") ;; esac
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" >&2) ||
        { apt update && (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download "${packages[@]}" >&2); } || unavailable "cannot download ${packages[*]}"
    for package in "$work"/*.deb; do dpkg -x "$package" "$work/root"; done
    version=$(ls "$work/root/lib/modules")
    depmod -b "$work/root" "$version"
    cp "$(command -v busybox)" "$work/initramfs/bin/busybox"
    # crc32_generic: rdma_rxe computes its packets' checksum with it, and adds no device without it.
    for module in virtio_pci virtio_net 9pnet_virtio 9p overlay crc32_generic rdma_rxe rdma_ucm dummy veth sch_netem; do
        modprobe -d "$work/root" -S "$version" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r module; do
        cp "$module" "$work/initramfs/modules/"
        basename "$module" >>"$work/initramfs/modules/order"
    done
    guest_init >"$work/initramfs/init"
    chmod +x "$work/initramfs/init"
    (cd "$work/initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/new/initramfs.gz"
    cp "$work/root/boot/vmlinuz-$version" "$work/new/vmlinuz"
    mkdir -p "$(dirname "$image")"
    # Another run may have been quicker: its image is as good.
    mv -T "$work/new" "$image" 2>/dev/null || [ -e "$image/initramfs.gz" ] || die "cannot make $image"
}

# The guest's first process: mounts the host's file system, and goes on with the machine's script from the exchange
# folder. `guest=` on the kernel's command line tells which machine it is.
guest_init() {
    cat <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc p /proc; $b mount -t sysfs s /sys; $b mount -t devtmpfs d /dev
for m in $($b cat /modules/order); do $b insmod /modules/$m || echo "insmod $m failed"; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=524288 host /host
$b mount -t tmpfs t /upper && $b mkdir /upper/up /upper/work
$b mount -t overlay -o lowerdir=/host,upperdir=/upper/up,workdir=/upper/work o /root
$b mount -t tmpfs t /root/run; $b mkdir /root/run/exchange
$b mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=524288 exchange /root/run/exchange
for d in proc sys dev; do $b mount --move /$d /root/$d; done
$b mkdir -p /root/dev/shm /root/dev/pts; $b mount -t tmpfs t /root/dev/shm; $b mount -t devpts p /root/dev/pts
guest=$($b sed 's/.*guest=\([0-9]*\).*/\1/' /root/proc/cmdline)
exec $b switch_root /root /bin/bash /run/exchange/.guest-$guest
INIT
}

# What a guest does: `guest_script MACHINE COMMAND…`.
guest_script() {
    local guest=$1 link='' peer=$guest
    shift
    if [ "$machines" = 2 ]; then
        link=eth0 peer=$((1 - guest))
    fi
    declare -f add_devices
    echo 'export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
    printf 'export HOME=%q USER=%q\n' "$HOME" "${USER:-root}"
    printf 'export SOFT_ROCE_GUEST=%q SOFT_ROCE_ADDRESS=%q SOFT_ROCE_PEER=%q SOFT_ROCE_EXCHANGE=/run/exchange\n' \
        "$guest" "$subnet.$((guest + 1))" "$subnet.$((peer + 1))"
    # Variables that steer the tests go in too.
    compgen -e | grep -E '^(PHALANX|RUST|CARGO|PROPTEST)_' | while read -r name; do printf 'export %s=%q\n' "$name" "${!name}"; done
    echo 'ulimit -l unlimited; ulimit -c 0; ip link set lo up'
    printf 'hostname soft-roce-%q; cd %q\n' "$guest" "$PWD"
    printf 'if add_devices %q %q %q %q; then %s; status=$?\n' "$guest" "$devices" "$subnet" "$link" "$(printf '%q ' "$@")"
    echo 'else echo "soft-roce: no device in the guest"; status=125; fi'
    # Renamed into place, so that the host never reads half a status.
    printf 'echo $status >/run/exchange/.new-%q; mv /run/exchange/.new-%q /run/exchange/.status-%q\n' "$guest" "$guest" "$guest"
    echo 'echo o >/proc/sysrq-trigger; while :; do :; done'
}

# Starts a machine; its process id is then in `pids`.
start_guest() {
    local guest=$1 network=(-nic none) prefix=(cat)
    shift
    guest_script "$guest" "$@" >"$exchange/.guest-$guest"
    if [ "$machines" = 2 ]; then
        network=(-netdev "stream,id=n,server=$([ "$guest" = 0 ] && echo on || echo off),addr.type=unix,addr.path=$scratch/link"
            -device "virtio-net-pci,netdev=n,romfile=,mac=52:54:00:00:00:0$guest")
        prefix=(sed -u "s/^/[$guest] /")
    fi
    # `tr` drops the carriage returns that a console adds. QEMU's time-stamp counters are one clock for all CPUs, which
    # the kernel does not see: without `tsc=reliable` each reading of the time would be a call to an emulated HPET.
    # Without `-erms` the kernel copies by `rep movsb`, which QEMU does byte by byte: words of rdma_rxe would tear.
    qemu-system-x86_64 -accel tcg,thread=multi -cpu max,-erms -smp "$cpus" -m "$memory" -display none -no-reboot -nodefaults \
        -serial stdio -kernel "$image/vmlinuz" -initrd "$image/initramfs.gz" \
        -append "console=ttyS0 quiet panic=-1 tsc=reliable guest=$guest" \
        -virtfs local,path=/,security_model=none,readonly=on,mount_tag=host,multidevs=remap \
        -virtfs "local,path=$exchange,security_model=none,mount_tag=exchange,multidevs=remap" \
        "${network[@]}" </dev/null > >(stdbuf -o0 tr -d '\r' | "${prefix[@]}") 2>&1 &
    pids[guest]=$!
}

is_up() {
    [ -n "${pids[$1]:-}" ] && kill -0 "${pids[$1]}" 2>/dev/null
}

kill_guests() {
    local pid
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null
    rm -rf "$scratch"
}

# heed_wish FILE SIGNAL MACHINE: once for each such file.
heed_wish() {
    if [ -e "$exchange/$1" ] && is_up "$3"; then
        rm -f "$exchange/$1"
        kill -"$2" "${pids[$3]}"
    fi
}

# Waits until all machines are off, killing or stopping those that are to be.
attend_guests() {
    local deadline=$((SECONDS + timeout_s)) guest killed=() status=0 own
    while is_up 0 || is_up 1; do
        for ((guest = 0; guest < machines; guest++)); do
            if [ -e "$exchange/kill-$guest" ] && is_up "$guest"; then
                kill -KILL "${pids[$guest]}"
                wait "${pids[$guest]}" 2>/dev/null || true
                killed[guest]=yes
                echo "soft-roce: machine $guest is killed"
            fi
            heed_wish "pause-$guest" STOP "$guest"
            heed_wish "resume-$guest" CONT "$guest"
        done
        if [ "$SECONDS" -ge "$deadline" ]; then
            echo "soft-roce: not done after $timeout_s s, ended"
            exit 124
        fi
        sleep 0.05
    done
    for ((guest = 0; guest < machines; guest++)); do
        own=$(cat "$exchange/.status-$guest" 2>/dev/null || echo 125)
        if [ -n "${killed[$guest]:-}" ]; then continue; fi
        if [ "$own" != 0 ] && [ "$status" = 0 ]; then status=$own; fi
    done
    exit "$status"
}

run_in_guests() {
    [ "$(uname -m)" = x86_64 ] || unavailable "guests are x86-64 only (remedy: a kernel with rdma_rxe)"
    prepare_image
    pids=()
    trap kill_guests EXIT
    start_guest 0 "$@"
    if [ "$machines" = 2 ]; then
        # The second connects to the first, which must be listening by then.
        until [ -S "$scratch/link" ]; do
            is_up 0 || die "the first guest did not start (remedy: QEMU 7.2 or newer)"
            sleep 0.05
        done
        start_guest 1 "$@"
    fi
    attend_guests
}

machines=1
case "${1:-}" in
    run) ;;
    pair) machines=2 ;;
    *) usage ;;
esac
shift
in_guests=no devices=1 cpus='' memory=2G timeout_s=300
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
        --vm) in_guests=yes; shift; continue ;;
        --devices) devices=${2:-} ;;
        --cpus) cpus=${2:-} ;;
        --memory) memory=${2:-} ;;
        --timeout) timeout_s=${2:-} ;;
        *) usage ;;
    esac
    shift 2 || usage
done
[ $# -gt 1 ] || usage
shift
cpus=${cpus:-$((3 - machines))}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
exchange=${SOFT_ROCE_KEEP:-$scratch/exchange}
mkdir -p "$exchange"
exchange=$(realpath "$exchange")
# What an earlier run has left in a folder that stays.
rm -f "$exchange"/.status-? "$exchange"/kill-? "$exchange"/pause-? "$exchange"/resume-?

if [ $machines = 1 ] && [ $in_guests = no ] && host_can; then
    install_missing "$host_needs"
    run_on_host "$@"
fi
install_missing "$guest_needs"
run_in_guests "$@"
