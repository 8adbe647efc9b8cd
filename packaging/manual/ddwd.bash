# Completion of ddwd and ddwd-top for bash. Made by "make manual"; do not edit.

# Studies in flight and just finished, from the extractor's status.
_ddwd_studies() {
    sed -n 's/.*"study_uid": "\([0-9.]*\)".*/\1/p' /run/ddwd/extractor/status.json 2>/dev/null
}

_ddwd_quarantined() {
    ddwd quarantine list 2>/dev/null | sed -n 's/^\([0-9a-f]\{32\}\) .*/\1/p'
}

_ddwd_words() {
    local word
    COMPREPLY=()
    for word in $1; do
        if [[ $word == "$cur"* ]]; then COMPREPLY+=("$word"); fi
    done
}

_ddwd_paths() {
    local word
    COMPREPLY=()
    while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
}

_ddwd() {
    local cur="${COMP_WORDS[COMP_CWORD]}"
    if ((COMP_CWORD == 1)); then
        _ddwd_words "--help --version status doctor studies trace logs verify prove reconcile retry retention pause resume quarantine routes destinations hooks echo send alert credentials tls link config support-bundle backup restore try"
        return
    fi
    case "${COMP_WORDS[1]}" in
    status)
        local words="--help --watch --json --utc"
        _ddwd_words "$words"
        ;;
    doctor)
        local words="--help --send --hourly --within --json --utc"
        _ddwd_words "$words"
        ;;
    studies)
        local words="--help --patient --accession --uid --modality --description --sender --route --state --since --until --limit --show-patients --stats --csv --json --utc"
        _ddwd_words "$words"
        ;;
    trace)
        local words="--help --watch --json --utc"
        [[ $cur == -* ]] || words="$(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    logs)
        local words="--help --follow --lines --json --utc"
        _ddwd_words "$words"
        ;;
    verify)
        local words="--help --patient --all --storage --json --utc"
        [[ $cur == -* ]] || words="$(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    prove)
        local words="--help --output --json --utc"
        [[ $cur == -* ]] || words="$(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    reconcile)
        local words="--help --patient --dry-run --accept --json --utc"
        [[ $cur == -* ]] || words="$(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    retry)
        local words="--help --patient --gone --json --utc"
        [[ $cur == -* ]] || words="$(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    retention)
        local words="--help --dry-run --now --json --utc"
        _ddwd_words "$words"
        ;;
    pause)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    resume)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    quarantine)
        local words="--help"
        case "${COMP_WORDS[2]-}:$COMP_CWORD" in
        list:[3-9]) words="--help --json --utc" ;;
        show:[3-9]) words="--help --show-patients --json --utc $(_ddwd_quarantined)" ;;
        release:[3-9]) words="--help --all --json --utc $(_ddwd_quarantined)" ;;
        *) words="--help list show release" ;;
        esac
        _ddwd_words "$words"
        ;;
    routes)
        local words="--help"
        case "${COMP_WORDS[2]-}:$COMP_CWORD" in
        list:[3-9]) words="--help --json --utc" ;;
        test:[3-9]) words="--help --aet --json --utc" ;;
        *) words="--help list test" ;;
        esac
        _ddwd_words "$words"
        ;;
    destinations)
        local words="--help"
        case "${COMP_WORDS[2]-}:$COMP_CWORD" in
        list:[3-9]) words="--help --json --utc" ;;
        retry:[3-9]) words="--help --json --utc" ;;
        *) words="--help list retry" ;;
        esac
        _ddwd_words "$words"
        ;;
    hooks)
        local words="--help"
        case "${COMP_WORDS[2]-}:$COMP_CWORD" in
        list:[3-9]) words="--help --json --utc" ;;
        retry:[3-9]) words="--help --json --utc" ;;
        drop:[3-9]) words="--help --json --utc" ;;
        *) words="--help list retry drop" ;;
        esac
        _ddwd_words "$words"
        ;;
    echo)
        local words="--help --calling --timeout --tls --json --utc"
        _ddwd_words "$words"
        ;;
    send)
        local words="--help --host --port --aet --calling --tls --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    alert)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    credentials)
        local words="show rotate --help --yes --json --utc"
        _ddwd_words "$words"
        ;;
    tls)
        local words="--help"
        case "${COMP_WORDS[2]-}:$COMP_CWORD" in
        init:[3-9]) words="--help --renew --json --utc" ;;
        show:[3-9]) words="--help --json --utc" ;;
        issue:[3-9]) words="--help --into --json --utc" ;;
        *) words="--help init show issue" ;;
        esac
        _ddwd_words "$words"
        ;;
    link)
        local words="--help --roles --json --utc"
        _ddwd_words "$words"
        ;;
    config)
        local words="check show --help --json --utc"
        _ddwd_words "$words"
        ;;
    support-bundle)
        local words="--help --output --json --utc"
        _ddwd_words "$words"
        ;;
    backup)
        local words="--help --with-output --without-images --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    restore)
        local words="--help --dry-run --key --unsigned --replace --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    try)
        local words="--help --port-base --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    *) COMPREPLY=() ;;
    esac
}

_ddwd_top() {
    local cur="${COMP_WORDS[COMP_CWORD]}"
    _ddwd_words "--help --version --utc --once --json"
}

complete -F _ddwd ddwd
complete -F _ddwd_top ddwd-top
