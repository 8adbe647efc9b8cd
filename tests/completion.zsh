# Prints what zsh offers, one line of words for each command line: zsh -f completion.zsh FILE LINE... FILE completes `ddwd` and `ddwd-top`.
# Completion works in an interactive shell alone, so there is one in a pseudo-terminal; it sources this file with CHILD=FILE.

if [[ -o interactive ]]; then
    PS1=
    autoload -Uz compinit
    compinit -u -D
    source $CHILD 2>/dev/null
    _ddwd_studies() { compadd 1.2.3 1.2.4 }
    _ddwd_quarantined() { compadd 0123456789abcdef }
    compdef _ddwd ddwd ddwd-top
    typeset -ga told_words
    compadd() {
        # -O, -A and -D only ask
        if (( ${@[(I)-(O|A|D)]} == 0 )); then
            local -a hits
            builtin compadd -A hits "$@"
            told_words+=($hits)
        fi
        builtin compadd "$@"
    }
    tell() {
        told_words=()
        zle complete-word
        print -r -- "OFFERED:${(j:|:)told_words}:NOW"
        BUFFER=
    }
    zle -N tell
    bindkey '^I' tell
    print READY:NOW
    return
fi

zmodload zsh/zpty
export CHILD=$1
zpty shell zsh -f -i
zpty -w shell "source ${(q)${(%):-%x}}"
while zpty -r shell said '*READY:NOW*'; do break; done
for line in "${@[2,-1]}"; do
    zpty -n -w shell "$line"$'\t'
    zpty -r shell said '*OFFERED:*:NOW*'
    said=${said#*OFFERED:}
    print -r -- ${(s:|:)${said%:NOW*}}
done
zpty -d shell
