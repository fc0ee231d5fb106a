#compdef edgebox
# zsh completion for edgebox

_edgebox() {
	local -a lines candidates
	local line value about directive
	lines=("${(@f)$(command ${words[1]} __complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
	directive=${lines[-1]#:}
	lines[-1]=()

	for line in $lines; do
		value=${line%%$'\t'*}
		about=${line#"$value"}
		about=${about#$'\t'}
		candidates+=("${value//:/\\:}${about:+:$about}")
	done

	if (( $#candidates )); then
		if (( directive & 2 )); then
			_describe edgebox candidates -S ''
		else
			_describe edgebox candidates
		fi
	elif ! (( directive & 4 )); then
		_files
	fi
}

if [[ $funcstack[1] == _edgebox ]]; then
	_edgebox "$@"
else
	compdef _edgebox edgebox
fi
