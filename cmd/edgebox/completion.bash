# bash completion for edgebox

_edgebox() {
	local line=${COMP_LINE:0:COMP_POINT} words current out directive candidate
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	current=${words[${#words[@]} - 1]}

	out=$'\n'$(command "${words[0]}" __complete "${words[@]:1}" 2>/dev/null) || return
	directive=${out##*$'\n':}
	out=${out%$'\n':*}

	# readline replaces only what follows the last : or =
	local before=${current%"${current##*[:=]}"}
	COMPREPLY=()
	while IFS=$'\t' read -r candidate _; do
		[[ -n $candidate ]] && COMPREPLY+=("${candidate#"$before"}")
	done <<<"$out"

	((directive & 2)) && compopt -o nospace
	((directive & 4)) || compopt -o default
	return 0
}

complete -F _edgebox edgebox
