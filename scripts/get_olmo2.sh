#!/usr/bin/env bash
# scripts/get_olmo2.sh SIZE[-SFT|-DPO|-Instruct|-RM] [DIR]: downloads a released OLMo 2 from Hugging Face
#   SIZE   1B, 7B, 13B or 32B: the base model; with an ending, what post-training made of it
#   DIR    where it goes (models/NAME in this project)
# An interrupted download continues when the same command is given again. Sizes and checksums are verified
# before a file gets its name, and config.json comes last: a directory that has it is complete.
# HF_ENDPOINT names another server than https://huggingface.co, HF_TOKEN an access token.
# Needs curl and Python 3.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"

# ---------------------------------------------------------------------------------------------
# the command line

case ${1:-} in
    -h | --help)
        sed -n 's/^# \{0,1\}//; 2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d'
        exit 0
        ;;
esac
size=${1:-}
stage=${size#"${size%%-*}"}
case ${size%%-*} in
    1B) name=OLMo-2-0425-1B$stage ;;
    7B) name=OLMo-2-1124-7B$stage ;;
    13B) name=OLMo-2-1124-13B$stage ;;
    32B) name=OLMo-2-0325-32B$stage ;;
    *) name='' ;;
esac
case $stage in '' | -SFT | -DPO | -Instruct | -RM) ;; *) name='' ;; esac
if [ -z "$name" ] || [ $# -gt 2 ]; then
    complain "expected SIZE [DIR], where SIZE is 1B, 7B, 13B or 32B," \
        "optionally followed by -SFT, -DPO, -Instruct or -RM"
    exit 2
fi
for tool in curl python3; do
    if ! have "$tool"; then
        complain "$tool is missing: install it, then run this again"
        exit 1
    fi
done
dir=${2:-$root/models/$name}
dir=${dir%/}
server=${HF_ENDPOINT:-https://huggingface.co}
server=${server%/}
again=$(printf '%q ' "$0" "$@")
again=${again% }

# ---------------------------------------------------------------------------------------------
# one request

# The token travels through a file descriptor: other users could read it on the command line.
fetch() { # CURL ARGUMENTS...
    curl --location --connect-timeout 30 --config <(
        [ -z "${HF_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$HF_TOKEN"
    ) "$@"
}

# give_up URL HTTP-CODE CURL-CODE: says what went wrong, and what to do
give_up() {
    local url=$1 http=$2 code=$3
    case $http in
        401 | 403)
            complain "$url: HTTP $http: there is no such model, or it needs an access token in HF_TOKEN" ;;
        404) complain "$url: HTTP 404: the server has no such model or file" ;;
        429) complain "$url: HTTP 429: too many requests; wait some minutes, then run $again" ;;
        4?? | 5??) complain "$url: HTTP $http from the server; run $again later" ;;
        *)
            case $code in
                5 | 6 | 7 | 28 | 35 | 52 | 55 | 56)
                    complain "$url: the server cannot be reached (curl says $code);" \
                        "check the network, then run $again" ;;
                23) complain "$dir: cannot be written: is its disk full? What is there is kept for $again" ;;
                *) complain "$url: curl ended with code $code; what is there is kept for $again" ;;
            esac
            ;;
    esac
    exit 1
}

# ---------------------------------------------------------------------------------------------
# the list of files: a line for each, SIZE KIND CHECKSUM NAME. KIND is sha256, or git for small files, whose
# checksum is Git's.

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
stop() {
    printf '\n' >&2
    complain "interrupted; what was downloaded is kept, and this continues: $again"
    exit 130
}
trap stop INT TERM

url="$server/api/models/allenai/$name?blobs=true"
http=$(fetch --silent --max-time 120 --output "$scratch/list.json" --write-out '%{http_code}' "$url") ||
    give_up "$url" "" $?
[ "$http" = 200 ] || give_up "$url" "$http" 0
if ! revision=$(python3 - "$scratch/list.json" "$scratch/list" 2>"$scratch/why" <<'END'
import json, re, sys

WANTED = re.compile(r"config\.json|generation_config\.json|tokenizer\.json|tokenizer_config\.json"
                    r"|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt"
                    r"|chat_template\.(jinja|json)|model(-\d+-of-\d+)?\.safetensors"
                    r"|model\.safetensors\.index\.json")
with open(sys.argv[1], encoding="utf-8") as file:
    answer = json.load(file)
lines = []
for entry in answer["siblings"]:
    name, large = entry["rfilename"], entry.get("lfs")
    if not WANTED.fullmatch(name):
        continue
    kind, checksum = ("sha256", large["sha256"]) if large else ("git", entry["blobId"])
    if not re.fullmatch(r"[0-9a-f]{40}([0-9a-f]{24})?", checksum):
        raise ValueError(f"{name} has the checksum {checksum!r}")
    lines.append((name == "config.json", int(entry["size"]), kind, checksum, name))
names = {line[-1] for line in lines}
if not {"config.json", "tokenizer.json"} <= names or not any(name.endswith(".safetensors") for name in names):
    raise ValueError("it has no config.json, tokenizer.json or .safetensors")
with open(sys.argv[2], "w") as file:
    for line in sorted(lines):  # config.json last
        print(*line[1:], file=file)
print(answer["sha"] if re.fullmatch(r"[0-9a-f]{40}", str(answer.get("sha"))) else "main")
END
); then
    complain "$url: its answer is not a list of a model's files ($(tail -n 1 "$scratch/why"))"
    exit 1
