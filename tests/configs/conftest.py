"""Scripts among the cases are data: they are read, never run."""

collect_ignore_glob = ["cases/*"]
