#!/usr/bin/env bash
# Hurts jobs of real processes at random and looks whether what must hold does:
# `scripts/campaign.sh --minutes N --seed S`.
#
#   --minutes N    how long (1)                   --seed S    of the first round (of the clock)
#   --fabric F     only shm, tcp or rdma          --fault F   only that fault; a wrong name lists them
#   --rounds N     at most so many
#
# Between barriers the ranks use named objects of every kind. It prints faults by kind, calls of objects by kind, what
# became of the ranks, and how long after a fault the last survivor had its error. The exit status is 1 if anything was
# wrong; each violation is printed with the command that repeats its round. As root it also cuts nodes off (network
# namespaces) and resets connections (`ss -K`); what cannot be run is listed with the reason. Ranks that say on stderr
# that they have "refused a connection" do as they should: a fault is strangers who send garbage to their ports.
#
# By RDMA, in a guest where the host has no device, with the command built before:
#
#   cargo build --release && scripts/soft-roce.sh run --timeout 600 -- scripts/campaign.sh --minutes 3 --fabric rdma
#
# CAMPAIGN_PHALANX names the command instead, and nothing is built.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

phalanx=${CAMPAIGN_PHALANX:-}
if [ -z "$phalanx" ]; then
    phalanx=${CARGO_TARGET_DIR:-target}/release/phalanx
    # A guest has what its host has built.
    if [ -z "${SOFT_ROCE_GUEST:-}" ]; then cargo build --locked -q --release -p phalanx-cli; fi
fi
exec "$phalanx" campaign "$@"
