"""A wheel made by hand."""

import base64
import hashlib
import zipfile
from pathlib import Path


def tiny_wheel(folder: Path) -> Path:
    """A module, data in a folder, a script; the wheel's path."""
    files = {
        "tiny/__init__.py": b"def main():\n    print('tiny works')\n",
        "tiny/data/table.csv": b"a,b\n" * 1000,
        "tiny-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
        "tiny-1.0.dist-info/entry_points.txt": b"[console_scripts]\ntiny = tiny:main\n",
    }
    record = "".join(
        f"{name},sha256="
        + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        + f",{len(data)}\n"
        for name, data in files.items()
    )
    files["tiny-1.0.dist-info/RECORD"] = (record + "tiny-1.0.dist-info/RECORD,,\n").encode()
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packing:
        for name, data in files.items():
            packing.writestr(name, data)
    return path
