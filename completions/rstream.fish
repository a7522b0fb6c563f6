function __rstream_complete
    set -l tokens (commandline -opc) (commandline -ct)
    set -l reply (_RSTREAM_COMPLETE=fish command $tokens[1] $tokens[2..-1] 2>/dev/null)
    if test $status -eq 3
        set -l before (string match -r -- '^--[^=]*=' $tokens[-1]; or echo)
        for path in (__fish_complete_path (string replace -- "$before" '' $tokens[-1]))
            echo -- $before$path
        end
    else
        printf '%s\n' $reply
    end
end

complete -c rstream -f -a '(__rstream_complete)'
