"""How changes reach their sources: what lands together, by which steps, and what is written down
before, so that a commit is whole or not at all."""
