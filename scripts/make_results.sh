#!/usr/bin/env bash
# Makes the figures of the README's results from real runs of the default model; JSON goes to results/.
#
# usage: scripts/make_results.sh PART... [--text FILE]
#   PART   quality      all presets, both protocols, on the text
#          second-text  the same on a text no one tuned on: the Jargon File, a Debian package
#          gpl-3        the same on the text of the GPL-3, which every Debian machine has
#          models       the adaptive presets on two models with large key biases, Qwen2.5-Coder-0.5B and 1.5B,
#                       with sinks of 8 bits and without any beside them
#          needle       depth by length up to 8192 tokens, the dense cache beside it
#          ablation     what each idea buys, on the text, both protocols
#          memory       cache and process memory against the context
#          speed        prefill and decode speed against the context, dense beside it
#          all          everything
#   --text FILE   for quality, models and ablation: the WikiText-2 test set as plain text, or any other
#
# Everything resumes: what is finished is not run again, what was interrupted goes on. Remove results/
# to start anew. Timings (memory, speed) want a machine with nothing else to do.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parts=()
text=
while (($#)); do
  case $1 in
    -h | --help) sed -n '2,/^source/{/^#/s/^# \{0,1\}//p}' "$0" && exit 0 ;;
    --text) text=${2:-} && shift ;;
    quality | second-text | gpl-3 | models | needle | ablation | memory | speed) parts+=("$1") ;;
    all) parts+=(quality second-text gpl-3 models needle ablation memory speed) ;;
    *) fail "unknown part $1 (quality, second-text, gpl-3, models, needle, ablation, memory, speed, all)" ;;
  esac
  shift
