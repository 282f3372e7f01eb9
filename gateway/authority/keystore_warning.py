"""The text that tells where a weak key store is in use. Standard library only, for the CLI."""

FILE_WARNING = (
    "no OS keyring here: the workspace's key is a file that only you can read;"
    " whoever copies your files can test guesses of masked values, and forge grants and the log"
)
