# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Completion of ntfsmap(8) for bash. It runs no ntfsmap and needs no root: open names come from sysfs, volumes from
# lsblk. The words below repeat verbs[] and option_helps[] of main.c, and safety_words[] of safety.c.

# The options of a verb; all of them while there is no verb.
_ntfsmap_options() {
	local all='--quiet --debug --help --version'
	case $1 in
	table) echo "--readonly --format --allow --concise --parent --data --snapshot --static --quick $all" ;;
	open) echo "--readonly --format --allow --parent --data --snapshot --overlay --static --partitions --test --quick $all" ;;
	close) echo "--deferred $all" ;;
	merge | reload) echo "--allow --quick $all" ;;
	list | log | status) echo "--json $all" ;;
	verify) echo "--allow --json $all" ;;
	info | map) echo "--format --json --parent --data --snapshot $all" ;;
	cat) echo "--format --parent --data --snapshot $all" ;;
	check) echo "--readonly --format --allow --json --parent --data --snapshot --repair --repair=leaks --quick $all" ;;
	up) echo "--tab --device --initrd $all" ;;
	down) echo "--tab --device $all" ;;
	cmdline) echo "--tab $all" ;;
	host | reserve | revert) echo "$all" ;;
	*) echo "--readonly --format --allow --concise --parent --data --snapshot --overlay --static --partitions --repair --test --deferred --quick --tab --device --initrd --json $all" ;;
	esac
}

# The names of open mappings.
_ntfsmap_names() {
	local dir name uuid
	for dir in /sys/class/block/dm-*/dm; do
		{ read -r uuid <"$dir/uuid" && read -r name <"$dir/name"; } 2>/dev/null || continue
		[[ $uuid != NTFSMAP-* ]] || printf '%s\n' "$name"
	done
}

# The names in /etc/ntfsmaptab, or in the file that --tab gave.
_ntfsmap_entries() {
	awk '$1 !~ /^#/ && NF > 1 { print $1 }' "${1:-/etc/ntfsmaptab}" 2>/dev/null
}

# Column $1 of lsblk for each NTFS volume. The type of a mapping of ours is the beginning of its UUID.
_ntfsmap_volumes() {
	local format type value
	while read -r format type value; do
		[[ $format != ntfs || $type == [Nn][Tt][Ff][Ss]* ]] || printf '%q\n' "$(printf %b "$value")"
	done < <(lsblk -rno "FSTYPE,TYPE,$1" 2>/dev/null)
}

