#compdef rstream

_rstream() {
    local reply
    local -a lines
    reply=$(_RSTREAM_COMPLETE=zsh "${words[1]}" "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    if (( $? == 3 )); then
        compset -P '--*='
        _files
        return
    fi
    [[ -n $reply ]] || return 1
    lines=("${(@f)reply}")
    _describe rstream lines
}

if [[ $funcstack[1] == _rstream ]]; then
    _rstream "$@"
else
    compdef _rstream rstream
fi
