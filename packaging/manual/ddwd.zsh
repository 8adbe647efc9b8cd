#compdef ddwd ddwd-top
# Completion of ddwd and ddwd-top for zsh. Made by "make manual"; do not edit.

_ddwd_studies() {
    local -a found=(${(f)"$(grep -o '"study_uid": "[0-9.]*"' /run/ddwd/extractor/status.json 2>/dev/null | cut -d '"' -f 4 | sort -u)"})
    compadd -a found
}

_ddwd_quarantined() {
    local -a found=(${(f)"$(ddwd quarantine list 2>/dev/null | sed -n 's/^\([0-9a-f]\{8,\}\) .*/\1/p')"})
    compadd -a found
}

_ddwd() {
    local -a offered
    if [[ $service == ddwd-top ]]; then
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--version[show program'\''s version number and exit]' \
            '--utc[show times in UTC, not in local time]' \
            '--once[print it once as text, and exit]' \
            '--json[print it once as one JSON object, and exit]'
        return
    fi
    if ((CURRENT == 2)); then
        offered=(
            'status:is the portal well: units, Orthancs, studies, disks'
            'doctor:check every part and say what to do'
            'studies:list the studies, newest first, or their totals'
            'trace:show one study over all hops, and why it is not complete'
            'logs:show the logs of the portal'\''s parts, merged'
            'verify:compare published images with their custody records, and these with the chain'
            'prove:write a file that proves, without the portal, that a study'\''s images are as received'
            'reconcile:compare both Orthancs and the disk, and transfer what is missing'
            'retry:process a study now: what is missing is retrieved again'
            'retention:show what is removed when, what the last round removed, and what stays'
            'pause:stop retrieving studies to the disk'
            'resume:go on retrieving'
            'quarantine:list, show or release what could not be delivered'
            'routes:list the routes, or show which of them matches a file'
            'destinations:list what waits for other destinations, or try it again'
            'hooks:list the studies that wait for the hook of their route, retry or drop them'
            'echo:ask DICOM nodes for a C-ECHO'
            'send:send DICOM files or folders to the gateway by C-STORE'
            'alert:send a test alert by mail and webhook'
            'credentials:show the logins of the web pages, or replace their passwords'
            'tls:make and show the certificates of encrypted hops'
            'link:make what another machine of the portal needs'
            'config:check or show the settings'
            'support-bundle:collect what support needs in one file, without patients and secrets'
            'backup:copy all that a new machine needs into a folder'
            'restore:restore a backup onto this machine'
            'try:run the whole portal in one folder, until Ctrl-C'
        )
        _describe -t commands command offered
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--version[show program'\''s version number and exit]'
        return
    fi
    shift words
    ((CURRENT--))
    case $words[1] in
    status)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--watch[show it again every so many seconds (2), until Ctrl-C]:SECONDS: ' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    doctor)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--send[send a test study through all hops instead of the checks]' \
            '--hourly[with --send\: only where self_test.hourly is on]' \
            '--within[with --send, after a start\: wait until every hop answers; wait and test take at most so long]:SECONDS: ' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    studies)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--patient[of this PatientID]:ID:_ddwd_quarantined' \
            '--accession[of this accession number]:NUMBER: ' \
            '--uid[of this StudyInstanceUID]:UID: ' \
            '--modality[with a series of this modality]:NAME: ' \
            '--description[with this text in the StudyDescription, in any case]:TEXT: ' \
            '--sender[from this calling AE title]:AE: ' \
            '--route[of this route]:NAME: ' \
            '--state[in-flight, complete, set-aside, removed, not-extracted, damaged]:STATE:(in-flight complete set-aside removed not-extracted damaged)' \
            '--since[2026-01-31, '\''2026-01-31 18\:00'\'', or how long ago\: 30min, 2h, 3d, 1w]:TIME: ' \
            '--until[before this time, in the same form]:TIME: ' \
            '--limit[the newest N, 0 for all (default\: 50; with --json and --csv all)]:N: ' \
            '--show-patients[show PatientIDs and folders in full]' \
            '--stats[show totals by day and modality instead]' \
            '--csv[print the result as CSV, with times in UTC]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    trace)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--watch[show it again until the study is complete]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:STUDY:_ddwd_studies'
        ;;
    logs)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '(--follow -f)--follow[show new lines as they come, until Ctrl-C]' \
            '(--follow -f)-f[show new lines as they come, until Ctrl-C]' \
            '(--lines -n)--lines[the last N lines (default\: 50)]:N: ' \
            '(--lines -n)-n[the last N lines (default\: 50)]:N: ' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:PART:(ddwd folders provision databases firewall gateway acceptor storage scp extractor signer monitor inbox hooks commitment courier tls@storage tls@web-gateway tls@web-storage tls@link doctor)'
        ;;
    verify)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--patient[every study of this PatientID]:ID:_ddwd_quarantined' \
            '--all[every study that was ever published]' \
            '--storage[compare each image with ORTHANC2'\''s copy too]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:STUDY:_ddwd_studies'
        ;;
    prove)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '(-o --output)-o[where to write it; a file, or a folder (default\: the current one)]:FILE:_files' \
            '(-o --output)--output[where to write it; a file, or a folder (default\: the current one)]:FILE:_files' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:STUDY:_ddwd_studies'
        ;;
    reconcile)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--patient[every study of this PatientID]:ID:_ddwd_quarantined' \
            '--dry-run[only show the difference, hop by hop]' \
            '--accept[images of it that are missing on an Orthanc were removed on purpose\: no problem any longer]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:STUDY:_ddwd_studies'
        ;;
    retry)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--patient[every study of this PatientID]:ID:_ddwd_quarantined' \
            '--gone[every study with a missing published file]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:STUDY:_ddwd_studies'
        ;;
    retention)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--dry-run[show what would be removed now, and what not]' \
            '--now[ask the extractor to start a round at once]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    pause)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    resume)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    quarantine)
        if ((CURRENT == 2)); then
            offered=(
                'list:list the entries, oldest first'
                'show:show all of one entry, and how it differs from the published image'
                'release:try an entry again, or remove it from the list'
            )
            _describe -t commands command offered
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]'
            return
        fi
        shift words
        ((CURRENT--))
        case $words[1] in
        list)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        show)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--show-patients[show values that may name a person]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]' \
                '*:ID:_ddwd_quarantined'
            ;;
        release)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--all[every entry]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]' \
                '*:ID:_ddwd_quarantined'
            ;;
        esac
        ;;
    routes)
        if ((CURRENT == 2)); then
            offered=(
                'list:list the routes in their order, and what each does'
                'test:show which route matches a file, and why'
            )
            _describe -t commands command offered
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]'
            return
        fi
        shift words
        ((CURRENT--))
        case $words[1] in
        list)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        test)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--aet[AE title it would come from (default\: that of ddwd send)]:AET: ' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]' \
                '*:FILE:_files'
            ;;
        esac
        ;;
    destinations)
        if ((CURRENT == 2)); then
            offered=(
                'list:show each destination, with its backlog'
                'retry:try all of them, and all that waits, now'
            )
            _describe -t commands command offered
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]'
            return
        fi
        shift words
        ((CURRENT--))
        case $words[1] in
        list)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        retry)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        esac
        ;;
    hooks)
        if ((CURRENT == 2)); then
            offered=(
                'list:list the studies whose hook has not succeeded yet'
                'retry:try all of them now'
                'drop:drop one study: its hook is not called'
            )
            _describe -t commands command offered
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]'
            return
        fi
        shift words
        ((CURRENT--))
        case $words[1] in
        list)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        retry)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        drop)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]' \
                '*:STUDY:_ddwd_studies'
            ;;
        esac
        ;;
    echo)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--calling[calling AE title (default\: DDWD_SEND)]:CALLING: ' \
            '--timeout[how long to wait for each step (default\: 5.0)]:SECONDS: ' \
            '--tls[ask an AE@HOST\:PORT by TLS, with the operator'\''s certificate]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:NODE:(gateway storage scp)'
        ;;
    send)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--host[where to send (default\: this machine)]:HOST: ' \
            '--port[DICOM port (default\: the gateway'\''s)]:PORT: ' \
            '--aet[called AE title (default\: the gateway'\''s)]:AET: ' \
            '--calling[calling AE title (default\: DDWD_SEND)]:CALLING: ' \
            '--tls[send by TLS, with the operator'\''s certificate]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:PATH:_files'
        ;;
    alert)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    credentials)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--yes[with rotate\: restart without a question]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:ACTION:(show rotate)'
        ;;
    tls)
        if ((CURRENT == 2)); then
            offered=(
                'init:make every authority and certificate that is missing'
                'show:show each certificate, who signed it, and when it expires'
                'issue:make a certificate and key for a modality'
            )
            _describe -t commands command offered
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]'
            return
        fi
        shift words
        ((CURRENT--))
        case $words[1] in
        init)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--renew[make this one again\: gateway, storage, scp, extractor, operator; may be given more than once]:NAME:(gateway storage scp extractor operator)' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        show)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]'
            ;;
        issue)
            _arguments -S : \
                '(-h --help)-h[show this help message and exit]' \
                '(-h --help)--help[show this help message and exit]' \
                '--into[write them to this folder instead]:FOLDER:_files' \
                '--json[print the result as JSON, with times in UTC]' \
                '--utc[show times in UTC, not in local time]' \
                '*:NAME: '
            ;;
        esac
        ;;
    link)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--roles[the roles of the other machine\: some of gateway, storage, extractor, separated by commas]:ROLES: ' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:FOLDER:_files'
        ;;
    config)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:ACTION:(check show)'
        ;;
    support-bundle)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--output[a new file, or the folder for it (default\: the current folder)]:PATH:_files' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]'
        ;;
    backup)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--with-output[copy the published files too]' \
            '--without-images[do not copy the files of the Orthancs\: you make snapshots of them]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:DIR:_files'
        ;;
    restore)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--dry-run[only check the backup and this machine]' \
            '--key[the public key of the machine that made it]:FILE:_files' \
            '--unsigned[take a backup whose signature does not hold, or that has none]' \
            '--replace[remove what this machine holds]' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:DIR:_files'
        ;;
    try)
        _arguments -S : \
            '(-h --help)-h[show this help message and exit]' \
            '(-h --help)--help[show this help message and exit]' \
            '--port-base[use ports N to N+4 (default\: free ones)]:N: ' \
            '--json[print the result as JSON, with times in UTC]' \
            '--utc[show times in UTC, not in local time]' \
            '*:DIR:_files'
        ;;
    esac
}

_ddwd "$@"
