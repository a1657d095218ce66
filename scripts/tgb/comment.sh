#!/usr/bin/env bash
# NAT, TGN with and without PRES, and EdgeBank on tgbl-comment: who will reply to whom on Reddit, MRR over TGB's negatives.
#
#   ./scripts/tgb/comment.sh                    five seeds, then a summary to submit (a GPU is advised)
#   ./scripts/tgb/comment.sh --resume           go on after an interruption: nothing that is finished runs again
#   ./scripts/tgb/comment.sh --fast --runs 2    a smoke run; its numbers mean nothing
#
# TGB's archive tgbl-comment.zip must be unpacked into tgb/tgbl_comment under $GRAPHKIT_ROOT:
# tgbl-comment_edgelist.csv, tgbl-comment_val_ns.pkl and tgbl-comment_test_ns.pkl.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard tgbl-comment --models NAT TGN TGN+PRES EdgeBank "$@"
