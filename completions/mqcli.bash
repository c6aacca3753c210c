# bash completion for mqcli, printed by: mqcli --show-completion bash
_mqcli() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(_MQCLI_COMPLETE=bash _MQCLI_LINE="$COMP_LINE" _MQCLI_POINT="$COMP_POINT" \
        _MQCLI_BREAKS="$COMP_WORDBREAKS" "$1" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/:=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o default -F _mqcli mqcli
