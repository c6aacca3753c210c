# fish completion for mqcli, printed by: mqcli --show-completion fish
function __mqcli_complete
    set -l words (commandline -opc)
    set -l found (_MQCLI_COMPLETE=fish $words[1] $words (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command mqcli --no-files --keep-order --arguments '(__mqcli_complete)'
