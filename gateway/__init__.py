"""Who may do what: keys, tokens, grants, consent, audit, review and commit, daemon, CLI."""
