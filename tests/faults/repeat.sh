#!/usr/bin/env bash
# Runs tests again and again until one run fails: tests/faults/repeat.sh [TIMES] [--busy] [pytest arguments…]; --busy keeps every core at work.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
times=50
if [[ ${1:-} =~ ^[0-9]+$ ]]; then times=$1; shift; fi
burners=()
stop() { if ((${#burners[@]})); then kill "${burners[@]}" 2>/dev/null || true; fi; }
trap stop EXIT
if [[ ${1:-} == --busy ]]; then
    shift
    for _ in $(seq "$(nproc)"); do
        nice "$python" -c "while True: sum(range(20_000))" &
        burners+=($!)
    done
fi
if (($# == 0)); then set -- tests/faults; fi
for run in $(seq "$times"); do
    if ! output=$("$python" -m pytest -q -p no:cacheprovider "$@" 2>&1); then
        printf '%s\n' "$output"
        echo "run $run of $times failed" >&2
        exit 1
    fi
    printf 'run %s of %s: %s\n' "$run" "$times" "$(tail -n 1 <<<"$output")"
done
