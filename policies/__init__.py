"""The decision engine (pure), its models, the shipped default policy and the rule packs."""
