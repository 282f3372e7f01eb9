"""The policy decision engine: pure, and usable without a mount, a daemon or a grant.

`paths` and `hosts` say what a pattern matches, `model` what a policy file may contain, `parse`
turns bytes into such a document or one clear error, `engine` decides, `loader` reads the folders
and keeps the last good policy. `default.json` is the built-in layer; `packs/` holds the redaction
rules, as data.

Nothing here imports `vfs` or `gateway`.
"""
