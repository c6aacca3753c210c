"""Shell completion: Click's machinery, with scripts of our own.

Typer's zsh classes render help through rich, and evaluate what they print; here nothing is
evaluated and no rich is loaded. The scripts hand over the words and get one completion a line,
``VALUE`` or ``VALUE<tab>HELP``; where there is none, the shell completes names of files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from ..errors import UsageError
from .app import program
from .env import Env

__all__ = ["SCRIPTS", "complete", "script"]

# COMP_LINE and not COMP_WORDS, which bash cuts at every colon of an address.
_BASH = """\
# bash completion for mqcli, printed by: mqcli --show-completion bash
_mqcli() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        COMPREPLY+=("$line")
    done < <(_MQCLI_COMPLETE=bash _MQCLI_LINE="$COMP_LINE" _MQCLI_POINT="$COMP_POINT" \\
        _MQCLI_BREAKS="$COMP_WORDBREAKS" "$1" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/:=] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o default -F _mqcli mqcli
"""

_ZSH = """\
#compdef mqcli
# zsh completion for mqcli, printed by: mqcli --show-completion zsh
_mqcli() {
    local line value
    local -a closed open
    for line in "${(@f)$(_MQCLI_COMPLETE=zsh $words[1] "${(@Q)words[1,CURRENT]}" 2>/dev/null)}"; do
        value=${line%%$'\\t'*}
        [[ -n $value ]] || continue
        # A colon in a value would end it.
        line=${value//:/\\\\:}${line#$value}
        line=${line/$'\\t'/:}
        if [[ $value == *[/:=] ]]; then
            open+=("$line")
        else
            closed+=("$line")
        fi
    done
    if (( ! $#closed && ! $#open )); then
        _files
        return
    fi
    (( $#closed )) && _describe -V mqcli closed
    (( $#open )) && _describe -V mqcli open -S ''
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _mqcli "$@"
else
    compdef _mqcli mqcli
fi
"""

_FISH = """\
# fish completion for mqcli, printed by: mqcli --show-completion fish
function __mqcli_complete
    set -l words (commandline -opc)
    set -l found (_MQCLI_COMPLETE=fish $words[1] $words (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete --command mqcli --no-files --keep-order --arguments '(__mqcli_complete)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """The completion script for a shell. Raises UsageError."""
    if shell not in SCRIPTS:
        raise UsageError(f"no completion for the shell {shell!r}", hint="bash, zsh or fish")
    return SCRIPTS[shell]


def complete(env: Env, words: list[str]) -> int:
    """Answer a request of one of the scripts; ``words`` are those of zsh and fish."""
    shell = env.variables["_MQCLI_COMPLETE"]
    if shell == "bash":
        words = _bash_words(env)
    *before, incomplete = words[1:] or [""]
    found = ShellComplete(program(), {"obj": env}, "mqcli", "_MQCLI_COMPLETE").get_completions(
        before, incomplete
    )
    lines = _trimmed(env, incomplete, found) if shell == "bash" else _described(found)
    env.write("".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))
    return 0


def _bash_words(env: Env) -> list[str]:
    line = os.fsencode(env.variables.get("_MQCLI_LINE", ""))
    typed = os.fsdecode(line[: int(env.variables.get("_MQCLI_POINT") or len(line))])
    words = split_arg_string(typed)
    if not typed or typed[-1].isspace():
        words.append("")
    return words


def _trimmed(env: Env, incomplete: str, found: list[CompletionItem]) -> Iterator[str]:
    """Without what stands before the last word break: readline keeps that as it is."""
    breaks = env.variables.get("_MQCLI_BREAKS", "")
    start = max((incomplete.rfind(char) for char in breaks), default=-1) + 1
    for item in found:
        value = str(item.value)
        yield value[start:] if value.startswith(incomplete[:start]) else value


def _described(found: list[CompletionItem]) -> Iterator[str]:
    for item in found:
        help = " ".join((item.help or "").split())
        yield f"{item.value}\t{help}" if help else str(item.value)
