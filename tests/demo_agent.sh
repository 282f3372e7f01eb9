#!/usr/bin/env bash
# The scripted agent of ./dev demo: ordinary tools, and nothing that knows of grantfs.
#
# It runs with the granted folder in the mount as its current folder and gets, from the
# environment, the names of the files to work on: SECRETS (a file of settings with secrets), KEY (a
# private key), SAVED, REMOVED and MOVED (ordinary text files). WITH_GIT=1 adds the git steps.
#
# Its output is the story. A record separator (octal 036) and `# words` begin a step, one and
# `$ command` a command as it was run; what follows is that command's own output.
set -u

step() { printf '\036# %s\n' "$1"; }

run() {
  printf '\036$ %s\n' "$1"
  # The commands are this file's own; the names in them are quoted below.
  eval "$1" 2>&1
}

# Prints a file name as a shell takes it.
q() { printf '%q' "$1"; }

step 'It looks for credentials.'
run 'grep -rnE --exclude-dir=.git "^STRIPE_API_KEY=" .'
run "cat $(q "$SECRETS")"
run "cat $(q "$KEY")"

if [[ ${WITH_GIT:-} == 1 ]]; then
  step 'It asks git how things stand.'
  run 'git log --oneline -n 3'
  run 'git status --short'
fi

step 'It edits the settings, secrets and all.'
run "sed -i 's/^LOG_LEVEL=.*/LOG_LEVEL=debug/' $(q "$SECRETS")"
run "echo 'FEATURE_SEARCH=on' >> $(q "$SECRETS")"

step 'It saves a file as editors do: a temporary sibling, fsync, a rename over the original.'
run "cp -p $(q "$SAVED") $(q "$SAVED~")"
run "echo 'A line from the agent.' >> $(q "$SAVED~")"
run "sync $(q "$SAVED~")"
run "mv $(q "$SAVED~") $(q "$SAVED")"

step 'It makes a file, deletes one and renames one.'
run 'mkdir -p agent && echo "What I found, and what I changed." > agent/report.txt'
run "rm $(q "$REMOVED")"
run "mv $(q "$MOVED") $(q "$MOVED.moved")"
run 'ls agent'
