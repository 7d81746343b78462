# shellcheck shell=bash
# small_run.sh: what demo.sh and train_text.sh share: a folder that disappears if nothing is trained, and a
# number of training steps that fits the speed of this machine. Sourced after setup.sh.

# ---------------------------------------------------------------------------------------------
# the command line

# need_number FLAG VALUE: ends the script unless the value is a positive number
need_number() {
    if ! [[ $2 =~ ^[0-9]+([.][0-9]+)?$ && $2 =~ [1-9] ]]; then
        complain "$1 $2: expected a positive number"
        exit 2
    fi
}

# need_count FLAG VALUE: ends the script unless the value is a positive whole number
need_count() {
    if ! [[ $2 =~ ^[1-9][0-9]{0,8}$ ]]; then
        complain "$1 $2: expected a whole number from 1 to 999999999"
        exit 2
    fi
}

# ---------------------------------------------------------------------------------------------
# the folder

# holds_only_downloads DIR: whether DIR is what an interrupted download left
holds_only_downloads() {
    [ -d "$1/data/downloads" ] && [ "$(ls -A "$1")" = data ] && [ "$(ls -A "$1/data")" = downloads ]
}

# begin_folder DIR: creates the folder DIR, which must not exist yet. If the script ends before training
# begins, it removes DIR again, except for data/downloads, from which the next call with the same DIR
# continues.
begin_folder() {
    holds_only_downloads "$1" || refuse_existing "$1"
    mkdir -p "$1" || exit 1
    folder=$1
    trap end_folder EXIT
}

end_folder() {
    local code=$?
    rm -rf "$folder/timing" "$folder/timing.txt"
    if [ ! -f "$folder/model/log.jsonl" ]; then
        (cd "$folder" && find . -mindepth 1 -depth ! -path './data/downloads*' -delete) 2>/dev/null || true
        rmdir "$folder/data/downloads" "$folder/data" "$folder" 2>/dev/null || true
    fi
    return $code
}

# ---------------------------------------------------------------------------------------------
# the number of steps

# step_milliseconds FLAGS...: how long a training step with these flags of train takes on this machine: the
# median of a short run in $folder/timing, without its first steps, which are slower.
step_milliseconds() {
    local run=$folder/timing speeds
    if ! ./train_olmo2 train "$@" --out "$run" --steps 13 --warmup-steps 1 >"$run.txt" 2>&1; then
        cat "$run.txt" >&2
        return 1
    fi
    speeds=$(sed -nE 's/.*"type": "step".*"tokens": ([0-9]+),.*"tokens_per_second": ([0-9.e+]+).*/\1 \2/p' \
        "$run/log.jsonl" | LC_ALL=C awk 'NR > 4 { print (($1 - before) / $2) * 1000 } { before = $1 }')
    if [ "$(wc -l <<<"$speeds")" -lt 9 ]; then # Ctrl-C has ended the run early
        complain "the timing was interrupted"
        return 130
    fi
    LC_ALL=C sort -g <<<"$speeds" | sed -n 5p
}

# duration SECONDS: in words
duration() {
    LC_ALL=C awk -v s="$1" 'BEGIN {
        if (s < 100) { n = int(s + 0.5); unit = "second" }
        else if (s < 6000) { n = int(s / 60 + 0.5); unit = "minute" }
        else { n = int(s / 360 + 0.5) / 10; unit = "hour" }
        print n " " unit (n == 1 ? "" : "s")
    }'
}

# plan_steps MINUTES MILLISECONDS LEAST MOST: sets `steps` to the number of steps that fit into the time, at
# least LEAST and at most MOST, and says what is planned. Validation and samples get a twentieth of the time.
plan_steps() {
    local rate fit time
    rate=$(LC_ALL=C awk -v ms="$2" 'BEGIN { printf "%.*f", (ms < 100 ? 0 : ms < 1000 ? 1 : 2), 1000 / ms }')
    fit=$(LC_ALL=C awk -v minutes="$1" -v ms="$2" 'BEGIN { printf "%.0f", int(minutes * 57000 / ms) }')
    steps=$fit
    if [ "$fit" -gt "$4" ]; then steps=$4; fi
    if [ "$steps" -lt "$3" ]; then steps=$3; fi
    time=$(duration "$(LC_ALL=C awk -v steps="$steps" -v ms="$2" 'BEGIN { print steps * ms / 950 }')")
    if [ "$steps" -gt "$fit" ]; then
        say "warning: this machine does $rate steps/s, so only $fit steps fit into $(minutes "$1")."
        say "         Fewer than $steps teach too little: planned $steps steps, about $time"
    elif [ "$steps" -lt "$fit" ]; then
        say "this machine does $rate steps/s: $fit steps fit into $(minutes "$1"), but $steps are enough for"
        say "this text: planned $steps steps, about $time"
    else
        say "this machine does $rate steps/s: planned $steps steps, about $time"
    fi
}

minutes() { duration "$(LC_ALL=C awk -v minutes="$1" 'BEGIN { print minutes * 60 }')"; }
