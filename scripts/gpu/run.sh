#!/usr/bin/env bash
# Tests, benchmarks and a profile on a machine with a GPU, in the order of their value, all results in one folder.
#
#   scripts/gpu/run.sh                                   # everything, at most 8 minutes
#   scripts/gpu/run.sh --out results --parts "tests profile"
#   scripts/gpu/run.sh --device cpu --tiny               # the same without a GPU, to see that it works
#
#   --device cuda|cpu       default: cuda
#   --tiny                  tiny models and few rows
#   --out FOLDER            default: outputs/gpu. summary.md and results.json have everything; PART.log what it printed
#   --parts "A B"           of environment, tests, train, evaluate, profile; default: all
#   --seconds N             for all parts together, default 480. What a part does not need goes to the next one
#   --limit PART=SECONDS    for one part; repeat it for others
#   --pack FOLDER           what scripts/gpu/pack.sh made, or none; default: build/gpu if it is there
#   --strict                exit with 1 if a part failed or ran into its limit; by default the exit code is 0
#
# PYTHON names the interpreter; default: .venv/bin/python, else python3. Nothing is installed into it, and nothing is
# downloaded. The package itself need not be installed.
set -uo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
device=cuda tiny="" out=$root/outputs/gpu parts="environment tests train evaluate profile" seconds=480 strict=""
pack=$root/build/gpu capped=""
declare -A limit=([environment]=20 [tests]=110 [train]=210 [evaluate]=80 [profile]=50)

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '/^set /d'; }
mistake() { echo "run.sh: $1 See scripts/gpu/run.sh --help." >&2; exit 2; }

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --tiny) tiny=--tiny; shift; continue ;;
        --strict) strict=1; shift; continue ;;
        --device | --out | --parts | --seconds | --limit | --pack) ;;
        *) mistake "unknown option $1." ;;
    esac
    [ $# -gt 1 ] || mistake "$1 needs a value."
    case $1 in
        --device) device=$2; [[ $2 == cuda || $2 == cpu ]] || mistake "--device is cuda or cpu, not $2." ;;
        --out) out=$2 ;;
        --parts) parts=$2 ;;
        --seconds) seconds=$2; [[ $2 =~ ^[0-9]+$ ]] || mistake "--seconds is a whole number, not $2." ;;
        --limit)
            [[ $2 =~ ^([a-z]+)=([0-9]+)$ && -v limit[${BASH_REMATCH[1]}] ]] ||
                mistake "--limit is PART=SECONDS with a part of ${!limit[*]}, not $2."
            limit[${BASH_REMATCH[1]}]=${BASH_REMATCH[2]}
            capped+=" ${BASH_REMATCH[1]} "
            ;;
        --pack)
            pack=$2
            if [ "$pack" != none ]; then
                [ -f "$pack/install.sh" ] || mistake "--pack: there is no $pack/install.sh."
                pack=$(cd "$pack" && pwd)
            fi
            ;;
    esac
    shift 2
done
for part in $parts; do [[ -v limit[$part] ]] || mistake "--parts: $part is none of ${!limit[*]}."; done

python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ -x "$root/.venv/bin/python" ] && python=$root/.venv/bin/python
fi
command -v "$python" > /dev/null || mistake "there is no Python at $python; set PYTHON."
[[ $python != */* ]] || python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
for part in "${!limit[@]}"; do rm -f "$out/$part".{log,json,md}; done
rm -f "$out"/{results.json,summary.md,trace.json.gz}
work=$(mktemp -d) child=""
# A part has a process group of its own, which Ctrl-C does not reach.
stop() { [ -z "$child" ] || { kill "$child" && wait "$child"; } 2> /dev/null; exit "$1"; }
trap 'rm -rf "$work"' EXIT
trap 'stop 130' INT
trap 'stop 143' TERM
start=$(date +%s)
cd "$root" || exit 2

# No model is downloaded, and caches and temporary files are removed at the end.
export HF_HUB_OFFLINE=1 FINETUNE_CACHE=$work/cache PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export FINETUNE_TEST_DEVICE=$device TMPDIR=$work

tokenizer=()
if [ -f "$pack/install.sh" ]; then
    echo "installing what is in $pack"
    PYTHON=$python "$pack/install.sh" "$work/site" || echo "run.sh: not everything in $pack could be installed." >&2
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
    [ -f "$pack/model/tokenizer.json" ] && tokenizer=(--tokenizer "$pack/model")
    [ -f "$pack/model/model.safetensors" ] && export FINETUNE_TEST_MODEL=$pack/model
fi
if ! "$python" -c "import finetune.conf" 2> "$work/import"; then
    # Not installed: the sources with conf/ as their subpackage, as setup.cfg declares.
    mkdir -p "$work/site"
    cp -r "$root/src/finetune" "$work/site/finetune"
    cp -r "$root/conf" "$work/site/finetune/conf"
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
fi

command_of() { # prints the command of a part, one word per line; $2 is its limit
    local bench=$root/scripts/bench left=$(($2 > 15 ? $2 - 10 : $2))
    local measure=(--device "$device" --out "$out" "${tokenizer[@]}")
    [ -n "$tiny" ] && measure+=("$tiny")
    case $1 in
        environment) printf '%s\n' "$python" "$root/scripts/gpu/environment.py" --device "$device" --out "$out" ;;
        tests) # by value: what takes longest comes last
            printf '%s\n' "$python" -m pytest -m gpu -p no:cacheprovider -vv --durations 5 \
                tests/gpu/test_{step,runs,search,minilm,compile}.py ;;
        train) printf '%s\n' "$python" "$bench/train.py" "${measure[@]}" --seconds "$left" ;;
        evaluate) printf '%s\n' "$python" "$bench/embed_device.py" "${measure[@]}" --seconds "$left" ;;
        profile) printf '%s\n' "$python" "$bench/step_profile.py" "${measure[@]}" ;;
    esac
}

limit_of() { # prints the seconds of a part: those that the parts after it do not need, or the limit that was asked for
    local left=$((seconds - ($(date +%s) - start))) part after=""
    for part in $parts; do
        [ -n "$after" ] && left=$((left - limit[$part]))
        [ "$part" = "$1" ] && after=1
    done
    if [[ $capped == *" $1 "* ]] || [ "$left" -lt "${limit[$1]}" ]; then left=${limit[$1]}; fi
    local total=$((seconds - ($(date +%s) - start)))
    [ "$left" -gt "$total" ] && left=$total
    echo "$left"
}

failed=""
for part in $parts; do
    allowed=$(limit_of "$part")
    began=$(date +%s)
    if [ "$allowed" -lt 1 ]; then
        state="not started" status=0
    else
        mapfile -t command < <(command_of "$part" "$allowed")
        echo "$part: at most $allowed s"
        timeout --kill-after=5 "$allowed" "${command[@]}" > "$out/$part.log" 2>&1 &
        child=$!
        wait "$child"
        status=$? child=""
        case $status in 0) state=ok ;; 124 | 137) state=timeout ;; *) state=failed ;; esac
    fi
    [ "$state" = ok ] || failed=1
    "$python" "$root/scripts/gpu/summary.py" "$out" "$part" "$state" "$status" "$(($(date +%s) - began))" "$allowed"
done
cat "$out/summary.md"
[ -z "$strict" ] || [ -z "$failed" ]
