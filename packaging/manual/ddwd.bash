# Completion of ddwd and ddwd-top for bash. Made by "make manual"; do not edit.

_ddwd_studies() {
    grep -o '"study_uid": "[0-9.]*"' /run/ddwd/extractor/status.json 2>/dev/null | cut -d '"' -f 4 | sort -u
}

_ddwd_quarantined() {
    ddwd quarantine list 2>/dev/null | sed -n 's/^\([0-9a-f]\{8,\}\) .*/\1/p'
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
    case "${COMP_WORDS[*]:1:COMP_CWORD-1} " in
    'quarantine ')
        local words="list show release --help"
        _ddwd_words "$words"
        ;;
    'routes ')
        local words="list test --help"
        _ddwd_words "$words"
        ;;
    'destinations ')
        local words="list retry --help"
        _ddwd_words "$words"
        ;;
    'hooks ')
        local words="list retry drop --help"
        _ddwd_words "$words"
        ;;
    'tls ')
        local words="init show issue --help"
        _ddwd_words "$words"
        ;;
    'status '*)
        local words="--help --watch --json --utc"
        _ddwd_words "$words"
        ;;
    'doctor '*)
        local words="--help --send --hourly --within --json --utc"
        _ddwd_words "$words"
        ;;
    'studies '*)
        local words="--help --patient --accession --uid --modality --description --sender --route --state --since --until --limit --show-patients --stats --csv --json --utc"
        _ddwd_words "$words"
        ;;
    'trace '*)
        local words="--help --watch --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    'logs '*)
        local words="ddwd folders provision databases firewall gateway acceptor storage scp extractor signer monitor inbox hooks commitment courier tls@storage tls@web-gateway tls@web-storage tls@link doctor --help --follow --lines --json --utc"
        _ddwd_words "$words"
        ;;
    'verify '*)
        local words="--help --patient --all --storage --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    'prove '*)
        local words="--help --output --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    'reconcile '*)
        local words="--help --patient --dry-run --accept --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    'retry '*)
        local words="--help --patient --gone --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    'retention '*)
        local words="--help --dry-run --now --json --utc"
        _ddwd_words "$words"
        ;;
    'pause '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'resume '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'quarantine list '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'quarantine show '*)
        local words="--help --show-patients --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_quarantined)"
        _ddwd_words "$words"
        ;;
    'quarantine release '*)
        local words="--help --all --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_quarantined)"
        _ddwd_words "$words"
        ;;
    'routes list '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'routes test '*)
        local words="--help --aet --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    'destinations list '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'destinations retry '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'hooks list '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'hooks retry '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'hooks drop '*)
        local words="--help --json --utc"
        [[ $cur == -* ]] || words="$words $(_ddwd_studies)"
        _ddwd_words "$words"
        ;;
    'echo '*)
        local words="gateway storage scp --help --calling --timeout --tls --json --utc"
        _ddwd_words "$words"
        ;;
    'send '*)
        local words="--help --host --port --aet --calling --tls --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    'alert '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'credentials '*)
        local words="show rotate --help --yes --json --utc"
        _ddwd_words "$words"
        ;;
    'tls init '*)
        local words="--help --renew --json --utc"
        _ddwd_words "$words"
        ;;
    'tls show '*)
        local words="--help --json --utc"
        _ddwd_words "$words"
        ;;
    'tls issue '*)
        local words="--help --into --json --utc"
        _ddwd_words "$words"
        ;;
    'link '*)
        local words="--help --roles --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    'config '*)
        local words="check show --help --json --utc"
        _ddwd_words "$words"
        ;;
    'support-bundle '*)
        local words="--help --output --json --utc"
        _ddwd_words "$words"
        ;;
    'backup '*)
        local words="--help --with-output --without-images --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    'restore '*)
        local words="--help --dry-run --key --unsigned --replace --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    'try '*)
        local words="--help --port-base --json --utc"
        if [[ $cur == -* ]]; then _ddwd_words "$words"; else _ddwd_paths; fi
        ;;
    ' ')
        local words="status doctor studies trace logs verify prove reconcile retry retention pause resume quarantine routes destinations hooks echo send alert credentials tls link config support-bundle backup restore try --help --version"
        _ddwd_words "$words"
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
