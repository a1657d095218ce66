#!/usr/bin/env bash
# NAT, TGN with and without PRES, and EdgeBank on tgbl-wiki: who will edit which page of Wikipedia, MRR over TGB's negatives.
#
#   ./scripts/tgb/wiki.sh                    five seeds, then a summary to submit (a GPU is advised)
#   ./scripts/tgb/wiki.sh --resume           go on after an interruption: nothing that is finished runs again
#   ./scripts/tgb/wiki.sh --fast --runs 2    a smoke run; its numbers mean nothing
#
# TGB's archive tgbl-wiki-v2.zip must be unpacked into tgb/tgbl_wiki under $GRAPHKIT_ROOT:
# tgbl-wiki_edgelist_v2.csv, tgbl-wiki_val_ns_v2.pkl and tgbl-wiki_test_ns_v2.pkl.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
install ""
leaderboard tgbl-wiki --models NAT TGN TGN+PRES EdgeBank "$@"
