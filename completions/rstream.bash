_rstream_completion() {
    local line reply
    reply=$(_RSTREAM_COMPLETE=bash "$1" "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    if [[ $? == 3 ]]; then
        compopt -o default
        return
    fi
    COMPREPLY=()
    while IFS= read -r line; do
        [[ -n $line ]] && COMPREPLY+=("$line")
    done <<<"$reply"
}

complete -F _rstream_completion rstream
