# fathom tokenizer train: help, JSON, the same file on any number of threads, command lines that are refused.
. "$(dirname "$0")/../tap.sh"

awk 'BEGIN { for (i = 0; i < 60000; i++) print "line " i " of a text that says little, " i * 7 % 13 " times <|end|>" }' >"$work/text.txt"
train() { "$fathom" tokenizer train "$@"; }

train --help >"$work/help" 2>/dev/null
check "--help" test $? -eq 0
for option in data out vocab pattern special min-count threads json; do
    check "--help has --$option" grep -q -- "--$option " "$work/help"
done
"$fathom" tokenizer --help >"$work/help" 2>/dev/null
check "tokenizer --help names train" grep -q 'train' "$work/help"

train --data "$work/text.txt" --out "$work/one.json" --vocab 400 --threads 1 --json >"$work/json" 2>"$work/err"
check "train" test $? -eq 0
for key in vocab merges special_tokens files files_skipped bytes pieces distinct_pieces tokens bytes_per_token seconds; do
    check "--json has $key" test -n "$(field "$work/json" $key)"
done
check "--json is one line" test "$(wc -l <"$work/json")" -eq 1
check "vocabulary of 400" test "$(field "$work/json" vocab)/$(field "$work/json" merges)" = 400/143
check "the special token is the last" grep -A1 '"id": 399' "$work/one.json"
for threads in 2 5; do
    train --data "$work/text.txt" --out "$work/$threads.json" --vocab 400 --threads $threads >"$work/out" 2>"$work/err"
    check "$threads threads, the same file" cmp "$work/one.json" "$work/$threads.json"
done
check "the line on stdout names file and size" grep -q "5.json: vocabulary of 400: 256 bytes, 143 merges, 1 special" "$work/out"

mkdir "$work/folder"
head -3 "$work/text.txt" >"$work/folder/a.txt"
head -5 "$work/text.txt" | tail -2 >"$work/folder/b.txt"
train --data "$work/folder" --out "$work/few.json" --vocab 8192 --special "<|end|>" "<|pad|>" --json >"$work/json" 2>"$work/err"
check "a short text gives fewer" test "$(field "$work/json" vocab)" -lt 8192
check "and that is said" grep -q "not 8192: no other pair is there 2 times" "$work/err"
check "specials are not learnt" sh -c "! grep -E '\"[^\"]*(en|nd|<\|)[^\"]*\": [0-9]' '$work/few.json'"
check "both specials are there" test "$(grep -c '"special": true' "$work/few.json")" -eq 2
train --data "$work/folder" --out "$work/fewer.json" --min-count 11 --pattern llama3 --json >"$work/more" 2>/dev/null
check "--min-count 11 learns fewer" test "$(field "$work/more" merges)" -lt "$(field "$work/json" merges)"
check "--pattern llama3 is written" grep -q '"type": "Split"' "$work/fewer.json"

cp "$work/one.json" "$work/kept.json"
refuses "no word" 2 "train" "$fathom" tokenizer
refuses "an unknown word" 2 "learn" "$fathom" tokenizer learn
refuses "no --data" 2 "--data" train --out "$work/x.json"
refuses "no --out" 2 "--out" train --data "$work/text.txt"
refuses "--vocab too small" 2 "--vocab: 256" train --data "$work/text.txt" --out "$work/x.json" --vocab 256
refuses "--vocab too large" 2 "--vocab: 99999999" train --data "$work/text.txt" --out "$work/x.json" --vocab 99999999
refuses "--min-count 0" 2 "--min-count: 0" train --data "$work/text.txt" --out "$work/x.json" --min-count 0
refuses "--threads -1" 2 "--threads: -1" train --data "$work/text.txt" --out "$work/x.json" --threads -1
refuses "--pattern gpt9" 2 "--pattern: gpt9" train --data "$work/text.txt" --out "$work/x.json" --pattern gpt9
refuses "an empty special token" 2 "--special" train --data "$work/text.txt" --out "$work/x.json" --special ""
refuses "a special token of one character" 2 '--special: "é"' train --data "$work/text.txt" --out "$work/x.json" --special "é"
refuses "a special token twice" 2 "--special: <a>: given twice" train --data "$work/text.txt" --out "$work/x.json" --special "<a>" "<a>"
refuses "a special token that is no text" 2 "--special" train --data "$work/text.txt" --out "$work/x.json" --special "$(printf 'a\377b')"
long=$(awk 'BEGIN { for (i = 0; i < 512; i++) printf "x" }')
refuses "a special token that is too long" 2 "--special: value 2: 513 bytes" train --data "$work/text.txt" --out "$work/x.json" --special "<a>" "x$long"
train --data "$work/text.txt" --out "$work/long.json" --vocab 300 --special "$long" >"$work/out" 2>"$work/err"
check "one of 512 bytes is learnt" test $? -eq 0
check "and read back" "$fathom" tokenize --data "$work/text.txt" --tokenizer "$work/long.json" --out "$work/shards"
refuses "a file that is not there" 1 "$work/nothing.txt" train --data "$work/nothing.txt" --out "$work/x.json"
refuses "a folder in the file's place" 1 "$work/folder: is a folder" train --data "$work/text.txt" --out "$work/folder"
check "before the text is read" sh -c "! grep -q pieces '$work/err'"
check "which leaves nothing beside it" test ! -e "$work/folder.tmp"
refuses "a folder to write that is not there" 1 "$work/nowhere/x.json" train --data "$work/text.txt" --out "$work/nowhere/x.json"
: >"$work/empty.txt"
refuses "no text" 1 "$work/empty.txt: no text" train --data "$work/empty.txt" --out "$work/kept.json"
check "what was there is left" cmp "$work/one.json" "$work/kept.json"
check "nothing was written" test ! -e "$work/x.json"
finish
