"""The vfs core served through mfusepy: WinFsp on Windows, libfuse3 on Linux."""
