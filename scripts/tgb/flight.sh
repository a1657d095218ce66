#!/usr/bin/env bash
# NAT, TGN with and without PRES, and EdgeBank on tgbl-flight: between which airports there will be a flight, MRR over TGB's negatives.
#
#   ./scripts/tgb/flight.sh                    five seeds, then a summary to submit (a GPU is advised)
#   ./scripts/tgb/flight.sh --resume           go on after an interruption: nothing that is finished runs again
#   ./scripts/tgb/flight.sh --fast --runs 2    a smoke run; its numbers mean nothing
#
# TGB's archive tgbl-flight-v2.zip must be unpacked into tgb/tgbl_flight under $GRAPHKIT_ROOT:
# tgbl-flight_edgelist_v2.csv, tgbl-flight_val_ns_v2.pkl and tgbl-flight_test_ns_v2.pkl.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard tgbl-flight --models NAT TGN TGN+PRES EdgeBank "$@"
