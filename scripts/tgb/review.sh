#!/usr/bin/env bash
# NAT, TGN with and without PRES, and EdgeBank on tgbl-review: who will review which product, MRR over TGB's negatives.
#
#   ./scripts/tgb/review.sh                    five seeds, then a summary to submit (a GPU is advised)
#   ./scripts/tgb/review.sh --resume           go on after an interruption: nothing that is finished runs again
#   ./scripts/tgb/review.sh --fast --runs 2    a smoke run; its numbers mean nothing
#
# TGB's archive tgbl-review-v2.zip must be unpacked into tgb/tgbl_review under $GRAPHKIT_ROOT:
# tgbl-review_edgelist_v2.csv, tgbl-review_val_ns_v2.pkl and tgbl-review_test_ns_v2.pkl.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard tgbl-review --models NAT TGN TGN+PRES EdgeBank "$@"
