#!/bin/sh
# sh examples/two_tower.sh OUT [DATASET | --from MIRROR] [< QUERIES]
#
# From a collection to a searchable index: pull MS MARCO's passages (or take a dataset folder), check them, train two
# towers, encode, index, answer the queries of standard input, measure against three baselines, compare. Stop it at any
# time: the same command goes on, and does nothing twice. Settings are variables:
#   RECIPE=two_tower_bag                 another recipe (two_tower_rnn)
#   SETTINGS="stages.1.epochs=4 seed=1"  of the recipe
#   LIMIT=1000                           so many queries of MS MARCO, and only the passages that they name
#   SPLIT=dev                            what is measured (test where there is one, else dev)
set -eu
[ $# -gt 0 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
below() { case $1 in -*) printf './%s\n' "$1" ;; *) printf '%s\n' "$1" ;; esac; } # a path that is no option
out=$(below "$1") recipe=${RECIPE:-two_tower_rnn}
run=$out/$recipe
mkdir -p "$out"

measured() { # run a command; add its name, minutes and peak memory in GiB to the costs
    python3 -c '
import os, resource, signal, subprocess, sys, time
signal.signal(signal.SIGINT, lambda *_: None)  # the command ends by itself, and in order
start, code = time.time(), subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
name = " ".join(map(os.path.basename, sys.argv[3:5]))
print(f"{name:<28}{(time.time() - start) / 60:9.2f}{peak:9.2f}", file=open(sys.argv[1], "a"))
sys.exit(code if code >= 0 else 128 - code)' "$run-cost.txt" "$@"
}
once() { # once RESULT COMMAND...: unless the result is there
    result=$1
    shift
    [ -e "$result" ] || measured "$@"
}

case ${2-} in
'' | --from)
    data=$out/msmarco
    measured lode data pull msmarco --out "$data" ${2:+--from "$3"} ${LIMIT:+--limit "$LIMIT"} ;;
*) data=$(below "$2") ;;
esac
if [ -e "$run/manifest.json" ]; then again=--resume; else again='' && measured lode data check "$data"; fi

# What is measured may not choose the weights. There is no split called held-out: some training queries take its place.
# Nor is there one called none: training would measure by itself what is measured below.
if [ -e "$data/qrels/test.tsv" ]; then split=${SPLIT:-test}; else split=${SPLIT:-dev}; fi
[ -e "$data/qrels/$split.tsv" ] || { echo "error: $data has no split $split" >&2; exit 2; }
if [ "$split" = dev ]; then validation=held-out; else validation=dev; fi
measured lode train "$recipe" "data=$data" data.validation=$validation data.hold_out=.02 evaluation.split=none \
    ${SETTINGS-} --out "$run" $again

once "$run-vectors/manifest.json" lode encode "$run" "$data" --out "$run-vectors"
once "$run-index/manifest.json" lode index build "$run" "$data" --index hnsw --out "$run-index"
[ -t 0 ] || cat > "$run-queries.txt"
[ ! -s "$run-queries.txt" ] || lode search "$run-index" -k 10 --json < "$run-queries.txt" > "$run-answers.json"

for system in random bm25 "$run/untrained" "$run"; do
    result=$run-evaluations/$(basename "$system").json
    once "$result" lode evaluate "$system" "$data" --split "$split" --out "$result"
done
lode compare "$run-evaluations"/*.json --baseline "$run-evaluations/bm25.json" --report "$run-report.html"
printf '\n%-28s%9s%9s\n' command minutes GiB && cat "$run-cost.txt"
awk '{ t += $(NF - 1); if ($NF > m) m = $NF } END { printf "%-28s%9.2f%9.2f\n", "all; the most", t, m }' "$run-cost.txt"
echo "search it: lode search $run-index" # with no query, it asks for one after the other
