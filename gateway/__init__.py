"""Who may do what: keys, tokens, grants, consent, audit, review, commit, daemon and command line."""