# The words that can begin or continue a SOURCE, a line each, apart from files.
_ntfsmap_sources() {
	local tag=${1%%=*}
	case $1 in
	*:/* | *:\\*) ;; # the path on the volume: only root could read it
	UUID=* | LABEL=* | PARTUUID=* | PARTLABEL=*) _ntfsmap_volumes "$tag" | sed -n "s|.\{1,\}|$tag=&:/|p" ;;
	*)
		printf '%s\n' UUID= LABEL= PARTUUID= PARTLABEL=
		_ntfsmap_volumes PATH | sed 's|$|:/|'
		;;
	esac
}

# Set COMPREPLY to those of the lines in $2 that begin with $1.
_ntfsmap_choose() {
	local line
	COMPREPLY=()
	while IFS= read -r line; do
		[[ -z $line || $line != "$1"* ]] || COMPREPLY+=("$line")
	done <<<"$2"
}

_ntfsmap_source() {
	_ntfsmap_choose "$1" "$(_ntfsmap_sources "$1")"
	if [ ${#COMPREPLY[@]} -gt 0 ]; then
		compopt -o nospace 2>/dev/null
	elif [[ $1 != *[:=]* ]]; then
		mapfile -t COMPREPLY < <(compgen -f -- "$1")
		compopt -o filenames 2>/dev/null
	fi
}

# The argument number $2 (from 1) of verb $1, which begins with $3. $4: --concise was given. $5: the file of --tab.
_ntfsmap_argument() {
	case $1.$2$4 in
	open.1 | info.1 | map.1 | cat.1 | check.1 | log.1 | table.1 | table.2concise) _ntfsmap_source "$3" ;;
	status.1 | merge.1 | revert.1 | reload.1 | verify.1 | close.*) _ntfsmap_choose "$3" "$(_ntfsmap_names)" ;;
	up.* | down.*) _ntfsmap_choose "$3" "$(_ntfsmap_entries "$5")" ;;
	cmdline.1) _ntfsmap_choose "$3" "$(_ntfsmap_entries "$5" && _ntfsmap_names)" ;;
	reserve.1) # only files on mounted file systems
		mapfile -t COMPREPLY < <(compgen -f -- "$3")
		compopt -o filenames 2>/dev/null
		;;
	reserve.2) _ntfsmap_choose "$3" all ;;
	host.1) _ntfsmap_choose "$3" "$(_ntfsmap_volumes PATH)" ;;
	esac
}

# Readline cuts words at ':' and '=', which are parts of ours: put them together again in $words.
_ntfsmap_join() {
	local i join=
	words=()
	for ((i = 0; i <= COMP_CWORD; i++)); do
		if [[ ${#words[@]} -gt 1 && (-n $join || ${COMP_WORDS[i]} =~ ^[:=]+$) ]]; then
			words[${#words[@]} - 1]+=${COMP_WORDS[i]}
		else
			words+=("${COMP_WORDS[i]}")
		fi
		[[ ${COMP_WORDS[i]} =~ ^[:=]+$ ]] && join=yes || join=
	done
}

# Take away what readline keeps of the word before the part that it replaces.
_ntfsmap_cut() {
	local word=$1 part=${COMP_WORDS[COMP_CWORD]} i
	[[ ! $part =~ ^[:=]+$ ]] || part=
	for i in "${!COMPREPLY[@]}"; do
		COMPREPLY[i]=${COMPREPLY[i]:$((${#word} - ${#part}))}
	done
}

_ntfsmap() {
	local verbs='table open close merge revert reload list status info map cat check log reserve verify host up down cmdline'
	local formats=$'raw\nvhd\nqcow\nqcow2' allowed=$'hiberfile\ncloud\noffline\nreadonly-file\nvalid-data-length\npending-log'
	local words=() word cur before='' verb='' concise='' tab='' count=0 i
	COMPREPLY=()
	_ntfsmap_join
	cur=${words[-1]}
	for ((i = 1; i < ${#words[@]} - 1; i++)); do
		word=${words[i]}
		[ "$before" != --tab ] || tab=$word
		case $before/$word in
		-f/* | --format/* | --allow/* | --parent/* | --data/* | --snapshot/* | --overlay/* | --tab/* | --device/*) word='' ;; # the word of that option
		*/--concise) concise=concise ;;
		*/-*) ;;
		*)
			if [ -z "$verb" ] && [[ " $verbs " == *" $word "* ]]; then
				verb=$word
			else
				verb=${verb:-table}
				count=$((count + 1))
			fi
			;;
		esac
		before=$word
	done
	case $before/$cur in
	*/--format=*) _ntfsmap_choose "$cur" "--format=${formats//$'\n'/$'\n'--format=}" ;;
	*/--allow=*) _ntfsmap_choose "$cur" "--allow=${allowed//$'\n'/$'\n'--allow=}" ;;
	-f/* | --format/*) _ntfsmap_choose "$cur" "$formats" ;;
	--allow/*) _ntfsmap_choose "$cur" "$allowed" ;;
	--parent/* | --data/* | --overlay/*) _ntfsmap_source "$cur" ;;
	--snapshot/*) ;; # only root could read which there are
	--device/*) _ntfsmap_choose "$cur" "$(_ntfsmap_volumes PATH)" ;;
	--tab/*)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		compopt -o filenames 2>/dev/null
		;;
	*/-*) mapfile -t COMPREPLY < <(compgen -W "$(_ntfsmap_options "$verb")" -- "$cur") ;;
	*)
		[ -n "$verb" ] || mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur")
		[ ${#COMPREPLY[@]} -gt 0 ] || _ntfsmap_argument "${verb:-table}" $((count + 1)) "$cur" "$concise" "$tab"
		;;
	esac
	_ntfsmap_cut "$cur"
}

complete -F _ntfsmap ntfsmap
