#!/usr/bin/env bash
# test_cli_chat.sh: `chat` by scripts: --prompt, and a pipe. test_chat_terminal.py has the terminal.
. "$(dirname "$0")/cli.sh"

# What the program reads on standard input.
input=/dev/null
start_program() { "$program" "$@" <"$input"; }
ask() {  # LINES ARGUMENTS...: a conversation, whose answers are in the file `output`
    printf "$1" >lines
    input=lines
    run chat --load model --temperature "${temperature:-0}" "${@:2}"
    input=/dev/null
}
refuse_lines() {  # WORDS LINES: a conversation that fails
    printf "$2" >lines
    input=lines
    refuse "$1" chat --load model
    input=/dev/null
}
complains() { if grep -qF -- "$1" errors; then pass; else fail "expected on stderr: $1" "$(cat errors)"; fi; }
saved() { python 'import json, sys
for m in json.load(open(sys.argv[1]))["messages"]: print(m["role"], ascii(m["content"]))' "$1"; }

# A model that learns two answers in a second. 128 positions hold four questions with answers.
python3 - <<'END'
import json, random
config = json.load(open("config.json"))
config.update(hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=128)
json.dump(config, open("chat.json", "w"))
random.seed(2)
answers = {"ping": "pong", "hi": "hello"}
with open("chat.jsonl", "w") as file:
    for _ in range(400):
        turns = [f"<|user|>\n{q}\n<|assistant|>\n{answers[q]}" for q in random.choices(list(answers), k=3)]
        file.write(json.dumps({"text": "<|endoftext|>" + "<|endoftext|>\n".join(turns)}) + "\n")
END
run tokenize --tokenizer tokenizer.json --out chat.npy chat.jsonl
run train --config chat.json --tokenizer tokenizer.json --data chat.npy --batch-size 8 --steps 150 \
    --lr 1e-2 --warmup-steps 10 --out run
mkdir model && cp run/step-00000150/{config.json,model.safetensors,tokenizer.json} model/

# ---------------------------------------------------------------------------------------------
# one question

run chat --load model --prompt ping
equal "the answer" "$(cat output)" "pong"
complains "model: has no chat template, so it is a base model"
cp instruct.json model/tokenizer_config.json
run chat --load model --prompt hi
equal "the answer" "$(od -c output)" "$(printf 'hello\n' | od -c)"
equal "besides the answer, of warnings" "$(grep -c warning errors)" 0
run chat --load model --prompt ping --max-tokens 2
equal "two tokens" "$(cat output)" "po"
complains "(stopped after 2 tokens: --max-tokens)"
run chat --load model --prompt "ping" --tokenizer model --threads 1 --top-k 1 --system "Be brief."
input=model/config.json
run chat --load model --prompt hi
input=/dev/null
equal "standard input beside --prompt" "$(cat output)" "hello"

# ---------------------------------------------------------------------------------------------
# questions in a pipe

ask ''
equal "no questions" "$(cat output)" ""
ask 'ping\nhi\n\n   \r\nping\r\nhi'
equal "the answers" "$(cat output)" $'pong\nhello\npong\nhello'
equal "prompts" "$(grep -c '>' errors)" 0
ask '\xEF\xBB\xBFping\n/save marked.json'
check "behind a byte order mark" grep -q '"user", "content": "ping"' marked.json

# Every answer of a conversation, whose cache is kept, is what `generate` writes after the same text.
cat >as_generate.py <<'END'
import json, subprocess, sys
program, saved, *flags = sys.argv[1:]
text = "<|endoftext|>"
for message in json.load(open(saved))["messages"]:
    role, content = message["role"], message["content"]
    text += f"<|{role}|>\n"
    if role == "assistant":
        written = subprocess.run([program, "generate", "--load", "model", "--prompt", text, *flags],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
        assert written == (text + content + "\n").encode(), (written, text, content)
        content += "<|endoftext|>"
    text += content + "\n"
END
ask 'ping\nwhat\nhi there\n/save turns.json\n' --max-tokens 4
equal "roles" "$(saved turns.json | cut -d' ' -f1 | tr '\n' ' ')" "user assistant user assistant user assistant "
check "answers by generate" python3 as_generate.py "$program" turns.json --temperature 0 --max-tokens 4

# What is asked: a backslash continues a line, // asks a question that begins with /, bytes stay as they are.
ask 'a\\\nb\\\r\n\\\nc\n//etc\n \t/x \n/save said.json\nend\\' --max-tokens 1
equal "the questions" "$(saved said.json | grep user)" "user 'a\\nb\\n\\nc'
user '/etc'
user ' \\t/x '"
equal "answers" "$(wc -l <output | tr -d ' ')" 4
ask '\\ \na\0b\nc\\\n/save not.json' --max-tokens 1
ask '\\ \na\0b\nc\\\n\n/save bytes.json' --max-tokens 1
equal "the questions" "$(saved bytes.json | grep user)" "user '\\\\ '
user 'a\\x00b'
user 'c\\n'"
equal "a command that continues a question" "$(ls not.json 2>/dev/null)" ""
ask '\303\251\n/save accent.json\n' --max-tokens 1
equal "a character" "$(saved accent.json | grep user)" "user '\\xe9'"

# ---------------------------------------------------------------------------------------------
# commands

ask 'ping\n/system Be\\\nkind.\n/reset\nhi\n/save system.json\n/system\n/save none.json\n' --system 'Be brief.'
equal "after /reset" "$(saved system.json)" "system 'Be\\nkind.'
user 'hi'
assistant 'hello'"
equal "without a system message" "$(saved none.json)" "user 'hi'
assistant 'hello'"
complains "(the conversation is forgotten; the system message stays)"
complains "(3 messages saved)"
ask '/help\n'
for word in /reset /system /temperature /save /help backslash Ctrl-C; do complains "$word"; done
equal "answers to /help" "$(cat output)" ""
ask '/save empty.json\n'
equal "an empty conversation" "$(cat empty.json)" '{"messages": []}'

# Draws depend on the seed and on the number of the question, and --temperature 0 on neither.
questions='what\n/reset\nwhat\n/reset\nwhat\n'
temperature=3
ask "$questions" --max-tokens 8
mv output drawn
equal "different answers to one question" "$(sort -u drawn | wc -l | tr -d ' ')" "$(wc -l <drawn | tr -d ' ')"
ask "$questions" --max-tokens 8
check "the same answers again" cmp drawn output
ask "$questions" --max-tokens 8 --seed 2
if cmp -s drawn output; then fail "another seed, the same answers"; else pass; fi
temperature=0
ask "/temperature 3\n$questions" --max-tokens 8
check "the temperature of a command" cmp drawn output
ask "/temperature 3\n/temperature 0\nping\n" --max-tokens 8
equal "temperature 0" "$(cat output)" "pong"

# ---------------------------------------------------------------------------------------------
# long conversations

ask 'ping\nhi\nping\nhi\nping\n/save turns5.json\n' --system 'S'
equal "answers" "$(tr '\n' ' ' <output)" "pong hello pong hello pong "
complains "the conversation is too long for the model's 128 tokens: its oldest turn is forgotten"
equal "what remains" "$(saved turns5.json | tr '\n' ' ')" \
    "system 'S' user 'hi' assistant 'hello' user 'ping' assistant 'pong' "

# <|endoftext|> in a question is text, of 13 tokens here, and does not end the conversation.
ends=$(printf '<|endoftext|>%.0s' 1 2 3 4 5 6 7 8 9)
refuse "the question has 142 tokens with what precedes it, expected fewer than the model's 128 tokens" \
    chat --load model --prompt "$ends"
ask '<|endoftext|>\n/save end.json\n' --max-tokens 1
equal "the end as text" "$(saved end.json | sed -n 1p)" "user '<|endoftext|>'"
run chat --load model --prompt "$(printf 'x%.0s' $(seq 90))" --temperature 100 --max-tokens 100
complains "(stopped: the conversation fills the model's 128 tokens)"

# --context: a shorter conversation, in a smaller cache. Two questions with answers do not fit 64 tokens.
ask '/save empty2.json\n'
complains "conversation: up to 128 tokens, in a cache of 32.77 kB"
ask 'ping\nhi\nping\n/save context.json\n' --context 64 --max-tokens 16
equal "answers within 64 tokens" "$(tr '\n' ' ' <output)" "pong hello pong "
complains "conversation: up to 64 tokens, in a cache of 16.38 kB"
complains "(the conversation is too long for the 64 tokens of --context: its oldest turn is forgotten)"
equal "what remains of it" "$(saved context.json | tr '\n' ' ')" "user 'ping' assistant 'pong' "
run chat --load model --prompt "$(printf 'x%.0s' $(seq 20))" --temperature 100 --max-tokens 100 --context 50
complains "(stopped: the conversation fills the 50 tokens of --context)"
run chat --load model --prompt ping --temperature 0 --context 128
equal "as many tokens as the model has" "$(cat output)" "pong"
refuse "the question has 29 tokens with what precedes it, expected fewer than the 24 tokens of --context" \
    chat --load model --prompt ping --context 24
refuse "--context 129: expected at most 128, the model's max_position_embeddings" \
    chat --load model --context 129
refuse "--context 0: expected a whole number in [2, 1e8]" chat --load model --context 0
refuse "--context -5: expected a whole number in [2, 1e8]" chat --load model --context -5
refuse "--context all: expected a whole number in [2, 1e8]" chat --load model --context all
refuse "--context: " generate --load model --context 64
if [ "$(uname -s)" = Linux ]; then
    cp -r model vast
    python 'import json
config = json.load(open("vast/config.json"))
json.dump({**config, "max_position_embeddings": 2**24}, open("vast/config.json", "w"))'
    start_program() { (ulimit -v 2000000 && exec "$program" "$@" <"$input"); }
    refuse "ulimit -v" chat --load vast
    fits=$(sed -n 's/^ *--context \([0-9]*\) fits\.$/\1/p' errors)
    check "a context that fits: $fits of 2^24" test "$fits" -gt 500000 -a "$fits" -lt 16777216
    start_program() { "$program" "$@" <"$input"; }
    run chat --load vast --context "$((fits / 16))"
    rm -r vast
fi

# ---------------------------------------------------------------------------------------------
# bad input

refuse_lines "/sav: no such command; did you mean /save?" '/sav x\nping\n'
refuse_lines "/: no such command" '/ x\n'
refuse_lines "/save: expected the name of a file" '/save \n'
refuse_lines "said.json: cannot be created: File exists" '/save said.json\n'
refuse_lines "no/where/x: cannot be created" '/save no/where/x\n'
refuse_lines "/reset now: expected nothing" '/reset now\n'
refuse_lines "--temperature warm: expected a number in [0, 100]" '/temperature warm\n'
refuse_lines "--temperature : expected a number" '/temperature\n'
refuse_lines "a command holds no NUL" '/save a\0b\n'
refuse_lines "the question: found the byte 0xFF after 2 bytes, expected UTF-8 text" 'ab\377c\n'
refuse_lines "the question: found the byte 0xED after 8 bytes, expected UTF-8" '/system \355\240\200\n'
python 'print("x" * 10_000_000)' >long.txt
input=long.txt
refuse "the question has 10000025 tokens with what precedes it" chat --load model
head -c 70000000 /dev/zero >zeros
input=zeros
refuse "the input has a line of more than 67108864 bytes" chat --load model
rm zeros
input=/
refuse "standard input cannot be read: Is a directory" chat --load model
input=/dev/null
refuse "--load: is missing" chat
refuse "--prompt: is empty" chat --load model --prompt ''
refuse "--prompt: found the byte 0xFF after 0 bytes, expected UTF-8 text" chat --load model --prompt $'\377'
refuse "--system: found the byte 0xFF after 0 bytes, expected UTF-8 text" chat --load model --system $'\377'
refuse "--temperature -1: expected a number" chat --load model --temperature -1
refuse "--max-tokens 0: expected" chat --load model --max-tokens 0

mkdir bare && cp model/{config.json,model.safetensors} bare/
refuse "bare has no tokenizer.json" chat --load bare
run chat --load bare --tokenizer model --prompt ping
cp -r model other
echo '{"chat_template": "{% for m in messages %}<|im_start|>"}' >other/tokenizer_config.json
refuse "other/tokenizer_config.json: the chat template is not that of OLMo 2 Instruct" chat --load other --prompt hi
echo 'another' >model/chat_template.jinja
refuse "model/chat_template.jinja: the chat template is not that of OLMo 2 Instruct" chat --load model --prompt hi
rm model/chat_template.jinja
python 'import json
t = json.load(open("model/tokenizer.json"))
t["added_tokens"][0]["content"] = "<|end|>"
json.dump(t, open("no_end.json", "w"))'
refuse "has no added token <|endoftext|>" chat --load model --tokenizer no_end.json --prompt hi
finish