done
((${#parts[@]})) || fail "expected a part: quality, second-text, gpl-3, models, needle, ablation, memory, speed, all"

bin=build/release/bin
results=results
# What configs/presets has of the trellis comes after its older namesakes.
trellis=$(cd configs/presets && shopt -s nullglob && printf '%s ' *-trellis.json)
trellis=${trellis//.json/}
presets="quality balanced compact extreme seed $trellis"
depths="512 1024 2048 4096 7900" # tokens; the model has 8192 positions
[[ -x $bin/evaluate ]] || fail "no $bin/evaluate: run scripts/build.sh release"
[[ -f $RILLKV_MODEL_DIR/config.json ]] || fail "no default model: run scripts/make_default_model.sh"

need_text() {
  [[ -n $text ]] || fail "part $1 needs --text FILE, such as the WikiText-2 test set"
  [[ -r $text ]] || fail "cannot read $text"
}

# A public-domain book of prose (the Jargon File 4.4.7), from the package Debian has it in.
second_text() {
  local folder=build/texts
  if [[ ! -s $folder/jargon.txt ]]; then
    mkdir -p "$folder"
    (cd "$folder" && apt-get -qq download jargon-text >/dev/null &&
      dpkg-deb -x jargon-text_*.deb jargon) ||
      fail "cannot download the Debian package jargon-text: apt-get update may help"
    local file
    file=$(find "$folder/jargon" -name 'jargon*.txt*' -type f | sort | head -n 1)
    [[ -n $file ]] || fail "the package jargon-text holds no text"
    zcat -f "$file" | iconv -f utf-8 -t utf-8 -c >"$folder/jargon.tmp"
    mv "$folder/jargon.tmp" "$folder/jargon.txt"
  fi
}

finished() { [[ -s $1 ]] && ! grep -q '"complete": false' "$1"; }

# perplexity MODEL TEXT PRESET PROTOCOL JSON [ARGUMENT...]: one row.
perplexity() {
  if finished "$5"; then
    say "$5 is there"
  else
    show "$bin/evaluate" perplexity --model "$1" --text "$2" --dtype float32 --config "$3" \
      --protocol "$4" --json "$5" "${@:6}"
  fi
}

# presets_on TEXT FOLDER: bits against KL.
presets_on() {
  mkdir -p "$2"
  local protocol preset
  for protocol in stress prefill; do
    for preset in $presets; do
      perplexity "$RILLKV_MODEL_DIR" "$1" "$preset" "$protocol" "$2/$preset-$protocol.json"
    done
  done
  show python3 scripts/result_tables.py "$2"/*-stress.json "$2"/*-prefill.json
}

# prefills FOLDER NEW_TOKENS: one report a context; the text is cut by bytes, reports count tokens.
prefills() {
  second_text
  mkdir -p "$1"
  local tokens
  for tokens in $depths; do
    local json=$1/$tokens.json
    if finished "$json"; then
      say "$json is there"
    else
      # About 3.6 bytes a token; the exact number is in the report. iconv drops a character that the
      # cut went through, and fails because of it.
      head -c $((tokens * 36 / 10)) <(tail -c +20000 build/texts/jargon.txt) |
        iconv -f utf-8 -t utf-8 -c >build/texts/prompt.txt 2>/dev/null || true
      [[ -s build/texts/prompt.txt ]] || fail "no text of $tokens tokens in build/texts/jargon.txt"
      show "$bin/prefill" --model "$RILLKV_MODEL_DIR" --prompt-file build/texts/prompt.txt \
        --max-new-tokens "$2" --baseline --json "$json" --quiet >/dev/null
    fi
  done
  show python3 scripts/result_tables.py "$1"/*.json
}

for part in "${parts[@]}"; do
  say "results: $part"
  mkdir -p $results
  case $part in
    quality)
      need_text quality
      presets_on "$text" $results/quality
      ;;
    second-text)
      second_text
      presets_on build/texts/jargon.txt $results/second-text
      ;;
    gpl-3) presets_on /usr/share/common-licenses/GPL-3 $results/gpl-3 ;;
    models)
      need_text models
      for name in qwen2.5-coder-0.5b qwen2.5-coder-1.5b; do
        scripts/make_default_model.sh --model "$name"
        folder=$results/$name
        mkdir -p "$folder"
        for preset in balanced quality; do
          row=("models/$name" "$text" "$preset" stress)
          perplexity "${row[@]}" "$folder/$preset-stress.json"
          perplexity "${row[@]}" "$folder/$preset-without-sinks-stress.json" \
            --set attention_sink_size=0
          perplexity "${row[@]}" "$folder/$preset-sinks-of-8-bits-stress.json" \
            --set key_bits_sink_outlier=8 --set value_bits_sink_outlier=8
          perplexity "models/$name" "$text" "$preset" prefill "$folder/$preset-prefill.json"
        done
        for preset in compact extreme $trellis; do
          for protocol in stress prefill; do
            perplexity "models/$name" "$text" "$preset" $protocol "$folder/$preset-$protocol.json"
          done
        done
        show python3 scripts/result_tables.py "$folder"/*-stress.json "$folder"/*-prefill.json
      done
      ;;
    needle)
      finished $results/needle.json ||
        show "$bin/evaluate" needle --model "$RILLKV_MODEL_DIR" --chat none \
          --lengths 512,1024,2048,4096,8192 --depths 0,25,50,75,100 --samples 2 \
          --json $results/needle.json
      show python3 scripts/result_tables.py $results/needle.json
      ;;
    ablation)
      need_text ablation
      for protocol in stress prefill; do
        finished $results/ablation-$protocol.json ||
          show "$bin/ablate" --model "$RILLKV_MODEL_DIR" --text "$text" --dtype float32 \
            --protocol $protocol --grid configs/experiments/ablation.json \
            --json $results/ablation-$protocol.json
      done
      show python3 scripts/result_tables.py $results/ablation-stress.json \
        $results/ablation-prefill.json
      ;;
    memory) prefills $results/memory 2 ;;
    speed) prefills $results/speed 65 ;;
  esac
done
