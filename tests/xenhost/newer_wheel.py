"""python3 newer_wheel.py xenpv-1.2-TAGS.whl makes of it xenpv-1.2.post1-TAGS.whl, in its place: a version to upgrade to."""

import sys
import zipfile
from pathlib import Path

old = Path(sys.argv[1])
name, version, tags = old.name.split("-", 2)
new = old.with_name(f"{name}-{version}.post1-{tags}")
with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w", zipfile.ZIP_DEFLATED) as target:
    for item in source.namelist():
        content = source.read(item)
        if item.endswith(("/METADATA", "/RECORD")):
            for text in ("\nVersion: {}\n", "{}.dist-info/"):
                content = content.replace(text.format(version).encode(), text.format(f"{version}.post1").encode())
        target.writestr(item.replace(f"{version}.dist-info/", f"{version}.post1.dist-info/"), content)
old.unlink()
