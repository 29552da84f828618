"""Tasks: what is observed, rewarded and counted as success. One file and one YAML each."""
