#compdef rstream

_rstream_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _RSTREAM_COMPLETE=complete_zsh rstream)
}

compdef _rstream_completion rstream
