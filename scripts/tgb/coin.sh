#!/usr/bin/env bash
# NAT, TGN with and without PRES, and EdgeBank on tgbl-coin: which address will pay which, MRR over TGB's negatives.
#
#   ./scripts/tgb/coin.sh                    five seeds, then a summary to submit (a GPU is advised)
#   ./scripts/tgb/coin.sh --resume           go on after an interruption: nothing that is finished runs again
#   ./scripts/tgb/coin.sh --fast --runs 2    a smoke run; its numbers mean nothing
#
# TGB's archive tgbl-coin-v2.zip must be unpacked into tgb/tgbl_coin under $GRAPHKIT_ROOT:
# tgbl-coin_edgelist_v2.csv, tgbl-coin_val_ns_v2.pkl and tgbl-coin_test_ns_v2.pkl.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard tgbl-coin --models NAT TGN TGN+PRES EdgeBank "$@"
