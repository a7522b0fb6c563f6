"""The scripts by which shells ask what may stand at the cursor: see ``completing``."""

from __future__ import annotations

# $2 is what bash will replace: what is behind the last of the break characters, which COMP_WORDS has as words.
_BASH = """\
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
"""

_ZSH = """\
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
"""

_FISH = """\
function __rstream_complete
    set -l tokens (commandline -opc) (commandline -ct)
    set -l reply (_RSTREAM_COMPLETE=fish command $tokens[1] $tokens[2..-1] 2>/dev/null)
    if test $status -eq 3
        set -l before (string match -r -- '^--[^=]*=' $tokens[-1]; or echo)
        for path in (__fish_complete_path (string replace -- "$before" '' $tokens[-1]))
            echo -- $before$path
        end
    else
        printf '%s\\n' $reply
    end
end

complete -c rstream -f -a '(__rstream_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""By the shell."""