fi

# ---------------------------------------------------------------------------------------------
# what is there already

bytes_of() { if [ -f "$1" ]; then wc -c <"$1" | tr -d ' '; else echo 0; fi; }

# checksum_of BITS: of standard input
checksum_of() { if have "sha$1sum"; then "sha$1sum"; else shasum -a "$1"; fi | cut -d ' ' -f 1; }

# verify FILE SIZE KIND CHECKSUM: whether that is the file. Git puts a header before what it sums.
verify() {
    [ -f "$1" ] && [ "$(bytes_of "$1")" -eq "$2" ] || return 1
    case $3 in
        sha256) [ "$(checksum_of 256 <"$1")" = "$4" ] ;;
        *) [ "$({ printf 'blob %d\0' "$2" && cat "$1"; } | checksum_of 1)" = "$4" ] ;;
    esac
}

in_words() {
    awk -v n="$1" 'BEGIN { if (n < 1e7) { printf "%.1f kB", n / 1e3 } else { printf "%.2f GB", n / 1e9 } }'
}

# A file on its way has its checksum in its name, so that files of two revisions never mix.
partial_name() { printf '%s/.partial-%s-%s' "$dir" "${1:0:16}" "$2"; }

if ! mkdir -p "$dir"; then
    complain "$dir: cannot be created; give another directory: scripts/get_olmo2.sh $size DIR"
    exit 1
fi
# Two downloads into one directory would append to the same files. The lock is on the directory itself and goes
# with the last process that has it open.
exec 9<"$dir"
if ! python3 - <<'END'; then
import fcntl, sys

try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(1)
except OSError:
    pass  # a file system without locks
END
    complain "$dir: another download into it is running; wait for it, or give another directory"
    exit 1
fi
needed=0 files=0
while read -r bytes kind checksum file; do
    if [ -e "$dir/$file" ]; then
        if verify "$dir/$file" "$bytes" "$kind" "$checksum"; then continue; fi
        complain "$dir/$file: is there, and differs from the released one;" \
            "remove it, or give another directory"
        exit 1
    fi
    printf '%s %s %s %s\n' "$bytes" "$kind" "$checksum" "$file" >>"$scratch/missing"
    files=$((files + 1)) needed=$((needed + bytes - $(bytes_of "$(partial_name "$checksum" "$file")")))
done <"$scratch/list"

next_command() {
    local shown
    shown=$(printf '%q' "$(from_root "$dir")")
    case $stage in
        -RM) say "$dir is complete. A reward model scores texts; train_olmo2 does not load it." ;;
        '') say "next:  make && ./train_olmo2 generate --load $shown --prompt 'The sky is blue because'" ;;
        *) say "next:  make && ./train_olmo2 chat --load $shown" ;;
    esac
}
if [ $files -eq 0 ]; then
    say "$dir: all files are there, with the right checksums"
    next_command
    exit 0
fi

free=$(df -Pk "$dir" | awk 'NR == 2 { printf "%.0f", $4 * 1024 }')
say "allenai/$name: $(in_words "$needed") to download into $dir, which has $(in_words "$free") free"
if [ "$needed" -gt "$free" ]; then
    complain "$dir: the disk has $(in_words "$free") free, the download needs $(in_words "$needed");" \
        "give a directory on another disk"
    exit 1
fi

# ---------------------------------------------------------------------------------------------
# the download

# download FILE BYTES PARTIAL: continues where PARTIAL ends. Connections that break are taken up again as long
# as each brings something.
download() {
    local file=$1 bytes=$2 partial=$3 url http code before failures=0
    local look=(--silent)
    [ ! -t 2 ] || look=(--progress-bar)
    url="$server/allenai/$name/resolve/$revision/$file"
    while before=$(bytes_of "$partial") && [ "$before" -lt "$bytes" ]; do
        code=0
        http=$(fetch "${look[@]}" --fail --speed-limit 1 --speed-time 60 --continue-at "$before" \
            --output "$partial" --write-out '%{http_code}' "$url") || code=$?
        [ $code -ne 0 ] || break
        case $code in
            22) case $http in 5??) ;; *) give_up "$url" "$http" $code ;; esac ;;
            23) give_up "$url" "" $code ;;
            33) rm -f "$partial" ;; # the server cannot continue: from the beginning
        esac
        if [ "$(bytes_of "$partial")" -gt "$before" ]; then failures=0; else failures=$((failures + 1)); fi
        [ $failures -lt 4 ] || give_up "$url" "$([ $code -ne 22 ] || echo "$http")" $code
        sleep "$failures"
    done
}

while read -r bytes kind checksum file; do
    partial=$(partial_name "$checksum" "$file")
    say "$file, $(in_words "$bytes")"
    if [ "$bytes" -eq 0 ]; then : >"$partial"; fi
    download "$file" "$bytes" "$partial"
    if ! verify "$partial" "$bytes" "$kind" "$checksum"; then
        found=$(bytes_of "$partial")
        rm -f "$partial"
        complain "$file: what arrived ($found bytes) has another checksum than the released file" \
            "($bytes bytes, $kind $checksum), and was removed; run $again"
        exit 1
    fi
done <"$scratch/missing"
while read -r bytes kind checksum file; do
    mv -n "$(partial_name "$checksum" "$file")" "$dir/$file"
done <"$scratch/missing"
rm -f "$dir"/.partial-*
say "$dir: complete, every checksum verified"
next_command
